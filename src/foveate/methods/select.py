"""Attach a pattern: who may look at whom on a live model, in some layers and heads or all."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..adapters.sites import Site
from ..engine.pattern import Pattern as Protocol
from ..engine.program import Program
from ..engine.terms import hidden
from ..errors import FoveateError
from ..patterns import Pattern
from ..patterns._algebra import OnHeads
from ._method import Method

if TYPE_CHECKING:
    from ..attach import Call

__all__ = ["Select"]


class Select(Method):
    """Let tokens see only what a pattern shows them, within what the model itself shows.

    ``fv.attach(model, pattern)`` is ``fv.attach(model, fv.Select(pattern))``. Positions are
    absolute; in a padded batch each row counts from its first real token, so that a sliding
    window's sinks are the first tokens of the text and not of the padding.

    Parameters
    ----------
    pattern : Pattern
    layers, heads, phase, stack, steps
        Where and when; see :class:`foveate.methods._method.Method`. Other heads see everything.

    Raises
    ------
    FoveateError
        What is no pattern; a pattern of other heads than the site has, a grid of fewer tokens.

    Notes
    -----
    Several patterns attached together show what all of them show.
    """

    def __init__(self, pattern: Pattern, **scope: Any) -> None:
        if not isinstance(pattern, Pattern):
            given, hint = type(pattern).__name__, ""
            if isinstance(pattern, type):
                given = f"the class {pattern.__name__}"
                hint = f" Give it an object: {pattern.__name__}(…)."
            raise FoveateError(
                f"Select takes a pattern, such as fv.SlidingWindow(256, sinks=4); {given} was "
                f"given.{hint}"
            )
        super().__init__(**scope)
        self.pattern = pattern
        self._warned = False

    def alike(self, site: Site) -> object:
        """Sites with the same heads in scope are rewritten alike."""
        return self.scope.heads_of(site)

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """The program with the pattern ANDed to its own."""
        pattern, heads = self.pattern, call.shapes.Hq
        if pattern.heads not in (None, heads):
            raise FoveateError(
                f"{self!r} tells {pattern.heads} heads apart and {site.name} has {heads}."
            )
        some = self.scope.heads_at(site, heads)
        if some is not None:
            pattern = OnHeads(pattern, some, heads)
        by = _origin(program, call)
        if isinstance(by, Tensor) and site.kind == "cross":
            raise FoveateError(
                f"{self!r} on {site.name}: keys padded on the left move away from the queries of "
                "another stack, and with them what a pattern shows; pad on the right."
            )
        if isinstance(by, Tensor) or by:
            pattern = pattern.moved(by)
        causal = program.causal or program.bias is not None or site.kind == "decoder"
        pattern.fits(call.shapes.Sq, call.shapes.Sk, call.q_offset - call.kv_offset, causal)
        self._warn(site)
        own = program.pattern
        if own is None:
            return program.evolve(pattern=pattern)
        both = own & pattern if isinstance(own, Pattern) else Both(own, pattern)
        return program.evolve(pattern=both)

    def _warn(self, site: Site) -> None:
        """Once, of a grid on a stack that writes text."""
        grids = [p for p in self.pattern.parts() if hasattr(p, "grid")]
        plain = [p for p in grids if not any(getattr(p, "causal", ()))]
        if plain and site.kind == "decoder" and not self._warned:
            self._warned = True
            warnings.warn(
                f"{plain[0]!r} lies on a grid and {site.name} is of a causal decoder: its tokens "
                "are taken for the grid's, row by row, and each sees only those before it.",
                stacklevel=2,
            )

    def _given(self) -> list[str]:
        return [repr(self.pattern)]


def _origin(program: Program, call: Call) -> int | Tensor:
    """What to add to a key's index so that a row's first real token is 0."""
    program = call.own or program  # what a method hides is no padding
    if call.kv_offset:  # a cache that slid has let go of the padding
        return call.kv_offset
    if program.key_bias is not None:
        bias = program.key_bias.reshape(-1, *program.key_bias.shape[-2:])[:, 0]
        seen = ~hidden(bias)
    elif program.bias is not None:  # a prepared mask, causal and padded: whatever any query sees
        bias = program.bias.reshape(-1, *program.bias.shape[-3:])
        seen = (bias if bias.dtype == torch.bool else ~hidden(bias)).flatten(1, 2).any(1)
    else:
        return 0
    first = torch.where(seen.any(-1), seen.int().argmax(-1), 0)
    if program.bias is not None and call.q_offset:  # what no row sees, a window has left behind
        first = first - first.min()
    return -first if bool(first.any()) else 0


@dataclass(frozen=True, eq=False)
class Both:
    """A model's own pattern, of the engine's protocol, and one of ours."""

    first: Protocol
    second: Protocol

    @property
    def routed(self) -> bool:
        """Whether ours looks at the content."""
        return bool(getattr(self.second, "routed", False))

    def route(self, q: Tensor, k: Tensor, **call: Any) -> Both:
        """Both, for one call."""
        second: Any = self.second
        return Both(self.first, second.route(q, k, **call))

    def tile(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """What both show."""
        return self.first.tile(q_pos, k_pos) & self.second.tile(q_pos, k_pos)

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        """The keys in reach of both."""
        a, b = self.first.key_range(q_start, q_stop, keys)
        c, d = self.second.key_range(q_start, q_stop, keys)
        low = max(a, c)
        return low, max(low, min(b, d))
