"""Vertical-slash: some keys for all queries and some distances, judged by the last queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from ..errors import FoveateError
from ._base import whole
from ._blocks import ends, query_blocks, spread, unpadded
from .routed import Pieces, Routed, Selection

__all__ = ["VerticalSlash", "line_mass"]


@dataclass(frozen=True)
class VerticalSlash(Routed):
    """MInference's vertical-slash: the columns and diagonals on which the last queries look.

    The attention of the last queries is summed over every key (vertical lines) and over every
    distance (slashes). Each head keeps the best of both; all queries see these keys, and those at
    these distances. A causal pattern.

    Parameters
    ----------
    verticals : int
        Keys that all later queries see, the first ``sinks`` among them; at most all.
    slashes : int
        Distances, 0 to ``window - 1`` among them; at most all. A block of queries sees what any of
        its queries has at such a distance: ``block`` keys for a distance that stands alone.
    last : int
        The queries that judge; at most as many as the call has.
    block : int
        Queries that are run together.
    sinks, window : int
        First keys and shortest distances, kept in any case.

    Raises
    ------
    FoveateError
        Numbers that are none; fewer verticals than sinks or slashes than the window; a call that
        is not causal.

    Notes
    -----
    Constants as in the authors' code (64 queries, blocks of 64, 30 first keys, 100 distances).
    There each head's numbers are searched beforehand, and other heads use other patterns; here all
    heads have the same numbers (``fv.Select(..., heads=...)`` gives them to some). Decoding judges
    by the step's own query, which costs a dense step; there it is dense.

    References
    ----------
    Jiang et al., "MInference 1.0", NeurIPS 2024 (arXiv:2407.02490), algorithm 2; the authors'
    ``minference/modules/minference_forward.py``.

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> q, k, v = torch.randn(3, 1, 4, 1024, 32).unbind(0)
    >>> lines = fv.patterns.VerticalSlash(verticals=64, slashes=128)
    >>> fv.attention(q, k, v, causal=True, pattern=lines).out.shape
    torch.Size([1, 4, 1024, 32])
    """

    verticals: int
    slashes: int
    last: int = 64
    block: int = 64
    sinks: int = 30
    window: int = 100

    def __post_init__(self) -> None:
        for name in ("verticals", "slashes", "last", "block", "window"):
            whole("VerticalSlash", name, getattr(self, name))
        whole("VerticalSlash", "sinks", self.sinks, least=0)
        for lines, kept in (("verticals", "sinks"), ("slashes", "window")):
            if getattr(self, lines) < getattr(self, kept):
                raise FoveateError(
                    f"VerticalSlash({lines}={getattr(self, lines)}, {kept}={getattr(self, kept)}):"
                    f" {kept} are among the {lines}; give at least as many."
                )

    @torch.no_grad()
    def choose(
        self, q: Tensor, k: Tensor, *, causal: bool, q_offset: int, scale: float,
        visible: Tensor | None = None,
    ) -> Selection:  # fmt: skip
        """The lines chosen for ``q [B,Hq,Sq,D]`` among ``k [B,Hkv,Sk,D]``."""
        if not causal:
            raise FoveateError(
                "VerticalSlash looks back at distances: it is for causal attention, and causal="
                "False was given. HiP and DHSA take such calls."
            )
        (B, _, Sq, D), Sk = q.shape, k.shape[2]
        q, k = unpadded(q, k, visible, causal, q_offset)
        low, high = ends(visible, B, Sk, k.device)
        few = min(self.last, Sq)
        until = high.clamp(max=q_offset + Sq) - q_offset  # one past the last real query
        at = (until[:, None] - few + torch.arange(few, device=k.device)).clamp(0, Sq - 1)
        judges = q.gather(2, at[:, None, :, None].expand(-1, q.shape[1], -1, D))
        column, diagonal = line_mass(judges, k, at + q_offset, scale, visible)
        place = torch.arange(Sk, device=k.device)
        first = (place >= low[:, None]) & (place < (low + self.sinks)[:, None])
        column = column.masked_fill(first[:, None], float("inf"))
        diagonal[..., : self.window] = float("inf")
        keys = column.topk(min(self.verticals, Sk)).indices.sort(-1).values  # [B, H, V]
        kept = torch.zeros_like(diagonal, dtype=torch.bool)
        kept.scatter_(-1, diagonal.topk(min(self.slashes, Sk)).indices, True)

        blocks = query_blocks(Sq, q_offset, self.block, k.device)
        m = blocks.rows.shape[1]
        # a block's first query looks back by t; some query of the block has the key at t … t+m-1
        reach = max_pool1d(pad(kept.float().flatten(0, 1), (0, m - 1)), m, 1) > 0
        reach = reach.unflatten(0, (B, -1))
        back = torch.where(reach, place, Sk).sort(-1).values[..., : int(reach.sum(-1).amax())]
        slash = blocks.first[:, None] - back[:, :, None]  # [B, H, N, t]
        gone = (back == Sk)[:, :, None] | (slash < low[:, None, None, None]) | (slash >= Sk)
        behind = blocks.first[:, None] - keys[:, :, None]  # [B, H, N, V]
        there = reach[:, :, None].expand(-1, -1, len(blocks.rows), -1)
        twice = there.gather(-1, behind.clamp(0, Sk - 1)) & (behind < Sk)
        alone = (behind >= 0) & ~twice & (keys < high[:, None, None])[:, :, None]
        columns = torch.where(alone, keys[:, :, None], -1)
        far = torch.cat([columns, slash.masked_fill(gone, -1)], -1)
        after = (blocks.first + 1).clamp(0, Sk)
        own = spread(after, (blocks.last + 1).clamp(max=Sk))[None, None]
        rows = blocks.rows[None, None]
        pieces = [Pieces(rows, far, past=True)]
        if bool((own >= 0).any()):
            pieces.append(Pieces(rows, own))
        return Selection(pieces, Sq, Sk, causal=causal, q_offset=q_offset)


def line_mass(
    q: Tensor, k: Tensor, at: Tensor, scale: float, visible: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The causal attention of a few queries, summed over columns and over diagonals.

    ``q [B,Hq,m,D]`` at positions ``at [B,m]``, ``k [B,Hkv,Sk,D]`` → two of ``[B,Hq,Sk]``: by key,
    and by distance.
    """
    B, H, m, _ = q.shape
    Sk = k.shape[2]
    grouped = q.unflatten(1, (k.shape[1], -1)).flatten(2, 3)  # a group's heads on its keys at once
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (grouped @ k.mT).to(wide).reshape(B, H, m, Sk) * scale
    at = at[:, None, :, None]
    place = torch.arange(Sk, device=q.device)
    hidden = place > at  # [B, 1, m, Sk]
    if visible is not None:
        hidden = hidden | ~visible[:, None, None]
    p = scores.masked_fill(hidden, -float("inf")).softmax(-1).nan_to_num(0.0)
    back = at - place  # the key at each distance
    on = p.gather(-1, back.clamp(0, Sk - 1).expand(B, H, -1, -1))
    return p.sum(-2), on.masked_fill((back < 0) | (back >= Sk), 0.0).sum(-2)
