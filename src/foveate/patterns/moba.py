"""Mixture of block attention: each query sees its own block and those whose mean key it likes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from .._implements import implements
from ._base import whole
from .routed import Pieces, Routed, Selection

__all__ = ["MoBA"]

INF = float("inf")
_GATED = 1_000_000  # scores of blocks held at once: what the cache holds
_FEW = 16  # up to so many queries each brings its own keys: decoding


@implements("moba", basis="paper")
@dataclass(frozen=True)
class MoBA(Routed):
    """Keys in blocks; a query sees its own block and the ``top - 1`` others it scores highest.

    A block is scored by ``q · mean(K of the block)``, for every query and head by itself. In a
    causal call only whole blocks before the query's own can be chosen, and the own block is seen
    up to the query. No parameters: a layer can change between dense and MoBA at any time, and
    ``fv.attach(model, MoBA(128, 8))`` tries it on a model that was not trained with it.

    Parameters
    ----------
    block : int
        Keys of a block, counted from key 0 of the call. The last one may be shorter.
    top : int
        Blocks a query sees, its own among them; with as many as there are blocks, or more, all
        is seen.

    Notes
    -----
    Under grouped-query attention every query head chooses by itself, as in the authors' code,
    which repeats the keys. Decoding chooses too, where the authors' code decodes densely (it says
    "TODO"): one prefill and the same tokens decoded one by one agree. The gate is computed in
    float32 and has no gradient; q, k and v of the chosen blocks have theirs. In a call that is not
    causal, which the paper does not treat, every other block can be chosen. The keys of padding
    count in the mean of a block that holds some.

    Where two blocks score alike, which of them is chosen is open; never more than ``top`` are.

    References
    ----------
    Lu et al., "MoBA: Mixture of Block Attention for Long-Context LLMs", 2025, section 2 and
    ``moba_naive.py``, ``moba_efficient.py`` of the authors.

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> q, k, v = torch.randn(3, 1, 4, 256, 32).unbind(0)
    >>> fv.attention(q, k, v, causal=True, pattern=fv.patterns.MoBA(block=32, top=3)).out.shape
    torch.Size([1, 4, 256, 32])
    """

    block: int
    top: int

    def __post_init__(self) -> None:
        whole("MoBA", "block", self.block)
        whole("MoBA", "top", self.top)

    def choose(
        self, q: Tensor, k: Tensor, *, causal: bool, q_offset: int, scale: float,
        visible: Tensor | None = None,
    ) -> Selection:  # fmt: skip
        """The chosen blocks of ``q [B,Hq,Sq,D]`` among ``k [B,Hkv,Sk,D]``, as pieces."""
        where: dict[str, Any] = {"causal": causal, "q_offset": q_offset}
        first = _first(visible)
        if first is None:
            pieces = self._pieces(q, k, visible, **where)
        else:
            pieces = self._item_by_item(q, k, visible, first, **where)
        return Selection(pieces, q.shape[2], k.shape[2], **where)

    def _pieces(
        self, q: Tensor, k: Tensor, visible: Tensor | None, *, causal: bool, q_offset: int
    ) -> list[Pieces]:
        Sq, Sk = q.shape[2], k.shape[2]
        chosen = self.chosen(q, k, causal=causal, q_offset=q_offset, visible=visible)
        if Sq <= _FEW:
            own = torch.arange(Sq, device=q.device).add(q_offset) // self.block
            mine = own.view(1, 1, Sq, 1).expand(*chosen.shape[:2], Sq, 1)
            return [_each(torch.cat([mine, chosen], -1), self.block, Sk)]
        pieces = [self._own(q_offset, Sq, Sk, q.device)]
        if chosen.shape[-1]:
            pieces.append(by_block(chosen, -(-Sk // self.block), self.block, past=causal))
        return pieces

    def _item_by_item(
        self, q: Tensor, k: Tensor, visible: Tensor | None, first: list[int], *, causal: bool,
        q_offset: int,
    ) -> list[Pieces]:  # fmt: skip
        """Padded on the left: blocks count from each row's first real token."""
        assert visible is not None
        items = []
        for b, start in enumerate(first):
            own = q[b : b + 1], k[b : b + 1, :, start:], visible[b : b + 1, start:]
            some = self._pieces(*own, causal=causal, q_offset=q_offset - start)
            items.append([_as_tokens(piece, start, k.shape[2]) for piece in some])
        none = Pieces(torch.full((1, 1, 1, 1), -1), torch.full((1, 1, 1, 1), -1))
        return [_stacked(pieces) for pieces in zip_longest(*items, fillvalue=none)]

    @torch.no_grad()
    def chosen(
        self, q: Tensor, k: Tensor, *, causal: bool, q_offset: int, visible: Tensor | None = None
    ) -> Tensor:
        """The blocks that each query chose beside its own, int64 ``[B, Hq, Sq, top - 1]``.

        -1 where there were fewer to choose from; narrower than ``top - 1`` where no query had so
        many. ``visible [B, Sk]`` are the keys that count.
        """
        B, Hq, Sq, _ = q.shape
        Hkv, Sk = k.shape[1], k.shape[2]
        # causal: a block can be chosen once it lies behind some query, and then it is whole
        last = max(0, min(Sk, q_offset + Sq - 1)) // self.block if causal else -(-Sk // self.block)
        width = min(self.top - 1, last if causal else last - 1)
        if width < 1:
            return torch.empty(B, Hq, Sq, 0, dtype=torch.int64, device=q.device)
        end = min(Sk, last * self.block)
        real = None if visible is None else visible[:, :end]
        means, empty = _means(k[:, :, :end], self.block, real)
        means = means.repeat_interleave(Hq // Hkv, 1).mT
        own = torch.arange(Sq, device=q.device).add(q_offset)[:, None] // self.block
        index = torch.arange(last, device=q.device)
        out = torch.full((B, Hq, Sq, width), -1, dtype=torch.int64, device=q.device)
        step = max(16, _GATED // (B * Hq * last))
        for a in range(0, Sq, step):
            b = min(a + step, Sq)
            ready = min(last, max(0, b - 1 + q_offset) // self.block) if causal else last
            if ready < 1:
                continue
            gate = q[:, :, a:b].to(means.dtype) @ means[..., :ready]
            closed = index[:ready] >= own[a:b] if causal else index[:ready] == own[a:b]
            gate.masked_fill_(closed, -INF)
            if empty is not None:
                gate.masked_fill_(empty[:, None, None, :ready], -INF)
            value, which = gate.topk(min(width, ready), -1, sorted=False)
            out[:, :, a:b, : which.shape[-1]] = which.masked_fill_(value == -INF, -1)
        return out

    def _own(self, first: int, Sq: int, Sk: int, device: torch.device) -> Pieces:
        """The queries at ``first, first + 1, …`` on the keys of their own blocks."""
        low, high = max(0, first) // self.block, (first + Sq - 1) // self.block
        blocks = torch.arange(low, max(low, high) + 1, device=device)[:, None]
        rows = blocks * self.block + torch.arange(self.block, device=device) - first
        rows = rows.masked_fill((rows < 0) | (rows >= Sq), -1)
        blocks = blocks.masked_fill(blocks * self.block >= Sk, -1)
        return Pieces(rows[None, None], blocks[None, None], unit=self.block)


def _first(visible: Tensor | None) -> list[int] | None:
    """The first real key of each batch item; None where all are 0."""
    if visible is None:
        return None
    first: list[int] = torch.where(visible.any(-1), visible.int().argmax(-1), 0).tolist()
    return first if any(first) else None


def _means(k: Tensor, block: int, visible: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Mean keys of blocks ``[B, H, blocks, D]``, the last perhaps short; which hold no real key."""
    B, S = k.shape[0], k.shape[2]
    dtype = torch.promote_types(k.dtype, torch.float32)
    short = -S % block
    if visible is None and not short:
        return k.unflatten(2, (S // block, block)).mean(3, dtype=dtype), None
    real = torch.ones(1, S, device=k.device) if visible is None else visible.to(dtype)
    weight = torch.nn.functional.pad(real, (0, short)).unflatten(1, (-1, block))
    padded = torch.nn.functional.pad(k.to(dtype), (0, 0, 0, short)).unflatten(2, (-1, block))
    count = weight.sum(-1)
    means = torch.einsum("bhnsd,bns->bhnd", padded, weight.expand(B, -1, -1).to(dtype))
    return means / count.clamp(min=1)[:, None, :, None], None if visible is None else count == 0


def _each(blocks: Tensor, block: int, Sk: int) -> Pieces:
    """Every query with keys of its own: ``blocks [B, H, Sq, t]``, -1 for none."""
    inside = torch.arange(block, device=blocks.device)
    keys = blocks.unsqueeze(-1) * block + inside
    keys = keys.masked_fill((blocks.unsqueeze(-1) < 0) | (keys >= Sk), -1).flatten(-2)
    rows = torch.arange(blocks.shape[2], device=blocks.device)[None, None, :, None]
    return Pieces(rows, keys)


def by_block(chosen: Tensor, blocks: int, unit: int, *, past: bool) -> Pieces:
    """Who chose which block, turned round: queries that chose one block, some at a time.

    Parameters
    ----------
    chosen : Tensor
        int64 ``[B, H, Sq, t]``: blocks, no query naming one twice; -1 for none.
    blocks, unit : int
        How many there are, and keys of one.
    past : bool
        Whether no chosen block holds a key after the query that chose it.
    """
    B, H, Sq, t = chosen.shape
    device = chosen.device
    head = torch.arange(B * H, device=device).repeat_interleave(blocks)  # of each block
    first = torch.arange(0, B * H * blocks, blocks, device=device).view(B, H, 1, 1)
    code = torch.where(chosen < 0, len(head), chosen + first).flatten().int()
    code, order = code.sort(stable=True)
    count = code.bincount(minlength=len(head) + 1)[:-1]
    total = int(count.sum())
    code, order = code[:total], order[:total]
    # queries taken together, at most: the last lot of a block is filled up
    size = min(128, 1 << max(4, (total // len(head)).bit_length()))
    lots = (count + size - 1) // size
    before = (lots.view(B * H, blocks).cumsum(-1) - lots.view(B * H, blocks)).flatten()
    N = max(1, int(lots.view(B * H, blocks).sum(-1).max()))
    # where a block's queries begin, less where they do in the sorted list
    begin = before * size - (count.cumsum(0) - count)
    slot = torch.arange(total, device=device) + begin.index_select(0, code)  # among a head's
    queries = torch.arange(Sq, device=device).repeat_interleave(t).repeat(B * H)
    rows = torch.full((B * H * N * size,), -1, dtype=torch.int64, device=device)
    place = slot + (head * (N * size)).index_select(0, code)
    rows.scatter_(0, place, queries.index_select(0, order))
    lot = torch.arange(len(head), device=device).repeat_interleave(lots)
    within = torch.arange(len(lot), device=device) - (lots.cumsum(0) - lots)[lot] + before[lot]
    keys = torch.full((B * H * N,), -1, dtype=torch.int64, device=device)
    keys[head[lot] * N + within] = lot % blocks
    slots = torch.full((chosen.numel(),), -1, dtype=torch.int64, device=device)
    slots.scatter_(0, order, slot)
    return Pieces(
        rows.view(B, H, N, size), keys.view(B, H, N, 1), unit, past, slots.view(B, H, Sq, t)
    )


def _as_tokens(piece: Pieces, start: int, Sk: int) -> Pieces:
    """A piece of the keys from ``start`` on, as single keys of the whole call."""
    tokens = piece.keys.unsqueeze(-1) * piece.unit + torch.arange(piece.unit).to(piece.keys.device)
    tokens = tokens + start
    tokens = tokens.masked_fill((piece.keys.unsqueeze(-1) < 0) | (tokens >= Sk), -1)
    return Pieces(piece.rows, tokens.flatten(-2), 1, piece.past, piece.slots)


def _stacked(pieces: Sequence[Pieces]) -> Pieces:
    """Pieces of one batch item each as those of a batch, filled up to one size."""

    def pad(index: list[Tensor]) -> Tensor:
        sizes = [max(x.shape[d] for x in index) for d in range(1, 4)]
        filled = [x.new_full((1, *sizes), -1) for x in index]
        for x, to in zip(index, filled, strict=True):
            to[:, :, : x.shape[2], : x.shape[3]] = x
        return torch.cat(filled)

    past = all(piece.past for piece in pieces)
    return Pieces(pad([p.rows for p in pieces]), pad([p.keys for p in pieces]), 1, past)
