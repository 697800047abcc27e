"""Rectified SpaAttn: attention to chosen blocks, set right by a pooled estimate of the whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._pieces import attend, exact

INF = float("inf")
CHUNK = 16_000_000  # numbers of keys and values gathered at once

__all__ = ["Implicit", "chosen", "implicit", "rectified"]


@dataclass(frozen=True, eq=False)
class Implicit:
    """What pooled queries and keys say of the whole attention, and what follows.

    Attributes
    ----------
    mass : Tensor
        ``[B, Hq, I, J]``: what query block ``i`` would put on key block ``j``.
    critical : Tensor
        Bool, same shape: the blocks attended to.
    restored : Tensor
        Bool, same shape: blocks left out, whose pooled value is given back at their mass.
    """

    mass: Tensor
    critical: Tensor
    restored: Tensor


def _means(x: Tensor, weight: Tensor | None, block: int) -> tuple[Tensor, Tensor]:
    """Means of ``x [B,H,n,E]`` over blocks, and of the distance from them: ``[B,H,J,E]`` each."""
    n = x.shape[2]
    fill = -n % block
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    wide = torch.nn.functional.pad(x, (0, 0, 0, fill)).unflatten(2, (-1, block))
    w = torch.ones(1, 1, n, dtype=x.dtype, device=x.device) if weight is None else weight
    w = torch.nn.functional.pad(w, (0, fill)).unflatten(2, (-1, block)).unsqueeze(-1)
    w = w / w.sum(-2, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny)
    mean = (wide * w).sum(-2)
    return mean, ((wide - mean.unsqueeze(-2)).abs() * w).sum(-2)


def _counts(weight: Tensor | None, n: int, block: int, like: Tensor) -> Tensor:
    """Keys in each block, or the sum of their weights: ``[B|1, H|1, J]``."""
    w = torch.ones(1, 1, n, dtype=like.dtype, device=like.device) if weight is None else weight
    return torch.nn.functional.pad(w, (0, -n % block)).unflatten(2, (-1, block)).sum(-1)


def implicit(
    q: Tensor, k: Tensor, text: Tensor | None, weight: Tensor | None, text_mask: Tensor | None, *,
    scale: float, block: int, density: float, mass: float, gain: bool,
) -> Implicit:  # fmt: skip
    """Pool, choose, and weigh what to give back.

    Parameters
    ----------
    q, k : Tensor
        ``[B,H,n,D]`` and ``[B,H,m,D]``: the tokens that are pooled.
    text : Tensor, optional
        ``[B,H,t,D]``: the keys that stand alone.
    weight : Tensor, optional
        ``[B|1,H|1,m]``: what the key-only terms multiply the probability of a key by.
    text_mask : Tensor, optional
        ``[B|1,H|1,t]``: the key-only terms of the text.
    gain : bool
        Whether a block is given back only where its estimate outweighs its error.
    """
    q_mean, q_off = _means(q, None, block)
    k_mean, k_off = _means(k, weight, block)
    score = q_mean @ k_mean.mT
    count = _counts(weight, k.shape[2], block, k_mean)
    logits = scale * score + count.log().unsqueeze(-2)
    if text is not None:
        alone = scale * (q_mean @ text.to(q_mean.dtype).mT)
        if text_mask is not None:
            alone = alone + text_mask.unsqueeze(-2)
        logits = torch.cat([logits, alone.logsumexp(-1, keepdim=True)], -1)
    share = logits.softmax(-1)
    blocks = k_mean.shape[2]
    held = share.detach().sort(dim=-1, descending=True)[0].cumsum(-1)
    critical = _first(share, (held <= mass).sum(-1) + 1)[..., :blocks]
    least = torch.full_like(critical[..., 0], int(density * blocks), dtype=torch.int64)
    critical = critical | _first(share[..., :blocks], least)
    error = (q_off @ k_mean.mT).abs() + (q_mean @ k_off.mT).abs()
    restored = ~critical & ((score.abs() > error) if gain else torch.ones_like(critical))
    return Implicit(share[..., :blocks], critical, restored & (share[..., :blocks] > 0))


def _first(share: Tensor, count: Tensor) -> Tensor:
    """The ``count [...]`` greatest of each row of ``share [..., J]``: bool."""
    order = share.detach().argsort(dim=-1, descending=True)
    rank = torch.arange(share.shape[-1], device=share.device)
    return torch.zeros_like(share, dtype=torch.bool).scatter_(-1, order, rank < count.unsqueeze(-1))


def rectified(
    q: Tensor, k: Tensor, v: Tensor, text: Tensor | None, key_mask: Tensor | None, *,
    scale: float, block: int, density: float, mass: float, gain: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Rectified attention of ``q [B,H,n,D]`` to ``k [B,H,m,D]`` and ``v [B,H,m,Dv]``, and ``lse``.

    Parameters
    ----------
    text : Tensor, optional
        Bool ``[m]``: the keys that stand alone; every query sees them.
    key_mask : Tensor, optional
        Additive, ``[B|1, H|1, 1, m]``.
    """
    n, device = q.shape[2], q.device
    alone, pooled = None, torch.arange(k.shape[2], device=device)
    if text is not None and bool(text.any()):
        alone, pooled = text.nonzero()[:, 0], (~text).nonzero()[:, 0]
    mask = None if key_mask is None else key_mask[:, :, 0]
    found = implicit(
        q, k[:, :, pooled], None if alone is None else k[:, :, alone],
        None if mask is None else mask[..., pooled].exp(),
        None if mask is None or alone is None else mask[..., alone],
        scale=scale, block=block, density=density, mass=mass, gain=gain,
    )  # fmt: skip
    out, lse = chosen(q, k, v, pooled, alone, mask, found.critical, scale, block)
    weight = None if mask is None else mask[..., pooled].exp()
    given = torch.where(found.restored, found.mass, 0.0)
    kept = 1 - given.sum(-1)
    back = given @ _means(v[:, :, pooled], weight, block)[0]

    def rows(x: Tensor) -> Tensor:
        return x.repeat_interleave(block, 2)[:, :, :n]

    whole = out * rows(kept.unsqueeze(-1)) + rows(back)
    return whole.to(q.dtype), lse - rows(kept.log())


def chosen(
    q: Tensor, k: Tensor, v: Tensor, pooled: Tensor, alone: Tensor | None, mask: Tensor | None,
    critical: Tensor, scale: float, block: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attention of each query block to its critical blocks and to what stands alone.

    Query blocks are taken in the order of how many blocks they chose, so that little fills up.
    """
    B, H, n, D = q.shape
    m, Sk, device = len(pooled), k.shape[2], q.device
    tiles, J = critical.shape[-2:]
    dtype = torch.promote_types(q.dtype, torch.float32)
    if bool(critical.all()):
        return exact(q, k, v, None if mask is None else mask.unsqueeze(2), scale, False)
    keys = torch.nn.functional.pad(pooled, (0, -m % block), value=-1).view(J, block)
    rows = torch.arange(tiles * block, device=device).clamp(max=n - 1).view(tiles, block)
    counts, order = critical.flatten(0, 2).sum(-1).sort()
    flat = critical.flatten(0, 2)
    outs, lses = [], []
    start = 0
    tail = 0 if alone is None else len(alone)
    wide = None if mask is None else mask.expand(B, H, Sk).reshape(B * H, Sk)
    while start < len(order):
        most = max(1, CHUNK // ((J * block + tail) * (D + v.shape[-1])))
        part = order[start : start + most]
        c = int(counts[start : start + most].max())
        chosen = flat[part].to(torch.int8).topk(c, -1)
        index = keys[chosen[1]].masked_fill(chosen[0].unsqueeze(-1) == 0, -1).flatten(1)
        if alone is not None:
            index = torch.cat([index, alone.expand(len(part), -1)], -1)
        head = part // tiles
        terms = torch.zeros_like(index, dtype=dtype).masked_fill(index < 0, -INF)
        index = index.clamp(min=0)
        if wide is not None:
            terms = terms + wide[head].gather(-1, index)
        taken = rows[part % tiles] + (head * n).unsqueeze(-1)
        out, lse = attend(q, k, v, taken, index + (head * Sk).unsqueeze(-1), terms, scale)
        outs.append(out)
        lses.append(lse)
        start += most
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=device)
    out = torch.cat(outs).index_select(0, back).view(B, H, tiles * block, -1)[:, :, :n]
    lse = torch.cat(lses).index_select(0, back).view(B, H, tiles * block)[:, :, :n]
    return out, lse
