"""The model under test: how it is run, what is compared, and how closely it must agree."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.sites import Site, sites
from ..attach import attach
from ..errors import FoveateError
from .probes import Jitter, Look, Seen

__all__ = ["Failed", "NotApplicable", "Subject", "difference", "tensors"]

_CACHES = {"past_key_values", "cache_params", "mems", "state", "past_buckets_states"}
_FLOOR = {8: 1e-9, 4: 1e-5, 2: 2e-2}  # by bytes of the dtype


class NotApplicable(Exception):
    """The test says nothing about this model; the message says why."""


class Failed(Exception):
    """The test failed; ``error`` is the difference seen."""

    def __init__(self, why: str, error: float | None = None) -> None:
        super().__init__(why)
        self.error = error


def tensors(output: Any, name: str = "") -> list[tuple[str, Tensor]]:
    """The tensors of a model's output by name, caches left out."""
    if isinstance(output, Tensor):
        return [(name, output)]
    if isinstance(output, Mapping):
        items: Iterable[tuple[Any, Any]] = output.items()
    elif isinstance(output, list | tuple):
        items = enumerate(output)
    else:
        return []
    found = []
    for key, value in items:
        if key not in _CACHES:
            found += tensors(value, f"{name}.{key}" if name else str(key))
    return found


def difference(got: Tensor, want: Tensor) -> float:
    """The largest difference relative to the largest value; infinite for another shape."""
    if got.shape != want.shape:
        return float("inf")
    if want.numel() == 0:
        return 0.0
    if not want.is_floating_point():
        return float((got != want).any())
    a, b = got.double(), want.double()
    same = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(same, 0.0, (a - b).abs())
    scale = torch.where(b.isfinite(), b.abs(), 0.0).amax().clamp(min=1e-12)
    worst = gap.amax() / scale
    return float(worst) if bool(worst.isfinite()) else float("inf")


class Subject:
    """A model with inputs to run it on."""

    def __init__(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        self.model = model
        self.inputs = dict(inputs)
        self.sites: list[Site] = sites(model)
        parameters = inspect.signature(model.forward).parameters
        self.parameters = set(parameters)
        self.open = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    @property
    def stacks(self) -> dict[str, list[Site]]:
        """Sites by stack, in their order."""
        found: dict[str, list[Site]] = {}
        for site in self.sites:
            found.setdefault(site.stack, []).append(site)
        return found

    @torch.no_grad()
    def run(self, inputs: Mapping[str, Any] | None = None) -> list[tuple[str, Tensor]]:
        """One forward, with the same random numbers every time: outputs by name."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return tensors(self.model(**(self.inputs if inputs is None else inputs)))

    @cached_property
    def base(self) -> list[tuple[str, Tensor]]:
        """What the model answers when nobody interferes."""
        found = self.run()
        if not found:
            raise NotApplicable("the forward returns no tensors")
        again = self.run()
        if not self.equal(again, found):
            raise NotApplicable("two forwards of the model alone differ under one seed")
        return found

    def equal(self, got: list[tuple[str, Tensor]], want: list[tuple[str, Tensor]]) -> bool:
        """Bit for bit."""
        return len(got) == len(want) and all(
            a == b and x.shape == y.shape and x.dtype == y.dtype and difference(x, y) == 0.0
            for (a, x), (b, y) in zip(got, want, strict=True)
        )

    def gap(self, got: list[tuple[str, Tensor]], want: list[tuple[str, Tensor]]) -> float:
        """The largest difference of the floating-point outputs that both have, the main one among
        them (an edited model hands out no attention maps).
        """
        ours, theirs = dict(got), dict(want)
        floats = [name for name, value in theirs.items() if value.is_floating_point()]
        if floats and floats[0] not in ours:
            return float("inf")
        shared = (name for name in floats if name in ours)
        return max((difference(ours[name], theirs[name]) for name in shared), default=0.0)

    @cached_property
    def floor(self) -> float:
        """The tolerance that the dtype alone asks for."""
        weight = next((p for p in self.model.parameters() if p.is_floating_point()), None)
        return _FLOOR.get(4 if weight is None else weight.element_size(), 2e-2)

    @cached_property
    def tolerance(self) -> float:
        """How far two ways of computing the same may be apart on this model.

        At least the dtype's floor (1e-5 in float32); more where a change of every head's output in
        its last place moves the answer further, with some room.

        Raises
        ------
        NotApplicable
            When rounding alone decides the answer.
        """
        moved = 0.0
        for stack in self.stacks:
            try:
                with attach(self.model, Jitter(stack)):
                    moved = max(moved, self.gap(self.run(), self.base))
            except FoveateError:  # refused there: its own tests will say so
                continue
        if moved > 10 * self.floor:
            raise NotApplicable(
                f"a change in the last place moves the answer by {moved:.1g}: rounding decides it"
            )
        return max(self.floor, 10 * moved)

    def look(
        self, stack: str, gain: float | None = None, inputs: Any = None
    ) -> dict[str, list[Seen]]:
        """What the sites of a stack do, in the model as it is."""
        look = Look(stack, gain)
        with attach(self.model, look):
            self.run(inputs)
        return look.seen
