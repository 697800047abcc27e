"""One measure of the last sequence, put together when it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import FoveateError
from .assembly import ASSEMBLERS, Record, pad, positions_of, real_queries, steps_of, union_of

if TYPE_CHECKING:
    import pandas as pd  # optional dependency, only needed by to_pandas()

    from .log import Results

__all__ = ["SHAPES", "Series"]

SHAPES = {  # axes of one call's value, after batch and head
    "received": "key",
    "block_map": "block",
    "rows": "row",
    "top.values": "top",
    "top.indices": "top",
}


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
        return declared or SHAPES.get(self.key, "query")

    @property
    def layers(self) -> list[int]:
        """The layer numbers that the first axis holds."""
        return sorted(self._calls())

    @property
    def positions(self) -> Tensor:
        """Absolute positions of the queries of ``prefill``, int64 ``[Sq]``."""
        return union_of([positions_of(calls) for calls in self._phase("prefill")])

    @property
    def steps(self) -> list[int]:
        """The decode steps that ``decode`` holds, counted from 1."""
        return sorted({c.step for calls in self._phase("decode") for c in calls})

    def real(self, phase: str = "prefill") -> Tensor | None:
        """Which of the phase's queries are no padding, bool ``[B, Sq]``; None when all are real."""
        layers = self._phase(phase)
        axis_of = steps_of if phase == "decode" else positions_of
        for calls in layers:  # padding is alike in all layers: the first that knows will do
            if all(c.queries is None for c in calls):
                continue
            batch = max(c.value.shape[0] for c in calls)
            masks = [pad(real_queries(c), (batch, c.value.shape[2]), 0) for c in calls]
            axis = union_of([axis_of(c) for c in layers])
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
                flat = value.detach().cpu().flatten()
                flat = flat.float() if flat.dtype == torch.bfloat16 else flat  # numpy has none
                frame = pd.DataFrame({"value": flat.numpy()}, index=index).reset_index()
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
        """A heat map of the heads and a line over the decode steps, per stack."""
        from .show import series

        return series(self)

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

    def _calls(self) -> dict[int, list[Record]]:
        stacks = self.results._log.get(self.key, {})
        if self.name is not None:
            return stacks.get(self.name, {})
        if len(stacks) > 1:
            raise FoveateError(
                f"{self.key!r} was measured in several stacks: choose one with "
                f".stack(name), name being one of {', '.join(map(repr, stacks))}."
            )
        return next(iter(stacks.values()), {})

    def _phase(self, phase: str) -> list[list[Record]]:
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
        return ASSEMBLERS[self.axis](calls, self.key)


def _phases(phase: str | None) -> tuple[str, ...]:
    if phase not in (None, "prefill", "decode"):
        raise FoveateError(f'phase={phase!r} was given; it is "prefill", "decode" or None (both).')
    return ("prefill", "decode") if phase is None else (phase,)
