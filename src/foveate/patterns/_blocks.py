"""Blocks of queries that choose their keys together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Queries", "ends", "query_blocks", "spread", "unpadded"]


@dataclass(frozen=True, eq=False)
class Queries:
    """A call's queries in blocks.

    Attributes
    ----------
    rows : Tensor
        int64 ``[N, m]``: the call rows of each block, -1 where it is short.
    first, last : Tensor
        int64 ``[N]``: the positions (key indices) of a block's first and last query.
    """

    rows: Tensor
    first: Tensor
    last: Tensor

    def taken(self, q: Tensor, every: int = 1) -> Tensor:
        """Queries ``[B,H,Sq,D]`` by blocks: ``[B,H,N,ceil(m/every),D]``; short ones repeat one."""
        none = self.rows < 0
        first = self.rows.masked_fill(none, self.rows.amax()).amin(1, keepdim=True)
        rows = torch.where(none, first, self.rows)[:, ::every]
        return q.index_select(2, rows.flatten()).unflatten(2, tuple(rows.shape))

    def mean(self, q: Tensor) -> Tensor:
        """Mean query of every block, float32 or wider: ``[B,H,N,D]``."""
        real = (self.rows >= 0).to(torch.promote_types(q.dtype, torch.float32))
        return (real[:, None] @ self.taken(q).to(real.dtype))[..., 0, :] / real.sum(1)[:, None]


def query_blocks(Sq: int, q_offset: int, size: int, device: torch.device) -> Queries:
    """Blocks of ``size`` queries, cut at multiples of ``size`` of the *position*.

    So chunks of a prefill choose as the whole does, where they begin and end with a block. A step
    of decoding is a block of one query.
    """
    before = q_offset % size if Sq > 1 else 0
    size = min(size, before + Sq)
    count = -(-(before + Sq) // size)
    rows = torch.arange(count * size, device=device).unflatten(0, (count, size)) - before
    real = (rows >= 0) & (rows < Sq)
    first, last = rows.clamp(min=0).amin(1), rows.clamp(max=Sq - 1).amax(1)
    return Queries(torch.where(real, rows, -1), first + q_offset, last + q_offset)


def ends(visible: Tensor | None, B: int, Sk: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The first visible key of every batch item, and one past its last: int64 ``[B]``."""
    if visible is None:
        low = torch.zeros(B, dtype=torch.int64, device=device)
        return low, torch.full_like(low, Sk)
    seen = visible.int()
    return seen.argmax(-1), Sk - seen.flip(-1).argmax(-1)


def spread(low: Tensor, high: Tensor) -> Tensor:
    """``low … high - 1`` along a new last axis, -1 filling up; at least one wide."""
    width = max(1, int((high - low).amax()))
    values = low.unsqueeze(-1) + torch.arange(width, device=low.device)
    return torch.where(values < high.unsqueeze(-1), values, -1)


def unpadded(
    q: Tensor, k: Tensor, visible: Tensor | None, causal: bool, q_offset: int
) -> tuple[Tensor, Tensor]:
    """Hidden keys, and in a causal call the queries that stand on them, as zeros.

    So that whatever stands in the padding has no part in a choice.
    """
    if visible is None:
        return q, k
    if causal:
        at = torch.arange(q.shape[2], device=q.device) + q_offset
        own = visible[:, at.clamp(0, k.shape[2] - 1)]
        q = q.masked_fill(~own[:, None, :, None], 0.0)
    return q, k.masked_fill(~visible[:, None, :, None], 0.0)
