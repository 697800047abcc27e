"""How results show themselves in a notebook."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from torch import Tensor

from .. import display

if TYPE_CHECKING:
    from .log import Results
    from .series import Series

__all__ = ["results", "series", "unit"]

_HEAD = (
    "measure", "stack", "unit", "layers × heads", "prefill", "decode steps", "mean",
    "strongest layer.head",
)  # fmt: skip
_UNITS = {"entropy": "nats", "distance": "tokens", "distance_signed": "tokens", "max": "share"}


def unit(key: str) -> str:
    """The unit of a measure, by its key; empty where the key does not tell."""
    return "share of attention" if key.startswith("mass:") else _UNITS.get(key, "")


def results(given: Results) -> str:
    """A table of what was measured; behind it a picture of each."""
    if not given:
        return f"<pre>{html.escape(repr(given))}</pre>"
    rows: list[tuple[str, ...]] = []
    pictures: list[str] = []
    for key in given:
        whole = given[key]
        for stack in whole.stacks:
            rows.append(_row(whole.stack(stack), stack))
        pictures.append(display.folded(key, series(whole), shown=not pictures))
    return display.lines(display.table(_HEAD, rows, words=3), *pictures)


def series(given: Series) -> str:
    """Pictures of one measure, stack by stack."""
    parts = []
    for name in [given.name] if given.name else given.stacks:
        measured = f", {unit(given.key)}" if unit(given.key) else ""
        parts.append(display.note(f"{given.key}{measured} · {name}"))
        parts.append(display.beside(*_pictures(given.stack(name))))
    return display.lines(*parts)


def _row(one: Series, stack: str) -> tuple[str, ...]:
    prefill, steps = _some(one, "prefill"), len(one.steps)
    size = "–" if prefill is None else " × ".join(map(str, prefill.shape[3:]))
    calls = one._calls()
    heads = max(c.value.shape[1] for records in calls.values() for c in records)
    found = (one.key, stack, unit(one.key), f"{len(one.layers)} × {heads}", size, str(steps))
    grid = _grid(one)
    if grid is None or not bool(grid.isfinite().any()):
        return (*found, "–", "–")
    strongest = int(grid.nan_to_num(float("-inf")).argmax())
    layer, head = divmod(strongest, grid.shape[1])
    mean = f"{float(grid.nanmean()):.3g}"
    return (*found, mean, f"{one.layers[layer]}.{head} ({float(grid[layer, head]):.3g})")


def _some(one: Series, phase: str) -> Tensor | None:
    """The phase's values, None where there are none."""
    if one.axis == "block" and phase == "decode":
        return None
    value = one._assemble(phase).detach()
    return value.float().cpu() if value.numel() else None


def _grid(one: Series) -> Tensor | None:
    """One number a head, ``[L, H]``: of the prefill, or of the decode steps if there is none."""
    if one.key.endswith(".indices") or one.axis not in ("query", "top"):
        return None  # positions; or what sums to the same in every head
    phase = "decode" if _some(one, "prefill") is None else "prefill"
    return one.mean(phase).detach().float().cpu()


def _pictures(one: Series) -> list[str]:
    prefill, decode = _some(one, "prefill"), _some(one, "decode")
    if one.key.endswith(".indices"):
        return [f"<pre>{html.escape(repr(one))}</pre>"]
    if one.axis == "block" and prefill is not None:
        blocks = prefill.nanmean((0, 1, 2))  # (n, n)
        labels, title = range(len(blocks)), "mean of all heads"
        return [display.heat(blocks, labels, title, row="query block", column="key block")]
    if one.axis in ("key", "row"):
        value = decode if prefill is None else prefill
        return [] if value is None else [_along_keys(one, value)]
    found, beside = [], []
    if (grid := _grid(one)) is not None:
        where = "decode" if prefill is None else "prefill"
        found.append(display.heat(grid, one.layers, f"mean over the {where}"))
        beside.append(display.note(_strongest(one, grid)))
    if decode is not None and decode.shape[3] > 1:
        over = [axis for axis in range(decode.ndim) if axis != 3]
        title = "by decode step, mean of all heads"
        beside.append(display.line(decode.nanmean(over), one.steps, title, along="step"))
    return [*found, "".join(beside)]


def _along_keys(one: Series, value: Tensor) -> str:
    """What each key got, the mean of all heads; of rows, the last one."""
    value = value[..., -1, :] if one.axis == "row" else value
    keys = value.nanmean((0, 1, 2))  # (Sk,)
    best = keys.nan_to_num(-1).topk(min(5, len(keys)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    most = "most at position " + ", ".join(f"{i} ({v:.3g})" for i, v in pairs)
    places = range(len(keys))
    title = ("last row " if one.axis == "row" else "") + "by key, mean of all heads"
    if len(keys) > 2 and int(best.indices[0]) == 0:  # the sink would hide everything else
        keys, places, title = keys[1:], places[1:], f"{title}; position 0 is left out"
    return display.line(keys, places, title, along="position") + display.note(most)


def _strongest(one: Series, grid: Tensor) -> str:
    scored = grid.nan_to_num(float("-inf")).flatten()
    best = scored.topk(min(4, int(grid.isfinite().sum())))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    places = [(*divmod(i, grid.shape[1]), value) for i, value in pairs]
    named = ", ".join(f"{one.layers[layer]}.{head} ({v:.3g})" for layer, head, v in places)
    return f"highest (layer.head): {named}" if named else ""
