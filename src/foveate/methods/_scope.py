"""Where and when a method acts: layers, heads, phase, stack, steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from ..adapters.sites import Site
from ..errors import FoveateError

__all__ = ["Middle", "Scope"]


def _whole(what: str, values: Any, wanted: str) -> tuple[int, ...]:
    """Whole numbers out of one, or a sequence, range or set of them."""
    if isinstance(values, int) and not isinstance(values, bool):
        values = (values,)
    numbers = (
        tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else None
    )
    if numbers is None or not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
        raise FoveateError(f"{what}={values!r} was given; {wanted}.")
    if not numbers:
        raise FoveateError(f"{what}= is empty, so the method would act nowhere; {wanted}.")
    return tuple(dict.fromkeys(numbers))


def _heads(heads: Any) -> tuple[int, ...] | dict[int, tuple[int, ...]]:
    wanted = "a list of heads, or a dict layer -> heads, such as {3: [0, 5]}, was wanted"
    if isinstance(heads, Mapping):
        if not heads:
            raise FoveateError(f"heads= is empty, so the method would act nowhere; {wanted}.")
        layers = _whole("heads", list(heads), wanted)
        return {layer: _whole(f"heads[{layer}]", heads[layer], wanted) for layer in layers}
    if isinstance(heads, Sequence) and heads and all(isinstance(h, tuple | list) for h in heads):
        pairs: dict[int, list[int]] = {}  # (layer, head) pairs, as rankings of heads come
        for pair in heads:
            if len(pair) != 2:
                raise FoveateError(f"heads={heads!r} was given; {wanted}.")
            pairs.setdefault(pair[0], []).append(pair[1])
        return _heads(pairs)
    return _whole("heads", heads, wanted)


@dataclass(frozen=True)
class Scope:
    """The part of a model, and the time, in which a method acts; None means all.

    Attributes
    ----------
    layers : tuple of int, optional
        Counted within the stack; negative ones from its end.
    heads : tuple of int, or dict layer -> tuple of int, optional
        A dict restricts the layers too.
    phase : {"prefill", "decode"}, optional
    stack : str or tuple of str, optional
        Default: decoder self-attention, or the only stack. ``"all"`` is every stack. What is no
        stack's name names those that begin so (``"unet.down"``), are of that kind (``"cross"``)
        or match it (``"unet.*.self"``).
    steps : tuple of int, optional
        0 is the prefill; 1, 2, … are decode steps. In a denoiser: denoising steps, from 0.
    grid : (int, int), optional
        Layers and heads a layer of the model that the heads were found in.
    """

    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | Mapping[int, tuple[int, ...]] | None = None
    phase: str | None = None
    stack: str | tuple[str, ...] | None = None
    steps: tuple[int, ...] | None = None
    grid: tuple[int, int] | None = None

    @classmethod
    def of(
        cls,
        layers: Any = None,
        heads: Any = None,
        phase: str | None = None,
        stack: Any = None,
        steps: Any = None,
    ) -> Scope:
        """Check and normalise what a user gave a method.

        Raises
        ------
        FoveateError
            For what is no layer, head, phase, stack or step.
        """
        if phase not in (None, "prefill", "decode"):
            raise FoveateError(
                f'phase={phase!r} was given; it is "prefill", "decode" or None (both).'
            )
        if stack is not None and not isinstance(stack, str):
            if not isinstance(stack, Sequence) or not all(isinstance(s, str) for s in stack):
                raise FoveateError(
                    f"stack={stack!r} was given; it takes a stack's name, or several."
                )
            stack = tuple(stack)
        numbers = "one or more whole numbers were wanted"
        if steps is not None:
            steps = _whole("steps", steps, numbers)
            if min(steps) < 0:
                raise FoveateError(
                    f"steps={steps!r} was given; 0 is the prefill (or the first denoising "
                    "step), 1, 2, … decode steps."
                )
        return cls(
            layers=None if layers is None else _whole("layers", layers, numbers),
            heads=None if heads is None else _heads(heads),
            phase=phase,
            stack=stack,
            steps=steps,
            grid=getattr(heads, "grid", None),
        )

    def select(self, sites: Sequence[Site], who: object) -> list[Site]:
        """The sites a method acts on.

        Raises
        ------
        FoveateError
            When a stack, layer or head is not there, or the default stack is ambiguous.
        """
        chosen = self._stacks(sites, who)
        here = [site for site in sites if site.stack in chosen]
        depths = {site.stack: site.depth for site in here}
        layers = self.layers
        if isinstance(self.heads, Mapping):
            layers = (*(layers or ()), *self.heads)
        for layer in layers or ():
            if not any(-depth <= layer < depth for depth in depths.values()):
                there = ", ".join(f"0–{depth - 1} in {stack!r}" for stack, depth in depths.items())
                raise FoveateError(f"{who} names layer {layer}; the layers there are: {there}.")
        selected = [site for site in here if self._has_layer(site)]
        if not selected:
            raise FoveateError(
                f"{who} acts nowhere: its layers= and heads= have no layer in common."
            )
        for site in selected:
            if self.grid is not None and self.grid != (site.depth, site.heads):
                raise FoveateError(
                    f"{who} names heads found in a model of {self.grid[0]} layers of "
                    f"{self.grid[1]} heads; {site.stack!r} has {site.depth} of {site.heads}: find "
                    "its own with fv.find_heads(model, …)."
                )
            for head in self.heads_of(site) or ():
                if site.heads is not None and not -site.heads <= head < site.heads:
                    raise FoveateError(
                        f"{who} names head {head}; {site.name} has heads 0–{site.heads - 1}."
                    )
        return selected

    def now(self, phase: str, step: int) -> bool:
        """Whether the method acts in this phase and step."""
        return (self.phase is None or self.phase == phase) and (
            self.steps is None or step in self.steps
        )

    def heads_at(self, site: Site, count: int) -> tuple[int, ...] | None:
        """The heads meant at a site with ``count`` heads, ascending from 0; None for all."""
        heads = self.heads_of(site)
        if heads is None:
            return None
        for head in heads:  # of a site that did not say how many it has
            if not -count <= head < count:
                there = f"heads 0–{count - 1}" if count > 1 else "one head a call, head 0"
                raise FoveateError(
                    f"heads= names head {head}; {site.name} attends with {there}"
                    + ("." if count > 1 else " (heads folded into the batch look like this).")
                )
        return tuple(sorted({h % count for h in heads}))

    def mask_at(self, site: Site, count: int, device: torch.device) -> Tensor:
        """Which of ``count`` heads of a site are meant, bool ``[count]``."""
        heads = self.heads_at(site, count)
        mask = torch.full((count,), heads is None, device=device)
        mask[list(heads or ())] = True
        return mask

    def from_the_prompt(self, who: str, what: str) -> None:
        """Raise where a method that looks at the prompt is not there in the prefill.

        ``what`` says what ``who`` does then, such as ``"finds the sinks in the prompt"``.
        """
        if not self.now("prefill", 0):
            raise FoveateError(
                f"{who} {what}, so it has to be there in the prefill: leave phase= and steps= out, "
                'or give phase="prefill".'
            )

    def heads_of(self, site: Site) -> tuple[int, ...] | None:
        """The heads meant at a site, as they were given; None for all."""
        if not isinstance(self.heads, Mapping):
            return self.heads
        found: tuple[int, ...] = ()
        for layer, heads in self.heads.items():
            if layer % site.depth == site.layer and -site.depth <= layer < site.depth:
                found += heads
        return found or None

    def _has_layer(self, site: Site) -> bool:
        def among(layers: Iterable[int]) -> bool:
            return any(n in (site.layer, site.layer - site.depth) for n in layers)

        if isinstance(self.heads, Mapping) and not among(self.heads):
            return False
        return self.layers is None or among(self.layers)

    def _stacks(self, sites: Sequence[Site], who: object) -> tuple[str, ...]:
        kinds = {site.stack: site.kind for site in sites}
        there = tuple(kinds)
        names = ", ".join(map(repr, there))
        if self.stack == "all":
            return there
        if self.stack is None:
            if "decoder" in there:
                return ("decoder",)
            main = tuple(dict.fromkeys(site.stack for site in sites if site.denoiser)) or there
            if len(main) == 1:
                return main
            raise FoveateError(
                f"{who} does not say which stack it means, and this model has several: {names}. "
                f"Give "
                'stack=, one of these or "all".'
            )
        wanted = (self.stack,) if isinstance(self.stack, str) else self.stack
        chosen: dict[str, None] = {}
        for name in wanted:
            found = _named(name, kinds)
            if not found:
                raise FoveateError(
                    f"{who} names a stack {name!r}; the stacks of this model: {names}."
                )
            chosen |= dict.fromkeys(found)
        return tuple(chosen)


@dataclass(frozen=True)
class Middle(Scope):
    """All layers but the first two and the last."""

    def select(self, sites: Sequence[Site], who: object) -> list[Site]:
        if not any(self._has_layer(site) for site in sites):
            raise FoveateError(
                f"{who} leaves out the first two layers and the last, and nothing is left of this "
                "model: name layers= yourself."
            )
        return super().select(sites, who)

    def _has_layer(self, site: Site) -> bool:
        return 2 <= site.layer < site.depth - 1 and super()._has_layer(site)


def _named(name: str, kinds: Mapping[str, str]) -> list[str]:
    """The stacks that a name means: its own, or those below it, of its kind, or like it."""
    if name in kinds:
        return [name]
    return [
        stack
        for stack, kind in kinds.items()
        if stack.startswith(f"{name}.") or kind == name or fnmatchcase(stack, name)
    ]
