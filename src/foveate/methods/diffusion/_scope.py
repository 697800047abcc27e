"""Where image tokens look at text: the default of methods that speak of words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...adapters.sites import Site
from ...errors import FoveateError
from .._scope import Scope

__all__ = ["Denoisers"]


@dataclass(frozen=True)
class Denoisers(Scope):
    """Where no stack is named: all of a denoiser's of some kinds, ControlNets' left out.

    Attributes
    ----------
    kinds : tuple of str
    """

    kinds: tuple[str, ...] = ("cross", "joint", "single")

    def _stacks(self, sites: Sequence[Site], who: object) -> tuple[str, ...]:
        if self.stack is not None:
            return super()._stacks(sites, who)
        found = dict.fromkeys(
            site.stack
            for site in sites
            if site.denoiser and site.kind in self.kinds and not site.stack.startswith("controlnet")
        )
        if not found:
            there = ", ".join(repr(stack) for stack in dict.fromkeys(site.stack for site in sites))
            raise FoveateError(
                f"{who} acts where the image of a text-to-image model looks at the text "
                f"({', '.join(self.kinds)}); this model has no such stack, but {there}."
            )
        return tuple(found)
