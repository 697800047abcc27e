"""Patterns on flash kernels: each block's keys gathered into one short dense call.

Blocks alike in size run as one batch, with a small mask for what a block's queries do not share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import dense
from .cut import Cut, Group, cut
from .flash import flash
from .runs import put, take

__all__ = ["Cut", "Group", "cut", "run"]

INF = float("inf")

CHUNK = 4_000_000  # numbers gathered at once: they are read again while the cache holds them


def run(
    cut: Cut, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention under a cut pattern.

    Parameters
    ----------
    q, k, v : Tensor
        ``[B,Hq,Sq,E]``, ``[B,Hkv,Sk,E]``, ``[B,Hkv,Sk,E]``.
    key_mask : Tensor, optional
        Additive, ``[B|1, Hq|1, 1, Sk]``.

    Returns
    -------
    out, lse : Tensor
        ``[B,Hq,Sq,E]`` and ``[B,Hq,Sq]``; rows with nothing visible are ``(0, -inf)``.
    """
    outs, lses = [], []
    group = q.shape[1] // k.shape[1]
    for b in range(q.shape[0]):
        mask = None if key_mask is None else key_mask[b if key_mask.shape[0] > 1 else 0, :, 0]
        found: list[tuple[Tensor, Tensor]] = []
        order: list[int] = []
        for part in cut.parts:
            if part.item is not None and part.item != b:
                continue
            mine = (q[b], k[b], v[b], mask)
            if part.heads is not None:
                mine = _of_heads(part.heads, group, *mine)
                order += part.heads
            if part.groups is None:
                found.append(_everything(cut, *mine, scale))
            else:
                found.append(_groups(part.groups, *mine, scale))
        out, lse = torch.cat([o for o, _ in found]), torch.cat([one for _, one in found])
        if order != sorted(order):
            back = torch.tensor(order, device=out.device).argsort()
            out, lse = out[back], lse[back]
        outs.append(out)
        lses.append(lse)
    return torch.stack(outs), torch.stack(lses)


def _of_heads(
    heads: tuple[int, ...], group: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The tensors of some query heads: slices where they lie together, copies otherwise."""
    first, last = heads[0], heads[-1] + 1
    if mask is not None and mask.shape[0] > 1:
        mask = mask[list(heads)]
    if heads == tuple(range(first, last)):
        kv = slice(first // group, -(-last // group))
        if first % group == 0 == last % group or kv.stop - kv.start == 1:
            return q[first:last], k[kv], v[kv], mask
    each = [head // group for head in heads]
    return q[list(heads)], k[each], v[each], mask


def _everything(
    cut: Cut, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Heads without a pattern, of one batch item."""
    mask = None if key_mask is None else key_mask[None, :, None]
    hides = mask is not None
    qkv = q[None], k[None], v[None]
    out, lse = dense.run(*qkv, mask, scale, cut.causal, cut.q_offset, hides)
    return out[0], lse[0]


def _groups(
    groups: tuple[Group, ...], q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One batch item: ``q [Hq,Sq,E]``, ``k, v [Hkv,Sk,E]``, ``key_mask [Hq|1, Sk]``."""
    learns = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    placed = not learns and all(group.row_runs is not None for group in groups)
    outs: list[Tensor] = []
    lses: list[Tensor] = []
    if placed:
        dtype = torch.promote_types(q.dtype, torch.float32)
        whole, whole_lse = q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=dtype)
    for group in groups:
        N, n = group.keys.shape
        step = max(1, CHUNK // (n * k.shape[0] * k.shape[2]))
        for first in range(0, N, step):
            last = min(first + step, N)
            out, lse = _chunk(group, first, last, q, k, v, key_mask, scale, learns)
            if placed and group.row_runs is not None:
                put(whole, group.row_runs, out, first, last)
                put(whole_lse.unsqueeze(2), group.row_runs, lse.unsqueeze(3), first, last)
            else:
                outs.append(out.transpose(0, 1).flatten(1, 2))
                lses.append(lse.transpose(0, 1).flatten(1, 2))
    if placed:
        return whole, whole_lse
    back = torch.cat([group.rows.flatten() for group in groups]).argsort().to(q.device)
    return torch.cat(outs, 1).index_select(1, back), torch.cat(lses, 1).index_select(1, back)


def _taken(x: Tensor, group: Group, rows: bool, first: int, last: int, learns: bool) -> Tensor:
    """The rows or the keys of some blocks, from ``x [H,S,E]``: ``[blocks, H, n, E]``."""
    index, runs = (group.rows, group.row_runs) if rows else (group.keys, group.key_runs)
    if runs is not None and not learns:
        return take(x, runs, index.shape[1], first, last)
    flat = index[first:last].flatten().to(x.device)
    return x.index_select(1, flat).unflatten(1, (last - first, index.shape[1])).transpose(0, 1)


def _chunk(
    group: Group, first: int, last: int, q: Tensor, k: Tensor, v: Tensor,
    key_mask: Tensor | None, scale: float, learns: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Blocks ``first … last - 1``: out ``[blocks,Hq,m,E]`` and lse."""
    keys, which = group.keys[first:last], group.which[first:last]
    dtype = q.dtype if key_mask is None else key_mask.dtype
    some = which.unique().tolist()
    mask: Tensor | None = None
    if not all(group.open[one] for one in some):
        visible = group.masks[some if len(some) == 1 else which][:, None]
        mask = torch.zeros((), dtype=dtype).masked_fill(~visible, -INF).to(q.device)
    if key_mask is not None:
        mine = key_mask[:, keys.to(q.device)].transpose(0, 1).unsqueeze(2)  # [N, Hq|1, 1, n]
        mask = mine if mask is None else mine + mask
    part = first, last, learns
    taken = _taken(q, group, True, *part), *(_taken(x, group, False, *part) for x in (k, v))
    out, lse = flash(*taken, mask=mask, scale=scale)
    if mask is not None and (key_mask is not None or any(group.blind[one] for one in some)):
        seen = (mask > -INF).any(-1)
        if not bool(seen.all()):
            out = torch.where(seen.unsqueeze(-1), out, 0.0)
            lse = torch.where(seen, lse, -INF)
    return out, lse
