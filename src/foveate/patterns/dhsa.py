"""DHSA: keys chosen by chunks that follow the content."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._implements import implements
from ..errors import FoveateError
from ._base import whole
from ._blocks import Queries, ends, query_blocks, spread, unpadded
from .chunks import Boundaries, chunk_edges, fixed_edges, similarity_shifts
from .routed import Pieces, Routed, Selection

__all__ = ["DHSA", "best_tokens", "chunk_means"]


@implements("dhsa", basis="paper")
@dataclass(frozen=True)
class DHSA(Routed):
    """Dynamic hierarchical sparse attention: keys chosen by chunks of varying length.

    The keys are cut into chunks where the content changes. A chunk stands for its keys with their
    mean times the square root of its length, a block of queries likewise; their product is the
    score of all the chunk's keys, and each block sees the ``budget`` keys that score highest. Among
    them are in any case the first ``sinks`` and the last ``window`` of every query.

    Parameters
    ----------
    budget : int
        Keys that a query sees; more than ``sinks + window``. Those of a block beside the first see
        their own block up to themselves on top. With as many as there are keys, or more, attention
        is dense.
    chunk : int
        Mean length of a chunk, in keys: there are at most ``Sk // chunk`` chunks.
    apart : int
        Two boundaries are further apart than so many keys.
    boundaries : {"similarity", "fixed"} or callable
        Where chunks end. ``"similarity"``, training-free: where the keys change
        (:func:`foveate.patterns.chunks.similarity_shifts`). ``"fixed"``: every ``chunk`` keys,
        block-sparse attention. A callable gives scores ``[B, Sk]`` of keys ``[B, Hkv, Sk, D]``;
        the paper's is a :class:`foveate.patterns.chunks.BoundaryPredictor`, trained by
        :func:`foveate.find.boundaries.fit_boundaries`.
    block_q : int
        Queries that choose together.
    window, sinks : int
    last : int
        The last queries of a longer prefill see everything (they ask the question).
    shared : bool
        All heads choose together, by the mean of their queries and keys.

    Raises
    ------
    FoveateError
        Numbers that are none; a budget that sinks and window use up; boundaries of another kind,
        or scores of another shape.

    Notes
    -----
    Sizes are the authors' (``legacy/``: blocks of 128 queries, budget 1,024, 128 first and 128
    last keys, 8 chunks for 128 keys, boundaries more than 8 apart, the last 64 queries dense).
    There all heads share one choice (``shared=True``); in the paper's formula, and in the authors'
    later code, each has its own, which is the default here. Where the paper also cuts the queries
    at the boundaries, their code takes blocks; so does this. They put the budget's first keys in
    the place of others and take the window to the end of the block; here the window is the
    query's. Of the chunk that the budget breaks, the first keys are taken. Their code decodes
    densely; here a step of decoding chooses like the rest, cutting anew, which is right but takes
    longer than it saves.

    Boundaries, and with them the choice, depend on all keys of the call, also later ones; what is
    read does not. Padding is in no chunk; in a batch padded on the
    right, a row's ``last`` queries are padding.

    References
    ----------
    Xiong et al., "Long-Context Modeling with Dynamic Hierarchical Sparse Attention for On-Device
    LLMs", 2025 (arXiv:2510.24606), section 3; the authors' ``legacy/utils/helper.py``.

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> q, k, v = torch.randn(3, 1, 4, 1024, 32).unbind(0)
    >>> dhsa = fv.patterns.DHSA(budget=192, window=64, sinks=32)
    >>> fv.attention(q, k, v, causal=True, pattern=dhsa).out.shape
    torch.Size([1, 4, 1024, 32])
    >>> dhsa.edges(k).shape  # where each chunk begins, and the end
    torch.Size([1, 65])
    """

    budget: int = 1024
    chunk: int = 16
    apart: int = 8
    boundaries: str | Boundaries = "similarity"
    block_q: int = 128
    window: int = 128
    sinks: int = 128
    last: int = 64
    shared: bool = False

    def __post_init__(self) -> None:
        for name in ("budget", "chunk", "block_q", "window"):
            whole("DHSA", name, getattr(self, name))
        for name in ("apart", "sinks", "last"):
            whole("DHSA", name, getattr(self, name), least=0)
        if self.budget <= self.sinks + self.window:
            raise FoveateError(
                f"DHSA(budget={self.budget}, sinks={self.sinks}, window={self.window}): sinks and "
                "window are part of the budget and leave nothing to choose; give a larger one."
            )
        if self.boundaries not in ("similarity", "fixed") and not callable(self.boundaries):
            raise FoveateError(
                f'DHSA(boundaries={self.boundaries!r}): "similarity", "fixed" or a callable from '
                "keys to scores was wanted."
            )

    @torch.no_grad()
    def edges(self, k: Tensor, visible: Tensor | None = None) -> Tensor:
        """Where chunks of ``k [B,Hkv,Sk,D]`` begin and end: int64 ``[B, chunks + 1]``."""
        B, Sk = k.shape[0], k.shape[2]
        if self.boundaries == "fixed":
            return fixed_edges(B, Sk, self.chunk, k.device)
        score = similarity_shifts if isinstance(self.boundaries, str) else self.boundaries
        scores = score(k)
        if scores.shape != (B, Sk):
            raise FoveateError(
                f"DHSA(boundaries=...) gave scores {list(scores.shape)} for {Sk} keys; "
                f"[{B}, {Sk}] was wanted."
            )
        if visible is not None:
            scores = scores.masked_fill(~visible, -float("inf"))
        return chunk_edges(scores, max(1, Sk // self.chunk), self.apart)

    @torch.no_grad()
    def choose(
        self, q: Tensor, k: Tensor, *, causal: bool, q_offset: int, scale: float,
        visible: Tensor | None = None,
    ) -> Selection:  # fmt: skip
        """The keys chosen for ``q [B,Hq,Sq,D]`` among ``k [B,Hkv,Sk,D]``."""
        B, Sq, Sk = q.shape[0], q.shape[2], k.shape[2]
        q, k = unpadded(q, k, visible, causal, q_offset)
        full = self.last if Sq > self.last else 0
        blocks = query_blocks(Sq - full, q_offset, self.block_q, k.device)
        length = (blocks.rows >= 0).sum(1)
        queries = blocks.mean(q[:, :, : Sq - full]) * length.sqrt()[:, None]
        low, high = ends(visible, B, Sk, k.device)
        if not causal:  # as if every query stood at the end, without a window
            blocks = Queries(blocks.rows, *(torch.full_like(blocks.first, Sk - 1),) * 2)
        window = self.window if causal else 0
        begin = (low + self.sinks)[:, None]
        stop = torch.minimum(blocks.first + 1 - window, high[:, None])
        start = torch.maximum(stop, begin)  # what may be chosen: begin … start - 1
        edges = self.edges(k, visible)
        means = chunk_means(k, edges, visible)
        if self.shared:
            queries, means = (x.mean(1, keepdim=True) for x in (queries, means))
        H = queries.shape[1]
        means = means.repeat_interleave(H // means.shape[1], 1)
        free = min(self.budget - self.sinks - window, Sk)
        found = best_tokens(queries @ means.mT, edges, begin, start, free)
        past = (blocks.first + 1).clamp(max=Sk).expand(B, -1)
        always = [spread(low[:, None].expand_as(past), begin.minimum(past)), spread(start, past)]
        sinks, recent = (one[:, None].expand(-1, H, -1, -1) for one in always)
        own = spread(past.clamp(min=0), (blocks.last + 1).clamp(max=Sk).expand(B, -1))[:, None]
        rows = blocks.rows[None, None]
        pieces = [Pieces(rows, torch.cat([sinks, found, recent], -1), past=True)]
        if bool((own >= 0).any()):
            pieces.append(Pieces(rows, own))
        if full:
            at, keys = (torch.arange(n, device=k.device)[None, None, None] for n in (Sq, Sk))
            pieces.append(Pieces(at[..., Sq - full :], keys))
        return Selection(pieces, Sq, Sk, causal=causal, q_offset=q_offset)


def chunk_means(k: Tensor, edges: Tensor, visible: Tensor | None = None) -> Tensor:
    """Mean times the square root of the length of every chunk, hidden keys left out.

    ``k [B,H,Sk,D]`` and int64 ``edges [B,C+1]`` → ``[B,H,C,D]``, float32 or wider; 0 for an empty
    chunk.
    """
    B, H, Sk, D = k.shape
    C = edges.shape[1] - 1
    place = torch.arange(Sk, device=k.device).expand(B, -1).contiguous()
    which = torch.searchsorted(edges[:, 1:].contiguous(), place, right=True)
    which = (which + torch.arange(B, device=k.device)[:, None] * C).flatten()
    flat = k.transpose(1, 2).reshape(B * Sk, H * D).to(torch.promote_types(k.dtype, torch.float32))
    length = edges.diff().flatten()
    if visible is not None:
        seen = visible.reshape(-1)
        flat, which = flat[seen], which[seen]
        length = which.bincount(minlength=B * C)
    total = flat.new_zeros(B * C, H * D).index_add_(0, which, flat)
    total = total * length.clamp(min=1).to(flat.dtype).rsqrt()[:, None]
    return total.unflatten(0, (B, C)).unflatten(2, (H, D)).transpose(1, 2)


def best_tokens(scores: Tensor, edges: Tensor, start: Tensor, stop: Tensor, budget: int) -> Tensor:
    """The ``budget`` keys whose chunks score highest, chunk by chunk.

    They are the ``budget`` greatest of the scores copied to every key of a chunk; of the last
    chunk, the first keys.

    Parameters
    ----------
    scores : Tensor
        ``[B, H, N, C]``: blocks of queries against chunks.
    edges : Tensor
        int64 ``[B, C + 1]``.
    start, stop : Tensor
        int64 ``[B, 1]`` and ``[B, N]``: keys ``start … stop - 1`` may be chosen.
    budget : int

    Returns
    -------
    Tensor
        int64 ``[B, H, N, budget]``; -1 where there are fewer.
    """
    low = edges[:, None, :-1].maximum(start[..., None])  # [B, 1, C]
    length = (edges[:, None, 1:].minimum(stop[..., None]) - low).clamp(min=0)[:, None]
    length = length.expand(scores.shape)
    order = scores.masked_fill(length == 0, -float("inf")).argsort(-1, descending=True)
    length = length.gather(-1, order)
    end = length.cumsum(-1)
    slot = torch.arange(budget, device=scores.device).expand(*scores.shape[:-1], -1).contiguous()
    which = torch.searchsorted(end, slot, right=True)
    real = which < end.shape[-1]
    first = low[:, None].expand(scores.shape).gather(-1, order) - (end - length)  # key, less slot
    return torch.where(real, first.gather(-1, which.clamp(max=end.shape[-1] - 1)) + slot, -1)
