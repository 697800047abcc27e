"""What a report shows, as plain data: :func:`build` gathers it, the HTML and the tables view it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import FoveateError
from ..results import Results, Series, unit
from .encode import codes, number, numbers
from .seen import Seen, patch_names, seen

MAX_CODES = 1_500_000  # values kept per head (8 bits) in all token maps together, then per layer
TOP = 5  # strongest heads, most looked-at tokens named

# regions that every prompt has; the user's own marks are shown before them
_BUILT_IN = ("system", "user", "assistant", "special", "first", "generated")
_LABELS = {
    "entropy": "Entropy",
    "distance": "Distance looked",
    "distance_signed": "Distance looked back",
    "max": "Largest probability",
}


@dataclass(frozen=True)
class Ablation:
    """Did it matter? What the model does when it cannot look at a region.

    Attributes
    ----------
    region : str
        The region hidden from attention.
    answer : str
        What the model answers then.
    change : float, optional
        Change of the log-probability of its original answer, in nats: negative when the region
        mattered, near 0 when it did not.
    """

    region: str
    answer: str
    change: float | None = None


@dataclass(frozen=True)
class Mass:
    """How much attention a region of the prompt has.

    Attributes
    ----------
    region : str
    tokens : int, optional
        How many tokens of the prompt it has; None for a region that is not the prompt's.
    share : float, optional
        Their share of the prompt: the mass under even attention.
    last, mean : float
        Mass at the prompt's last token, and averaged over all queries; mean of layers and heads.
    layers : list of float
        Mass at the last token by layer, mean of the heads.
    top : list of (layer, head, mass)
        The heads that look there most, at the last token.
    steps : list of float
        Mass at each decode step, mean of layers and heads.
    """

    region: str
    tokens: int | None
    share: float | None
    last: float | None
    mean: float | None
    layers: list[float | None]
    top: list[tuple[int, int, float | None]]
    steps: list[float | None]


@dataclass(frozen=True)
class Grid:
    """A number per layer and head, ``[L][H]``: ``last`` at the last token, ``mean`` over all."""

    key: str
    label: str
    unit: str
    last: list[list[float | None]]
    mean: list[list[float | None]]


@dataclass(frozen=True)
class TokenMap:
    """Attention on each token of the prompt.

    ``mean`` is over layers and heads, ``[S]``; ``layers`` ``[L, S]`` and ``heads`` ``[L, H, S]``
    are coded (:func:`foveate.report.encode.codes`), or None where there would be too many.
    """

    key: str
    label: str
    unit: str
    mean: list[float | None]
    layers: dict[str, Any] | None
    heads: dict[str, Any] | None


@dataclass(frozen=True)
class Item:
    """One row of the batch, padding left out."""

    tokens: list[str]
    regions: dict[str, list[int]]
    masses: list[Mass]
    before: list[Mass]
    grids: list[Grid]
    grids_before: list[Grid]
    token_maps: list[TokenMap]
    block_map: dict[str, Any] | None
    answers: list[tuple[str, str]]
    pictures: list[Seen] = field(default_factory=list)


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows; :meth:`to_dict` is JSON-able.

    ``asks``: whoever shows the report inside a page answers questions about single tokens.
    ``untested``: what there hides the marked regions, such as "the box … hides"; else it is the
    command line. ``policy``: the name of the one under which all of it was measured. ``reader``:
    what looks where "last" is written: the token that is read for the answer.
    """

    title: str
    facts: list[tuple[str, str]]
    stack: str
    layers: list[int]
    heads: int
    causal: bool
    items: list[Item]
    ablations: list[Ablation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    asks: bool = False
    untested: str = ""
    policy: str | None = None
    reader: str = "last token"

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        return asdict(self)


def build(
    run: Any,
    *,
    baseline: Any = None,
    answers: Mapping[str, str | Sequence[str]] | None = None,
    ablations: Sequence[Ablation] = (),
    title: str | None = None,
    model: Any = None,
    policy: str | None = None,
    item: int | None = None,
    stack: str | None = None,
) -> ReportData:
    """Gather what a run measured.

    Parameters
    ----------
    run : Run
        Of :func:`foveate.attach` or :func:`foveate.inspect`; ``run.results`` must hold something.
    baseline : Run, optional
        The same prompt without steering: adds before-and-after.
    answers : mapping of str to str or list of str, optional
        Answers to show side by side, by label; a list holds one for each item of the batch.
    ablations : sequence of Ablation, optional
        What the model does without looking at a region.
    title : str, optional
    model : torch.nn.Module or str, optional
        The model, or what to call it.
    policy : str, optional
        The name of the policy under which all of it was measured, ablations included.
    item : int, optional
        Only this row of the batch.
    stack : str, optional
        Which stack; default ``cross`` if it was measured, else ``decoder``, else the first.

    Raises
    ------
    FoveateError
        If nothing was measured, or the stack, the item or the answers do not fit the run.
    """
    results: Results = run.results
    if not len(results):
        raise FoveateError(
            "There is nothing to report: the run measured nothing. Attach fv.Measure(...) and run "
            "the model inside the block, or use fv.inspect(model, prompt)."
        )
    stack = _stack(results, stack)
    series = _in_stack(results, stack)
    prompt = getattr(run, "prompt", None)
    if stack.startswith(("vision", "audio")) and "input_ids" in getattr(prompt, "inputs", ()):
        prompt = None  # what a tower sees are not the prompt's tokens
    batch = prompt.batch_size if prompt is not None else _first(series).shape[1]
    chosen = range(batch) if item is None else [_checked_item(item, batch)]
    layers = sorted({layer for one in series.values() for layer in one.layers})
    heads = _first(series).shape[2]
    before = _in_stack(baseline.results, stack) if baseline is not None else {}

    room = MAX_CODES // max(1, len(chosen))
    items = [
        _item(series, before, prompt, i, batch, layers, _answers(answers, i, batch), room)
        for i in chosen
    ]
    return ReportData(
        title=title or "Where the model looked" + (f" under “{policy}”" if policy else ""),
        facts=_facts(run, model, policy, results, stack, len(layers), heads, items),
        policy=policy,
        stack=stack,
        layers=layers,
        heads=heads,
        causal=stack == "decoder",
        items=items,
        ablations=list(ablations),
        notes=_notes(run),
        reader=_reader(prompt)[1],
    )


def _reader(prompt: Any) -> tuple[int | None, str]:
    """Which query is read for the answer, and what it is called; None: all of them alike."""
    if not hasattr(prompt, "reader"):  # a text is continued from its end
        return -1, "last token"
    return (prompt.reader, "class token") if prompt.reader is not None else (None, "mean patch")


# -- choosing --------------------------------------------------------------------------------------
def _stack(results: Results, stack: str | None) -> str:
    measured = list(dict.fromkeys(name for series in results.values() for name in series.stacks))
    if stack is None:
        # of an encoder-decoder model, what it generates looks at the prompt by cross-attention
        return next((name for name in ("cross", "decoder") if name in measured), measured[0])
    if stack not in measured:
        raise FoveateError(
            f"stack={stack!r} was asked for; measured were: {', '.join(map(repr, measured))}."
        )
    return stack


def _in_stack(results: Results, stack: str) -> dict[str, Series]:
    return {key: one.stack(stack) for key, one in results.items() if stack in one.stacks}


def _checked_item(item: int, batch: int) -> int:
    if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < batch:
        raise FoveateError(f"item={item!r} was asked for; the batch has items 0 to {batch - 1}.")
    return item


def _answers(
    answers: Mapping[str, str | Sequence[str]] | None, item: int, batch: int
) -> list[tuple[str, str]]:
    shown = []
    for label, given in (answers or {}).items():
        if isinstance(given, str):
            shown.append((label, given))
        elif len(given) == batch:
            shown.append((label, given[item]))
        else:
            raise FoveateError(
                f"answers[{label!r}] has {len(given)} answers; the batch has {batch} items."
            )
    return shown


def _first(series: Mapping[str, Series]) -> Tensor:
    return _values(next(iter(series.values())))


def _values(series: Series) -> Tensor:
    """The prefill, or the decode steps where only they were measured."""
    prefill = series.prefill
    if prefill.shape[3] == 0 and series.axis != "block":
        return series.decode
    return prefill


# -- one item --------------------------------------------------------------------------------------
def _item(
    series: Mapping[str, Series],
    before: Mapping[str, Series],
    prompt: Any,
    item: int,
    batch: int,
    layers: list[int],
    answers: list[tuple[str, str]],
    room: int,
) -> Item:
    tokens, kept = _tokens(series, prompt, item)
    regions = {}
    if prompt is not None:
        for name, mask in prompt.regions.items():
            here = mask[item].cpu()[kept].nonzero().flatten().tolist()
            if here:
                regions[name] = here
    reader, called = _reader(prompt)
    grids = _grids(series, item, batch, layers, reader)
    maps = _token_maps(series, item, batch, kept, called)
    pictures = seen(prompt, item, kept.tolist())
    return Item(
        tokens=patch_names(tokens, pictures),
        regions=regions,
        masses=_masses(series, item, batch, prompt, regions, len(tokens)),
        before=_masses(before, item, batch, prompt, regions, len(tokens)),
        grids=grids,
        grids_before=_grids(before, item, batch, layers, reader),
        pictures=pictures,
        token_maps=[token_map(*one, room // max(1, len(maps))) for one in maps],
        block_map=_block_map(series, item, batch),
        answers=answers,
    )


def _tokens(series: Mapping[str, Series], prompt: Any, item: int) -> tuple[list[str], Tensor]:
    """The item's tokens without padding, and their positions in the padded row."""
    if prompt is None:
        sizes = [_values(one).shape[-1] for one in series.values() if one.axis in ("key", "row")]
        size = max(sizes, default=0)
        return [f"[{i}]" for i in range(size)], torch.arange(size)
    row = prompt.token_rows[item]
    mask = prompt.inputs.get("attention_mask")  # pictures alone have none
    kept = torch.arange(len(row)) if mask is None else mask[item].cpu().nonzero().flatten()
    return [row[i] for i in kept.tolist()], kept


def _row(value: Tensor, item: int, batch: int) -> Tensor:
    """The item's part of ``[L, B, …]``; with beams, its first hypothesis."""
    return value[:, item * max(1, value.shape[1] // batch)].detach().float().cpu()


def _last_and_mean(
    series: Series, item: int, batch: int, reader: int | None = -1
) -> tuple[Tensor, Tensor]:
    """``[L, H]`` at the query that is read (the last real one) and averaged over all of them."""
    value = _row(_values(series), item, batch)  # (L, H, Sq)
    real = series.real()
    if real is not None and real.shape[1] == value.shape[2]:
        value = value[:, :, real[item * max(1, real.shape[0] // batch)]]
    mean = value.nanmean(-1)
    return mean if reader is None else value[..., reader], mean


def _masses(
    series: Mapping[str, Series],
    item: int,
    batch: int,
    prompt: Any,
    regions: Mapping[str, list[int]],
    length: int,
) -> list[Mass]:
    known = prompt.regions if prompt is not None else {}
    found = []
    for key, one in series.items():
        name = key.removeprefix("mass:")
        if name == key or one.axis != "query":
            continue
        tokens = len(regions.get(name, ())) if name in known else None
        if tokens == 0 and name != "generated":
            continue
        last, mean = _last_and_mean(one, item, batch, _reader(prompt)[0])
        steps = _row(one.decode, item, batch)
        if name == "generated" and not steps.shape[-1]:
            continue  # nothing was generated while it was measured
        strongest = last.nan_to_num(-1.0).flatten().topk(min(TOP, last.numel())).indices.tolist()
        heads = last.shape[1]
        found.append(
            Mass(
                region=name,
                tokens=tokens,
                share=None if tokens is None or not length else tokens / length,
                last=number(last.nanmean().item()),
                mean=number(mean.nanmean().item()),
                layers=numbers(last.nanmean(1)),
                top=[
                    (one.layers[i // heads], i % heads, number(last[i // heads, i % heads].item()))
                    for i in strongest
                ],
                steps=numbers(steps.nanmean((0, 1))),
            )
        )
    return sorted(found, key=lambda m: (m.region in _BUILT_IN, -(m.last or 0.0)))


def _grids(
    series: Mapping[str, Series], item: int, batch: int, layers: list[int], reader: int | None
) -> list[Grid]:
    grids = []
    for key, one in series.items():
        if one.axis != "query" or key == "mass:generated":
            continue
        last, mean = _last_and_mean(one, item, batch, reader)
        if key.startswith("mass:") and not float(mean.nansum()):
            continue  # a region without tokens here
        region = key.removeprefix("mass:")
        label = _LABELS.get(key, key) if region == key else f"Mass on {region}"
        # every grid has a row for every layer of the report, empty where it was not measured
        whole = torch.full((2, len(layers), last.shape[1]), float("nan"))
        whole[:, [layers.index(layer) for layer in one.layers]] = torch.stack([last, mean])
        grids.append(Grid(key, label, unit(key), numbers(whole[0], 3), numbers(whole[1], 3)))
    return grids


def _token_maps(
    series: Mapping[str, Series], item: int, batch: int, kept: Tensor, reader: str = "last token"
) -> list[tuple[str, str, str, Tensor]]:
    """Key, label, unit and values ``[L, H, S]`` of what tells how much each token is looked at."""
    maps = []
    for key, one in series.items():
        if one.axis == "row" and one.prefill.shape[3]:
            value = _row(one.prefill, item, batch)[:, :, -1]
            if not float(value.nansum()):
                continue  # padded on the right: the last row is no query of this item
            maps.append((key, f"Looked at by the {reader}", "share of its attention", value))
        elif one.axis == "key" and one.prefill.shape[3]:
            value = _row(one.prefill, item, batch)
            maps.append((key, "Attention received", "summed over all queries", value))
    maps.sort(key=lambda one: one[1] == "Attention received")  # the last token's look comes first
    return [
        (key, label, unit, value[..., kept])
        for key, label, unit, value in maps
        if len(kept) and value.shape[-1] > int(kept.max())
    ]


def token_map(key: str, label: str, unit: str, value: Tensor, room: int = MAX_CODES) -> TokenMap:
    """A :class:`TokenMap` of ``value [L, H, S]``; left out where it takes over ``room`` codes."""
    per_layer = value.nanmean(1)
    return TokenMap(
        key=key,
        label=label,
        unit=unit,
        mean=numbers(per_layer.nanmean(0)),
        layers=codes(per_layer, 16) if per_layer.numel() <= room else None,
        heads=codes(value, 8) if value.numel() <= room else None,
    )


def _block_map(series: Mapping[str, Series], item: int, batch: int) -> dict[str, Any] | None:
    """``[L + 1, n, n]`` coded: the mean of all layers first."""
    for one in series.values():
        if one.axis == "block":
            value = _row(one.prefill, item, batch).nanmean(1)  # (L, n, n)
            return codes(torch.cat([value.mean(0, keepdim=True), value]), 8)
    return None


# -- facts -----------------------------------------------------------------------------------------
def _facts(
    run: Any,
    model: Any,
    policy: str | None,
    results: Results,
    stack: str,
    layers: int,
    heads: int,
    items: list[Item],
) -> list[tuple[str, str]]:
    facts = []
    if isinstance(model, str):
        facts.append(("Model", model))
    elif model is not None:
        path = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
        facts.append(("Model", path.rstrip("/").rpartition("/")[2] or type(model).__name__))
    if policy:
        facts.append(("Policy", policy))
    of = len(results.stacks.get(stack, ())) or layers
    facts.append(("Layers × heads", f"{of} × {heads}"))
    if layers != of:
        facts.append(("Layers measured", str(layers)))
    if set(results.stacks) - {stack}:
        facts.append(("Stack", f"{stack} (of {', '.join(results.stacks)})"))
    sizes = [len(one.tokens) for one in items]
    if any(sizes):
        facts.append(("Tokens", " / ".join(map(str, sizes[:4])) + (" …" if sizes[4:] else "")))
    if len(items) > 1:
        facts.append(("Prompts", str(len(items))))
    if calls := getattr(run, "calls", None):
        facts.append(("Forward passes", str(len(calls))))
    return facts


def _notes(run: Any) -> list[str]:
    """Sites passed over, in the words of the run's coverage."""
    passed = getattr(getattr(run, "coverage", None), "passed_over", None)
    if isinstance(passed, Mapping):
        return [f"{site}: {why}" for site, why in list(passed.items())[:20]]
    return []
