"""Calls put together: the records of one measure as one tensor a stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import FoveateError

__all__ = [
    "ASSEMBLERS", "Record", "filler", "pad", "positions_of", "real_queries", "steps_of", "union_of"
]  # fmt: skip


class Record(NamedTuple):
    """One measure of one attention call."""

    phase: str
    step: int
    q_start: int
    kv_start: int
    value: Tensor
    queries: Tensor | None


def positions_of(calls: Sequence[Record]) -> Tensor:
    spans = [torch.arange(c.q_start, c.q_start + c.value.shape[2]) for c in calls]
    return torch.cat(spans) if spans else torch.zeros(0, dtype=torch.long)


def steps_of(calls: Sequence[Record]) -> Tensor:
    # a decode step has one query; several (assisted decoding) would share the step's number
    return torch.tensor([c.step for c in calls for _ in range(c.value.shape[2])], dtype=torch.long)


def real_queries(call: Record) -> Tensor:
    batch, size = call.value.shape[0], call.value.shape[2]
    if call.queries is None:
        return torch.ones(batch, size, dtype=torch.bool)
    return call.queries.cpu().expand(batch, size)


def union_of(axes: Sequence[Tensor]) -> Tensor:
    return torch.cat([*axes, torch.zeros(0, dtype=torch.long)]).unique()


def filler(value: Tensor) -> float:
    return float("nan") if value.is_floating_point() else -1


def pad(value: Tensor, shape: Sequence[int], fill: float) -> Tensor:
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
    return [pad(v, shape, filler(v) if fill is None else fill) for v in values]


def _cat(values: Sequence[Tensor], dim: int, fill: float | None = None) -> Tensor:
    """Concatenate along ``dim``, padding the other axes."""
    if len(values) == 1:
        return values[0]
    shape = [max(sizes) for sizes in zip(*(v.shape for v in values), strict=True)]
    padded = [
        pad(v, [*shape[:dim], v.shape[dim], *shape[dim + 1 :]], filler(v) if fill is None else fill)
        for v in values
    ]
    return torch.cat(padded, dim)


def _per_query(calls: list[list[Record]], key: str) -> Tensor:
    """``[L, B, H, Sq, …]`` along the union of the layers' positions (or steps)."""
    axis_of = steps_of if next(c for c in calls if c)[0].phase == "decode" else positions_of
    axes = [axis_of(c) for c in calls]
    union = union_of(axes)
    layers = []
    sample = next(c for c in calls if c)[0].value
    for records, axis in zip(calls, axes, strict=True):
        if records:
            value = _cat([_absolute(r, key) for r in records], dim=2)
        else:
            value = sample.new_full((*sample.shape[:2], 0, *sample.shape[3:]), filler(sample))
        if not torch.equal(axis, union):
            # gaps, or positions computed anew: each position takes its last value
            last = {int(position): i for i, position in enumerate(axis)}
            hole = value.new_full((*value.shape[:2], 1, *value.shape[3:]), filler(value))
            value = torch.cat([value, hole], dim=2)
            take = [last.get(int(position), value.shape[2] - 1) for position in union]
            value = value[:, :, torch.tensor(take, device=value.device)]
        layers.append(value)
    return torch.stack(_common(layers))


def _absolute(record: Record, key: str) -> Tensor:
    """Keys counted in the call become absolute positions."""
    if record.kv_start and key.endswith(".indices") and not record.value.is_floating_point():
        return torch.where(record.value >= 0, record.value + record.kv_start, record.value)
    return record.value


def _shifted(record: Record, length: int) -> Tensor:
    """Place the last axis (the call's keys) at its absolute positions; 0 elsewhere."""
    behind = length - record.kv_start - record.value.shape[-1]
    if record.kv_start == 0 and behind == 0:
        return record.value
    return torch.nn.functional.pad(record.value, (record.kv_start, behind))


def _length(calls: list[list[Record]]) -> int:
    return max(c.kv_start + c.value.shape[-1] for records in calls for c in records)


def _received(calls: list[list[Record]], key: str) -> Tensor:
    """``[L, B, H, Sk]``: what each call's queries gave adds up."""
    length = _length(calls)
    sample = next(c for c in calls if c)[0].value
    layers = []
    for records in calls:
        values = _common([_shifted(r, length) for r in records], fill=0.0)
        if not values:
            values = [sample.new_full((*sample.shape[:2], length), filler(sample))]
        layers.append(torch.stack(values).sum(0) if len(values) > 1 else values[0])
    return torch.stack(_common(layers))


def _rows(calls: list[list[Record]], key: str) -> Tensor:
    """``[L, B, H, len, Sk]``: the rows of the calls in their order."""
    length = _length(calls)
    return _stacked([[_shifted(r, length) for r in records] for records in calls], dim=2)


def _block_map(calls: list[list[Record]], key: str) -> Tensor:
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
    hole = torch.full_like(sample, filler(sample))
    return torch.stack(_common([hole if v is None else v for v in joined]))


ASSEMBLERS: dict[str, Callable[[list[list[Record]], str], Tensor]] = {
    "query": _per_query,
    "top": _per_query,
    "key": _received,
    "row": _rows,
    "block": _block_map,
}
