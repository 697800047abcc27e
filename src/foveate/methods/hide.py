"""Hide tokens: nobody attends to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..adapters.sites import Site
from ..engine.pattern import Pattern
from ..engine.program import Program
from ..errors import FoveateError
from ._method import Method

if TYPE_CHECKING:
    from ..attach import Call

__all__ = ["From", "Hide"]


class Hide(Method):
    """Take a region away from sight: the rest of every row is renormalised.

    Unlike a small gain this is exact: what is hidden gets a weight of 0. A query that sees nothing
    else has an output of 0.

    Parameters
    ----------
    region : str
        What is hidden.
    queries : str, optional
        From whom: only the queries of this region. Default: everybody, which costs nothing (a
        key-only term); for some queries it runs a tile of scores at a time.
    layers, heads, phase, stack, steps
        As everywhere.

    Examples
    --------
    >>> with fv.attach(model, fv.Hide("evidence"), prompt=prompt):
    ...     ids = model.generate(**prompt.inputs)
    """

    def __init__(self, region: str, *, queries: str | None = None, **scope: Any) -> None:
        super().__init__(**scope)
        for name in (region, queries):
            if name is not None and (not isinstance(name, str) or not name):
                raise FoveateError(f"Hide takes the names of regions; {name!r} was given.")
        self.region = region
        self.where = queries
        self.regions = (region,) if queries is None else (region, queries)

    def alike(self, site: Site) -> object:
        """Sites that compare equal here get the same rewrite, and share one plan in a forward."""
        return self.scope.heads_of(site)

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """Hide the region's keys."""
        away = call.views[self.region]
        away = away.reshape(-1, 1, away.shape[-1])  # [B|1, 1, Sk]
        heads = self.scope.heads_at(site, call.shapes.Hq)
        if heads is not None:
            chosen = torch.zeros(call.shapes.Hq, dtype=torch.bool, device=away.device)
            chosen[list(heads)] = True
            away = away & chosen[None, :, None]
        if self.where is None:
            dtype, device = call.shapes.stat_dtype, call.shapes.device
            bias = program.key_bias
            bias = torch.zeros((), dtype=dtype, device=device) if bias is None else bias
            hidden = torch.where(away, torch.full((), -torch.inf, dtype=bias.dtype), bias)
            return program.evolve(key_bias=hidden)
        from_keys = call.views[self.where]
        seer = from_keys.reshape(-1, 1, from_keys.shape[-1])
        return program.evolve(pattern=From(away, seer, program.pattern))

    def _given(self) -> list[str]:
        return [repr(self.region)] + ([] if self.where is None else [f"queries={self.where!r}"])


@dataclass(frozen=True, eq=False)
class From:
    """Beside ``inner``: keys ``away`` are invisible to the queries ``seer``, as key positions."""

    away: Tensor  # [B|1, H|1, Sk]
    seer: Tensor  # [B|1, 1, Sk]
    inner: Pattern | None

    def tile(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        keys = self.seer.shape[-1]
        seer = self.seer[..., q_pos.clamp(0, keys - 1)] & (q_pos >= 0) & (q_pos < keys)
        seen = ~(seer[..., :, None] & self.away[..., None, k_pos])
        return seen if self.inner is None else seen & self.inner.tile(q_pos, k_pos)

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        return (0, keys) if self.inner is None else self.inner.key_range(q_start, q_stop, keys)
