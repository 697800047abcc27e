"""Bi-level routing: regions of a grid choose regions, their tokens attend densely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._implements import implements
from ..errors import FoveateError
from ._base import whole
from .grid import _axes, _OnGrid
from .routed import Pieces, Routed, Selection

__all__ = ["BiLevel"]


@implements("biformer", basis="paper")
@dataclass(frozen=True, init=False)
class BiLevel(Routed):
    """The tokens of a region see the ``top`` regions whose mean key fits its mean query best.

    The affinity of two regions is ``mean(q) · mean(k)`` over all channels, so that all heads of a
    call choose alike; what is chosen is seen whole, by every token of the region. The own region
    is one of many: it is seen if it is among the best.

    Parameters
    ----------
    grid : sequence of int
        Sides of the grid of tokens, row-major.
    regions : int or sequence of int
        Regions along each side (BiFormer: 7); they must divide the grid's sides.
    top : int
        Regions seen; with as many as there are, or more, all is seen.

    Raises
    ------
    FoveateError
        Regions that do not divide the grid; a call that does not hold the whole grid, or is causal.

    Notes
    -----
    The choice has no gradient (queries and keys are detached in the authors' code too). The
    attention's scale is the call's; BiFormer takes ``(heads * D) ** -0.5``, see
    :class:`foveate.layers.BiLevelRouting`.

    References
    ----------
    Zhu et al., "BiFormer: Vision Transformer with Bi-Level Routing Attention", 2023, section 3.2,
    and the authors' ``bra_legacy.py`` and ``bra_nchw.py``.

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> q, k, v = torch.randn(3, 1, 2, 14 * 14, 16).unbind(0)
    >>> pattern = fv.patterns.BiLevel((14, 14), regions=7, top=4)
    >>> fv.attention(q, k, v, pattern=pattern).out.shape
    torch.Size([1, 2, 196, 16])
    """

    grid: tuple[int, ...]
    regions: tuple[int, ...]
    top: int

    def __init__(self, grid: Sequence[int], regions: int | Sequence[int], top: int) -> None:
        _OnGrid._set_grid(self, "BiLevel", grid)  # type: ignore[arg-type]
        object.__setattr__(self, "regions", _axes("BiLevel", "regions", regions, len(self.grid)))
        object.__setattr__(self, "top", whole("BiLevel", "top", top))
        for part, side in zip(self.regions, self.grid, strict=True):
            if side % part:
                raise FoveateError(
                    f"BiLevel: {part} regions do not divide the grid's side of {side}; pad the "
                    f"grid to {-(-side // part) * part}, or choose another number of regions."
                )

    @property
    def members(self) -> Tensor:
        """The tokens of each region, int64 ``[regions, tokens of one]``."""
        sides = list(zip(self.regions, self.grid, strict=True))
        shape = [n for part, side in sides for n in (part, side // part)]
        axes = [*range(0, len(shape), 2), *range(1, len(shape), 2)]
        tokens = torch.arange(math.prod(self.grid)).view(shape).permute(axes)
        return tokens.reshape(math.prod(self.regions), -1)

    def choose(
        self, q: Tensor, k: Tensor, *, causal: bool, q_offset: int, scale: float,
        visible: Tensor | None = None,
    ) -> Selection:  # fmt: skip
        """What the regions of ``q, k [B, H, tokens, D]`` chose, as pieces."""
        members = self.members.to(q.device)
        tokens = members.numel()
        if causal or q_offset or q.shape[2] != tokens or k.shape[2] != tokens:
            how = "a causal call" if causal else f"{q.shape[2]} queries on {k.shape[2]} keys"
            raise FoveateError(
                f"BiLevel(grid={self.grid}): {how} was given; the {tokens} tokens of the grid were "
                "wanted as queries and as keys, in a call that is not causal."
            )
        which = self.chosen(q, k)
        keys = members[which].flatten(-2)
        pieces = Pieces(members[None, None], keys[:, None])
        return Selection([pieces], tokens, tokens, causal=False, q_offset=0)

    @torch.no_grad()
    def chosen(self, q: Tensor, k: Tensor) -> Tensor:
        """The regions that each region chose, int64 ``[B, regions, top]``."""
        members = self.members.to(q.device)
        dtype = torch.promote_types(q.dtype, torch.float32)
        q_mean, k_mean = (
            x.index_select(2, members.flatten()).unflatten(2, members.shape).mean(3, dtype=dtype)
            for x in (q, k)
        )
        k_mean = k_mean.repeat_interleave(q.shape[1] // k.shape[1], 1)
        affinity = (q_mean @ k_mean.mT).sum(1)  # over heads: one product of all channels
        return affinity.topk(min(self.top, len(members)), -1).indices
