"""What was measured under :func:`foveate.attach`: recorded cheaply, assembled when asked for.

Recording a value is one list append; tensors are put together only when a :class:`Series` is read.
The results hold the **last** sequence: a prefill that starts at position 0 (or a decode step that
does not come after the one before it) begins a new one. ``run.calls`` lists every forward.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .engine.measures import Read
from .errors import FoveateError

if TYPE_CHECKING:  # optional dependency, only needed by to_pandas()
    import pandas as pd

_SHAPES = {  # axes of one call's value, after batch and head
    "received": "key",
    "block_map": "block",
    "rows": "row",
    "top.values": "top",
    "top.indices": "top",
}


class _Record(NamedTuple):
    phase: str
    step: int
    q_start: int
    kv_start: int
    value: Tensor
    queries: Tensor | None


class Results(Mapping[str, "Series"]):
    """Measures by key: ``results["mass:evidence"]`` is a :class:`Series`.

    Parameters
    ----------
    stacks : mapping of str to int or sequence of int
        The stacks of the model, each with its number of layers (or their numbers).
    reads : sequence of Read
        The measures that will be recorded; needed for renamed ones (``as_=``), whose key alone does
        not tell whether the last axis counts queries or keys.
    """

    def __init__(
        self, stacks: Mapping[str, int | Sequence[int]] | None = None, reads: Sequence[Read] = ()
    ) -> None:
        self.stacks: dict[str, list[int]] = {
            name: list(range(layers)) if isinstance(layers, int) else list(layers)
            for name, layers in (stacks or {}).items()
        }
        self._shape: dict[str, str] = {}
        # key -> stack -> layer -> the calls of the current sequence, in their order
        self._log: dict[str, dict[str, dict[int, list[_Record]]]] = {}
        self.declare(*reads)

    def declare(self, *reads: Read) -> None:
        """Announce measures, so that their keys and shapes are known before anything ran."""
        for read in reads:
            for key in read.keys:
                suffix = key.removeprefix(read.key)
                self._shape[key] = _SHAPES.get(read.kind + suffix, "query")

    def record(
        self,
        stack: str,
        layer: int,
        phase: str,
        step: int,
        key: str,
        value: Tensor,
        *,
        q_start: int,
        kv_start: int,
        queries: Tensor | None = None,
    ) -> None:
        """Keep one measure of one attention call.

        Parameters
        ----------
        stack, layer : str, int
            The address of the site.
        phase : {"prefill", "decode"}
        step : int
            0 in prefill; 1, 2, … in decode.
        key : str
            The measure's key.
        value : Tensor
            ``[B, H, Sq]`` for per-query measures, else as in :mod:`foveate.engine.measures`. Kept
            as it is, with its graph when it has one.
        q_start, kv_start : int
            Absolute positions of the call's first query and first key.
        queries : Tensor, optional
            Bool ``[B, Sq]``: queries that are real. Padded ones never count in means.
        """
        log = self._log.setdefault(key, {}).setdefault(stack, {}).setdefault(layer, [])
        if log:
            last = log[-1]
            restarts = q_start == 0 if phase == "prefill" else last.step >= step
            if restarts:
                log.clear()
        if not value.is_contiguous():  # a value column: a view that keeps all columns alive
            value = value.contiguous()
        log.append(_Record(phase, step, q_start, kv_start, value, queries))

    def clear(self) -> None:
        """Forget what was recorded."""
        self._log.clear()

    def __getitem__(self, key: str) -> Series:
        if key not in self._log:
            if key in self._shape:
                raise FoveateError(
                    f"Nothing was recorded for {key!r} yet: run the model inside the attach block."
                )
            known = ", ".join(map(repr, self)) or "none (add fv.Measure(...) to attach)"
            raise FoveateError(f"No measure {key!r} was taken; the keys there are: {known}.")
        return Series(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._log)

    def __len__(self) -> int:
        return len(self._log)

    def __contains__(self, key: object) -> bool:
        return key in self._log

    def __repr__(self) -> str:
        if not self:
            return "Results(nothing recorded)"
        return "Results(\n" + "".join(f"  {self[key]!r}\n" for key in self) + ")"

    def _repr_html_(self) -> str:
        return "".join(self[key]._repr_html_() for key in self) or html.escape(repr(self))


@dataclass(frozen=True)
class Series:
    """One measure of the last sequence, assembled on each access.

    Use :meth:`stack` when several stacks were measured. Where calls differ in batch or heads, what
    a call lacks is NaN (``-1`` in ``top.indices``). Rows of a batch under beam search are those of
    the call: the row of a hypothesis may change from step to step.
    """

    results: Results
    key: str
    name: str | None = None

    # -- what there is -----------------------------------------------------------------------------
    @property
    def stacks(self) -> list[str]:
        """The stacks in which this was measured."""
        return list(self.results._log.get(self.key, ()))

    def stack(self, name: str) -> Series:
        """The same measure in one stack."""
        if name not in self.stacks:
            raise FoveateError(
                f"{self.key!r} was not measured in a stack {name!r}; it was in: "
                f"{', '.join(map(repr, self.stacks))}."
            )
        return Series(self.results, self.key, name)

    @property
    def axis(self) -> str:
        """What a value counts behind batch and head: query, key, block, row or top."""
        declared = self.results._shape.get(self.key)
        return declared or _SHAPES.get(self.key, "query")

    @property
    def layers(self) -> list[int]:
        """The layer numbers that the first axis holds."""
        return sorted(self._calls())

    @property
    def positions(self) -> Tensor:
        """Absolute positions of the queries of ``prefill``, int64 ``[Sq]``."""
        return _union([_positions(calls) for calls in self._phase("prefill")])

    @property
    def steps(self) -> list[int]:
        """The decode steps that ``decode`` holds, counted from 1."""
        return sorted({c.step for calls in self._phase("decode") for c in calls})

    def real(self, phase: str = "prefill") -> Tensor | None:
        """Which of the phase's queries are no padding, bool ``[B, Sq]``; None when all are real."""
        layers = self._phase(phase)
        axis_of = _steps if phase == "decode" else _positions
        for calls in layers:  # padding is alike in all layers: the first that knows will do
            if all(c.queries is None for c in calls):
                continue
            batch = max(c.value.shape[0] for c in calls)
            masks = [_pad(_queries(c), (batch, c.value.shape[2]), 0) for c in calls]
            axis = _union([axis_of(c) for c in layers])
            real = torch.zeros(batch, len(axis), dtype=torch.bool)
            real[:, torch.searchsorted(axis, axis_of(calls))] = torch.cat(masks, dim=1)
            return real
        return None

    @property
    def prefill(self) -> Tensor:
        """The prefill, its chunks put together by position.

        ``[L, B, H, Sq]`` per query; ``received`` ``[L, B, H, Sk]`` (chunks add up);
        ``block_map`` ``[L, B, H, n, n]``; ``rows`` ``[L, B, H, len, Sk]``; ``top``
        ``[L, B, H, Sq, k]``.
        """
        return self._assemble("prefill")

    @property
    def decode(self) -> Tensor:
        """The decode steps: as :attr:`prefill` with ``steps`` in the place of ``Sq``."""
        return self._assemble("decode")

    @property
    def last(self) -> Tensor:
        """The value at the last real query of the prefill, which chooses the first new token.

        ``[L, B, H]``; with ``k`` behind for ``top``. Per-query measures only.
        """
        if self.axis not in ("query", "top"):
            raise FoveateError(f"{self.key!r} has no value per query, so there is no last one.")
        prefill = self.prefill
        if prefill.shape[3] == 0:
            raise FoveateError(f"{self.key!r} holds no prefill (phase='decode'?): use .decode.")
        real = self.real("prefill")
        if real is None:
            return prefill[:, :, :, -1]
        # right padding: the last True of each row
        at = real.shape[1] - 1 - real.flip(1).int().argmax(dim=1)
        return torch.stack([prefill[:, b, :, int(i)] for b, i in enumerate(at)], dim=1)

    # -- reductions --------------------------------------------------------------------------------
    def mean(self, phase: str | None = None) -> Tensor:
        """Mean over the batch and all real queries: ``[L, H]``.

        For ``received`` the mean is over the keys that received anything; for ``block_map`` and
        ``rows`` over all entries.

        Parameters
        ----------
        phase : {"prefill", "decode"}, optional
            Only this phase; default both.
        """
        if self.axis == "top" and self.key.endswith(".indices"):
            raise FoveateError(f"{self.key!r} holds positions of keys: their mean says nothing.")
        total: Tensor | None = None
        count: Tensor | None = None
        for name in _phases(phase):
            if self.axis == "block" and name == "decode":
                continue
            value = self._assemble(name)
            if value.numel() == 0:
                continue
            counted = ~value.isnan()
            if self.axis == "key":
                counted &= value > 0
            elif self.axis in ("query", "top") and (real := self.real(name)) is not None:
                real = real.to(value.device)[None, :, None, :]  # (1, B, 1, Sq)
                counted &= real.unsqueeze(-1) if self.axis == "top" else real
            axes = [d for d in range(value.ndim) if d not in (0, 2)]
            part = torch.where(counted, value, torch.zeros_like(value)).sum(axes)  # (L, H)
            total = part if total is None else total + part
            number = counted.sum(axes)
            count = number if count is None else count + number
        if total is None or count is None:
            raise FoveateError(f"{self.key!r} holds nothing in phase {phase!r}.")
        return total / count

    def to_pandas(self) -> pd.DataFrame:
        """Long form: ``stack, layer, batch, head, phase, position (or key, row, step …), value``.

        All stacks, unless one was chosen. Needs pandas.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise FoveateError("to_pandas() needs pandas: pip install pandas.") from error
        frames = []
        for stack in [self.name] if self.name else self.stacks:
            one = self.stack(stack)
            for phase in ("prefill", "decode"):
                if self.axis == "block" and phase == "decode":
                    continue
                value = one._assemble(phase)
                if value.numel() == 0:
                    continue
                columns = ["layer", "batch", "head", *one._axis_names(phase)]
                labels = {0: one.layers}
                if self.axis in ("query", "top"):
                    labels[3] = one.positions.tolist() if phase == "prefill" else one.steps
                index = pd.MultiIndex.from_product(
                    [labels.get(d, range(n)) for d, n in enumerate(value.shape)], names=columns
                )
                frame = pd.DataFrame(
                    {"value": value.detach().cpu().flatten().numpy()}, index=index
                ).reset_index()
                frame.insert(0, "stack", stack)
                frame.insert(4, "phase", phase)
                frames.append(frame)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    # -- how it shows itself -----------------------------------------------------------------------
    def __repr__(self) -> str:
        parts = []
        for stack in [self.name] if self.name else self.stacks:
            one = Series(self.results, self.key, stack)
            text = f"{stack}: {len(one.layers)} layers"
            for phase in ("prefill", "decode"):
                calls = one._phase(phase)
                if any(calls):
                    shape = list(max((c[0].value for c in calls if c), key=Tensor.numel).shape)
                    text += f", {phase} {max(map(len, calls))} call(s) of {shape}"
            parts.append(text)
        return f"Series({self.key!r}; {'; '.join(parts)})"

    def _repr_html_(self) -> str:
        """A heat map layers by heads of :meth:`mean`, per stack."""
        if self.axis == "top" and self.key.endswith(".indices"):
            return f"<pre>{html.escape(repr(self))}</pre>"
        pictures = []
        for stack in [self.name] if self.name else self.stacks:
            one = self.stack(stack)
            grid = one.mean().detach().float().cpu()
            pictures.append(_heat(grid, one.layers, f"{self.key} · {stack}"))
        return "".join(pictures)

    # -- assembly ----------------------------------------------------------------------------------
    def _axis_names(self, phase: str) -> list[str]:
        query = "position" if phase == "prefill" else "step"
        return {
            "query": [query],
            "key": ["key"],
            "block": ["query_block", "key_block"],
            "row": ["row", "key"],
            "top": [query, "rank"],
        }[self.axis]

    def _calls(self) -> dict[int, list[_Record]]:
        stacks = self.results._log.get(self.key, {})
        if self.name is not None:
            return stacks.get(self.name, {})
        if len(stacks) > 1:
            raise FoveateError(
                f"{self.key!r} was measured in several stacks: choose one with "
                f".stack(name), name being one of {', '.join(map(repr, stacks))}."
            )
        return next(iter(stacks.values()), {})

    def _phase(self, phase: str) -> list[list[_Record]]:
        """The calls of one phase, layer by layer (a list may be empty)."""
        calls = self._calls()
        return [[c for c in calls[layer] if c.phase == phase] for layer in sorted(calls)]

    def _assemble(self, phase: str) -> Tensor:
        """One tensor ``[L, B, H, …]``."""
        if self.axis == "block" and phase == "decode":
            raise FoveateError(f"{self.key!r} pools a prefill; there is none of a decode step.")
        calls = self._phase(phase)
        if not any(calls):
            other = self._calls()[min(self._calls())][0].value
            batch, heads, *rest = other.shape
            empty = (len(calls), batch, heads, 0, *rest[1:])
            return other.new_zeros(empty)
        return _ASSEMBLERS[self.axis](calls, self.key)


# -- putting calls together ------------------------------------------------------------------------
def _phases(phase: str | None) -> tuple[str, ...]:
    if phase not in (None, "prefill", "decode"):
        raise FoveateError(f'phase={phase!r} was given; it is "prefill", "decode" or None (both).')
    return ("prefill", "decode") if phase is None else (phase,)


def _positions(calls: Sequence[_Record]) -> Tensor:
    spans = [torch.arange(c.q_start, c.q_start + c.value.shape[2]) for c in calls]
    return torch.cat(spans) if spans else torch.zeros(0, dtype=torch.long)


def _steps(calls: Sequence[_Record]) -> Tensor:
    # a decode step has one query; several (assisted decoding) would share the step's number
    return torch.tensor([c.step for c in calls for _ in range(c.value.shape[2])], dtype=torch.long)


def _queries(call: _Record) -> Tensor:
    batch, size = call.value.shape[0], call.value.shape[2]
    if call.queries is None:
        return torch.ones(batch, size, dtype=torch.bool)
    return call.queries.cpu().expand(batch, size)


def _union(axes: Sequence[Tensor]) -> Tensor:
    return torch.cat([*axes, torch.zeros(0, dtype=torch.long)]).unique()


def _hole(value: Tensor) -> float:
    return float("nan") if value.is_floating_point() else -1


def _pad(value: Tensor, shape: Sequence[int], fill: float) -> Tensor:
    """Extend ``value`` at the ends of its axes to ``shape``."""
    if tuple(value.shape) == tuple(shape):
        return value
    grow = [m - n for n, m in zip(value.shape, shape, strict=True)]
    return torch.nn.functional.pad(value, [p for n in reversed(grow) for p in (0, n)], value=fill)


def _common(values: Sequence[Tensor], fill: float | None = None) -> list[Tensor]:
    """Pad all to the largest of each axis."""
    if len({v.shape for v in values}) == 1:
        return list(values)
    shape = [max(sizes) for sizes in zip(*(v.shape for v in values), strict=True)]
    return [_pad(v, shape, _hole(v) if fill is None else fill) for v in values]


def _cat(values: Sequence[Tensor], dim: int, fill: float | None = None) -> Tensor:
    """Concatenate along ``dim``, padding the other axes."""
    if len(values) == 1:
        return values[0]
    shape = [max(sizes) for sizes in zip(*(v.shape for v in values), strict=True)]
    padded = [
        _pad(v, [*shape[:dim], v.shape[dim], *shape[dim + 1 :]], _hole(v) if fill is None else fill)
        for v in values
    ]
    return torch.cat(padded, dim)


def _per_query(calls: list[list[_Record]], key: str) -> Tensor:
    """``[L, B, H, Sq, …]`` along the union of the layers' positions (or steps)."""
    axis_of = _steps if next(c for c in calls if c)[0].phase == "decode" else _positions
    axes = [axis_of(c) for c in calls]
    union = _union(axes)
    layers = []
    sample = next(c for c in calls if c)[0].value
    for records, axis in zip(calls, axes, strict=True):
        if records:
            value = _cat([_absolute(r, key) for r in records], dim=2)
        else:
            value = sample.new_full((*sample.shape[:2], 0, *sample.shape[3:]), _hole(sample))
        if not torch.equal(axis, union):
            # gaps, or positions computed anew: each position takes its last value
            last = {int(position): i for i, position in enumerate(axis)}
            hole = value.new_full((*value.shape[:2], 1, *value.shape[3:]), _hole(value))
            value = torch.cat([value, hole], dim=2)
            take = [last.get(int(position), value.shape[2] - 1) for position in union]
            value = value[:, :, torch.tensor(take, device=value.device)]
        layers.append(value)
    return torch.stack(_common(layers))


def _absolute(record: _Record, key: str) -> Tensor:
    """Keys counted in the call become absolute positions."""
    if record.kv_start and key.endswith(".indices") and not record.value.is_floating_point():
        return torch.where(record.value >= 0, record.value + record.kv_start, record.value)
    return record.value


def _shifted(record: _Record, length: int) -> Tensor:
    """Place the last axis (the call's keys) at its absolute positions; 0 elsewhere."""
    behind = length - record.kv_start - record.value.shape[-1]
    if record.kv_start == 0 and behind == 0:
        return record.value
    return torch.nn.functional.pad(record.value, (record.kv_start, behind))


def _length(calls: list[list[_Record]]) -> int:
    return max(c.kv_start + c.value.shape[-1] for records in calls for c in records)


def _received(calls: list[list[_Record]], key: str) -> Tensor:
    """``[L, B, H, Sk]``: what each call's queries gave adds up."""
    length = _length(calls)
    sample = next(c for c in calls if c)[0].value
    layers = []
    for records in calls:
        values = _common([_shifted(r, length) for r in records], fill=0.0)
        if not values:
            values = [sample.new_full((*sample.shape[:2], length), _hole(sample))]
        layers.append(torch.stack(values).sum(0) if len(values) > 1 else values[0])
    return torch.stack(_common(layers))


def _rows(calls: list[list[_Record]], key: str) -> Tensor:
    """``[L, B, H, len, Sk]``: the rows of the calls in their order."""
    length = _length(calls)
    return _stacked([[_shifted(r, length) for r in records] for records in calls], dim=2)


def _block_map(calls: list[list[_Record]], key: str) -> Tensor:
    """``[L, B, H, n, n]``."""
    if any(len(records) > 1 for records in calls):
        raise FoveateError(
            f"{key!r} was taken of a prefill in several chunks, whose maps do not fit together: "
            "run the prefill in one call to have a map of it."
        )
    return _stacked([[r.value for r in records] for records in calls], dim=2)


def _stacked(layers: list[list[Tensor]], dim: int) -> Tensor:
    """Concatenate within layers, stack the layers; a layer without any is a hole."""
    joined = [_cat(values, dim) if values else None for values in layers]
    sample = next(v for v in joined if v is not None)
    hole = torch.full_like(sample, _hole(sample))
    return torch.stack(_common([hole if v is None else v for v in joined]))


_ASSEMBLERS: dict[str, Callable[[list[list[_Record]], str], Tensor]] = {
    "query": _per_query,
    "top": _per_query,
    "key": _received,
    "row": _rows,
    "block": _block_map,
}


# -- the small picture of a notebook ---------------------------------------------------------------
def _heat(grid: Tensor, layers: Sequence[int], title: str) -> str:
    """An inline SVG of ``grid [L, H]``; each cell says its number when hovered."""
    finite = grid[grid.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)
    cell, left, top = 14, 26, 18
    cells = []
    for row, layer in enumerate(layers):
        for head, value in enumerate(grid[row].tolist()):
            known = value == value
            share = (value - low) / (high - low) if known and high > low else 0.0
            fill = f"hsl(28 90% 52% / {0.06 + 0.94 * share:.2f})" if known else "none"
            cells.append(
                f'<rect x="{left + head * cell}" y="{top + row * cell}" width="{cell - 1}" '
                f'height="{cell - 1}" fill="{fill}"><title>layer {layer}, head {head}: '
                f"{value:.4g}</title></rect>"
            )
        cells.append(f'<text x="0" y="{top + row * cell + 11}">L{layer}</text>')
    width, height = left + max(grid.shape[1] * cell, 160), top + len(layers) * cell
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="10" fill="currentColor">'
        f'<text x="0" y="11">{html.escape(title)}  {low:.3g} … {high:.3g}</text>'
        f"{''.join(cells)}</svg>"
    )
