"""HyperAttention's estimate of softmax attention: sorted blocks in full, a sample of the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...engine.partial import merge_tensors
from ._pieces import attend, exact

INF = float("inf")

__all__ = ["Sampling", "buckets", "estimate"]


@dataclass(frozen=True)
class Sampling:
    """How an estimate is made; the fields are those of
    :class:`~foveate.methods.sparse.hyper.HyperAttention`.
    """

    block: int
    samples: int
    projections: int
    least: int


def buckets(x: Tensor, directions: Tensor) -> Tensor:
    """Angular hash of ``x [..., D]`` by ``directions [D, r]``: int64 in ``0 … 2**r - 1``.

    The signs of ``r`` projections are a word of ``r`` bits; the bucket is the word's place in the
    Gray code, so that neighbouring buckets differ in one sign.
    """
    signs = (x.detach() @ directions.to(x.dtype)) > 0
    bits = directions.shape[-1]
    word = (signs * (1 << torch.arange(bits, device=x.device))).sum(-1)
    shift = 1
    while shift < bits:  # the inverse of g(i) = i ^ (i >> 1)
        word = word ^ (word >> shift)
        shift *= 2
    return word


def estimate(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, *,
    scale: float, causal: bool, q_offset: int, how: Sampling, generator: torch.Generator,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Estimated attention and ``lse``; every batch item draws the same.

    Parameters
    ----------
    q, k, v : Tensor
        ``[B,Hq,Sq,D]``, ``[B,Hkv,Sk,D]``, ``[B,Hkv,Sk,Dv]``.
    key_mask : Tensor, optional
        Additive, ``[B|1, Hq|1, 1, Sk]``.
    q_offset : int
        At least 0 where causal; keys after the last query are not looked at.
    """
    if not causal:
        return _rectangle(q, k, v, key_mask, scale, how, generator, len(q))
    past, stop = min(q_offset, k.shape[2]), min(q_offset + q.shape[2], k.shape[2])

    def part(x: Tensor, first: int, last: int) -> Tensor:
        return x[:, :, first:last]

    mask = None if key_mask is None else key_mask[..., past:stop]
    near = _triangle(q, part(k, past, stop), part(v, past, stop), mask, scale, how, generator)
    if not past:
        return near
    mask = None if key_mask is None else key_mask[..., :past]
    far = _rectangle(q, part(k, 0, past), part(v, 0, past), mask, scale, how, generator, len(q))
    return merge_tensors([far[0], near[0]], [far[1], near[1]])


def _triangle(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, how: Sampling,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Causal attention of as many queries as keys, or more: halves, and the square between them.

    All squares of one size are one batch. Rows that fill up come last, so no other row sees them.
    """
    S, levels = q.shape[2], 0
    while -(-S >> levels) > how.least:
        levels += 1
    if not levels:
        return exact(q, k, v, mask, scale, True)
    leaf = -(-S >> levels)
    if k.shape[2] < S:  # the last queries stand behind the last key: there is none to see there
        if mask is None:
            dtype = torch.promote_types(q.dtype, torch.float32)
            mask = torch.zeros(1, 1, 1, k.shape[2], dtype=dtype, device=q.device)
        mask = torch.nn.functional.pad(mask, (0, S - k.shape[2]), value=-INF)
    size = leaf << levels
    q, k, v = (torch.nn.functional.pad(x, (0, 0, 0, size - x.shape[2])) for x in (q, k, v))
    mask = None if mask is None else torch.nn.functional.pad(mask, (0, size - S))

    def cut(x: Tensor, parts: int) -> Tensor:
        """``[B, H, N, E]`` → ``[B * parts, H, N / parts, E]``."""
        return x.unflatten(2, (parts, -1)).transpose(1, 2).flatten(0, 1)

    def cut_mask(parts: int) -> Tensor | None:
        if mask is None:
            return None
        wide = mask.expand(q.shape[0], -1, -1, -1)
        return cut(wide.transpose(2, 3), parts).transpose(2, 3)

    parts = 1 << levels
    out, lse = exact(cut(q, parts), cut(k, parts), cut(v, parts), cut_mask(parts), scale, True)
    for _ in range(levels):
        parts //= 2
        rows, keys, values = cut(q, parts), cut(k, parts), cut(v, parts)
        half = rows.shape[2] // 2
        wide = cut_mask(parts)
        square = _rectangle(
            rows[:, :, half:], keys[:, :, :half], values[:, :, :half],
            None if wide is None else wide[..., :half], scale, how, generator, len(q),
        )  # fmt: skip
        out, lse = out.unflatten(0, (-1, 2)), lse.unflatten(0, (-1, 2))
        late = merge_tensors([out[:, 1], square[0]], [lse[:, 1], square[1]])
        out = torch.cat([out[:, 0], late[0]], 2)
        lse = torch.cat([lse[:, 0], late[1]], 2)
    return out[:, :, :S], lse[:, :, :S]


def _rectangle(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, how: Sampling,
    generator: torch.Generator, items: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attention of all queries to all keys: sorted blocks, and samples for what they leave out.

    The first axis holds ``items``, each with its squares.
    """
    B, Hq, Sq, D = q.shape
    Hkv, Sk, Dv = k.shape[1], k.shape[2], v.shape[3]
    count = min(-(-Sk // how.block), Sq)  # blocks of keys, and as many of queries
    if Sq < how.least or count == 1:
        return exact(q, k, v, mask, scale, False)
    shared = mask is None or mask.shape[1] == 1
    if not shared:  # a mask for each query head: each gets keys of its own
        k, v = (x.repeat_interleave(Hq // Hkv, 1) for x in (k, v))
        Hkv = Hq
    dtype = torch.promote_types(q.dtype, torch.float32)
    extra = torch.zeros((), dtype=dtype, device=q.device) if mask is None else mask[:, :, 0]
    extra = extra.expand(B, Hkv, Sk)

    directions = torch.randn(D, how.projections, generator=generator).to(q.device)
    seen = extra > -INF
    code = torch.where(seen, buckets(k, directions), 1 << how.projections)  # hidden keys come last
    order = code.sort(dim=-1, stable=True)[1]
    keys, filled = _blocks(order, count)  # [B, Hkv, count, kb]
    rows, _ = _blocks(buckets(q, directions).sort(dim=-1, stable=True)[1], count)
    picked, weight = _sample(seen.sum(-1), Sk, min(how.samples, Sk), generator, items)
    width = keys.shape[-1]

    index = torch.cat(
        [keys, order.gather(-1, picked).unsqueeze(2).expand(-1, -1, count, -1)], -1
    )  # [B, Hkv, count, kb + m]
    terms = extra.unsqueeze(2).expand(-1, -1, count, -1).gather(-1, index)
    inside = (picked // width).unsqueeze(2) == torch.arange(count, device=q.device)[:, None]
    terms = torch.cat(
        [
            terms[..., :width].masked_fill(filled, -INF),
            (terms[..., width:] + weight.to(dtype)[..., None, None]).masked_fill(inside, -INF),
        ],
        -1,
    )

    group = Hq // Hkv
    rows = rows.unflatten(1, (Hkv, group)).transpose(2, 3)  # [B, Hkv, count, group, qb]
    heads = torch.arange(B * Hq, device=q.device).view(B, Hkv, 1, group, 1)
    taken = (rows + heads * Sq).reshape(B * Hkv * count, -1)
    heads = torch.arange(B * Hkv, device=q.device).view(B, Hkv, 1, 1)
    index = (index + heads * Sk).flatten(0, 2)
    out, lse = attend(q, k, v, taken, index, terms.flatten(0, 2), scale)

    at = torch.empty(B, Hq, Sq, dtype=torch.int64, device=q.device)
    places = torch.arange(rows.numel(), device=q.device).view(rows.shape)
    flat = rows.transpose(2, 3).reshape(B, Hq, -1)[..., :Sq]
    at.scatter_(-1, flat, places.transpose(2, 3).reshape(B, Hq, -1)[..., :Sq])
    at = at.flatten()
    return (
        out.reshape(-1, Dv).index_select(0, at).view(B, Hq, Sq, Dv),
        lse.reshape(-1).index_select(0, at).view(B, Hq, Sq),
    )


def _blocks(order: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """An order ``[..., n]`` in ``count`` blocks, and which places of them only fill up."""
    n = order.shape[-1]
    fill = -n % count
    filled = torch.arange(n + fill, device=order.device) >= n
    order = torch.nn.functional.pad(order, (0, fill))
    return order.unflatten(-1, (count, -1)), filled.view(count, -1)


def _sample(
    seen: Tensor, keys: int, samples: int, generator: torch.Generator, items: int
) -> tuple[Tensor, Tensor]:
    """Places ``[B, H, m]`` of the sorted keys, of the ``seen [B, H]`` first, and their log weight.

    Each place at most once. With fewer seen than asked for all are taken, and the rest are hidden.
    """
    chance = torch.rand(len(seen) // items, seen.shape[1], keys, generator=generator)
    chance = chance.to(seen.device).repeat(items, 1, 1)
    late = torch.arange(keys, device=seen.device) >= seen.unsqueeze(-1)
    picked = chance.masked_fill(late, -1.0).topk(samples, -1)[1]
    weight = (seen.double() / seen.clamp(1, samples)).clamp(min=1.0).log()
    return picked, weight
