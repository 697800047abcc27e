"""Patterns on flash kernels: for a block of queries, the keys that any of them sees, gathered.

A pattern is cut once into blocks of queries that lie together. Each block's keys are gathered into
one short dense call with a small mask for what the block's queries do not share; blocks alike in
size run as one batch. Never a mask of queries × keys: what is held is what is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..pattern import Pattern
from .flash import flash

INF = float("inf")

SIZE = 128  # queries of a block
PAD = 32  # keys of a block are filled up to a multiple of this, so that blocks can be batched
CHUNK = 16_000_000  # numbers gathered at once
KEPT = 64_000_000  # bytes of masks that a cut may hold


@dataclass(frozen=True, eq=False)
class Group:
    """Blocks of one size: ``N`` blocks of ``m`` queries on ``n`` keys.

    Attributes
    ----------
    rows : Tensor
        int64 ``[N, m]``.
    keys : Tensor
        int64 ``[N, n]``; hidden ones fill up.
    masks : Tensor
        Bool ``[U, m, n]``: the different masks.
    which : Tensor
        int64 ``[N]``: the mask of each block.
    """

    rows: Tensor
    keys: Tensor
    masks: Tensor
    which: Tensor

    @property
    def pairs(self) -> int:
        """Pairs computed."""
        return self.rows.numel() * self.keys.shape[1]


@dataclass(frozen=True, eq=False)
class Cut:
    """A pattern cut for calls of one size.

    Attributes
    ----------
    parts : tuple of (batch item or None, head or None, groups)
        One for all, or one a batch item, or one a head, where the pattern tells them apart. The
        groups of a part hold every query once.
    """

    parts: tuple[tuple[int | None, int | None, tuple[Group, ...]], ...]

    @property
    def pairs(self) -> float:
        """Pairs computed of one head, on average."""
        return sum(g.pairs for _, _, groups in self.parts for g in groups) / len(self.parts)


def cut(pattern: Pattern, causal: bool, q_offset: int, Sq: int, Sk: int) -> Cut | None:
    """Cut a pattern; None where its masks would take too much memory."""
    if not _is_value(pattern):  # it may say otherwise next time, or never come again
        return _cut(pattern, causal, q_offset, Sq, Sk)
    name: Any = pattern
    return _cached(name, causal, q_offset, Sq, Sk)


def _is_value(thing: Any) -> bool:
    """Whether equal things are the same for good: plain values, and frozen patterns of these."""
    if thing is None or isinstance(thing, int | float | str):
        return True
    if isinstance(thing, tuple):
        return all(map(_is_value, thing))
    how = getattr(thing, "__dataclass_params__", None)
    if how is None or not (how.frozen and how.eq):
        return False
    compared = {field.name for field in fields(thing) if field.compare}
    others = set(vars(thing)) - {field.name for field in fields(thing)} - {"heads"}
    return not others and all(_is_value(getattr(thing, name)) for name in compared)


@lru_cache(maxsize=32)
def _cached(pattern: Any, causal: bool, q_offset: int, Sq: int, Sk: int) -> Cut | None:
    return _cut(pattern, causal, q_offset, Sq, Sk)


def _blocks(pattern: Pattern, Sq: int, q_offset: int) -> list[Tensor]:
    """The queries of each block."""
    tiling = getattr(pattern, "tiling", None)
    tiles: Tensor | None = None if tiling is None else tiling(SIZE, Sq, q_offset)
    return list(torch.arange(Sq).split(SIZE)) if tiles is None else list(tiles)


def _ranges(pattern: Pattern, rows: Tensor, keys: int) -> list[tuple[int, int]]:
    several: Callable[..., Any] | None = getattr(pattern, "key_ranges", None)
    start, stop = int(rows.min()), int(rows.max()) + 1
    return [pattern.key_range(start, stop, keys)] if several is None else several(start, stop, keys)


def _cut(pattern: Pattern, causal: bool, q_offset: int, Sq: int, Sk: int) -> Cut | None:
    cuts: dict[tuple[int, int], list[tuple[Tensor, Tensor, Tensor]]] = {}
    lead, held = (1, 1), 0
    for rows in _blocks(pattern, Sq, q_offset):
        positions = rows + q_offset
        ranges = _ranges(pattern, positions, Sk)
        seen = torch.cat([torch.arange(a, b) for a, b in ranges] or [rows[:0]])
        tile = pattern.tile(positions, seen)
        if causal:
            tile = tile & (seen <= positions[:, None])
        tile = tile.reshape((1,) * (4 - tile.dim()) + tuple(tile.shape))
        tile = tile.expand(*tile.shape[:2], len(rows), len(seen))
        lead = max(lead[0], tile.shape[0]), max(lead[1], tile.shape[1])
        for b in range(tile.shape[0]):
            for h in range(tile.shape[1]):
                some = tile[b, h].any(0)
                part = rows, seen[some], tile[b, h][:, some]
                cuts.setdefault((b, h), []).append(part)
                held += part[2].numel()
                if held > KEPT:
                    return None
    if any((b, h) not in cuts for b in range(lead[0]) for h in range(lead[1])):
        return None  # told apart in some blocks only
    parts = []
    for (b, h), blocks in cuts.items():
        item, head = (b if lead[0] > 1 else None), (h if lead[1] > 1 else None)
        parts.append((item, head, tuple(_grouped(blocks))))
    return Cut(tuple(parts))


def _grouped(blocks: list[tuple[Tensor, Tensor, Tensor]]) -> list[Group]:
    """Blocks of equal size together; equal masks once."""
    sizes: dict[tuple[int, int], list[tuple[Tensor, Tensor, Tensor]]] = {}
    for rows, keys, mask in blocks:
        n = max(PAD, -(-len(keys) // PAD) * PAD)
        fill = n - len(keys)
        padded = torch.nn.functional.pad(keys, (0, fill))
        mask = torch.nn.functional.pad(mask, (0, fill))
        sizes.setdefault((len(rows), n), []).append((rows, padded, mask))
    groups = []
    for alike in sizes.values():
        known: dict[bytes, int] = {}
        masks: list[Tensor] = []
        which: list[int] = []
        for _, _, mask in alike:
            name = mask.numpy().tobytes()
            if name not in known:
                known[name] = len(masks)
                masks.append(mask)
            which.append(known[name])
        rows, keys = torch.stack([r for r, _, _ in alike]), torch.stack([k for _, k, _ in alike])
        groups.append(Group(rows, keys, torch.stack(masks), torch.tensor(which)))
    return groups


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
    for b in range(q.shape[0]):
        heads: list[tuple[Tensor, Tensor]] = []
        for item, head, groups in cut.parts:
            if item is not None and item != b:
                continue
            mask = None if key_mask is None else key_mask[b if key_mask.shape[0] > 1 else 0, :, 0]
            if head is None:
                heads.append(_part(groups, q[b], k[b], v[b], mask, scale))
                continue
            if mask is not None and mask.shape[0] > 1:
                mask = mask[head : head + 1]
            kv = head * k.shape[1] // q.shape[1]
            one = q[b, head : head + 1], k[b, kv : kv + 1], v[b, kv : kv + 1]
            heads.append(_part(groups, *one, mask, scale))
        outs.append(torch.cat([out for out, _ in heads]))
        lses.append(torch.cat([lse for _, lse in heads]))
    return torch.stack(outs), torch.stack(lses)


def _part(
    groups: tuple[Group, ...], q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One batch item: ``q [Hq,Sq,E]``, ``k, v [Hkv,Sk,E]``, ``key_mask [Hq|1, Sk]``."""
    outs, lses, order = [], [], []
    for group in groups:
        step = max(1, CHUNK // (group.keys.shape[1] * k.shape[0] * k.shape[2]))
        for start in range(0, len(group.rows), step):
            part = slice(start, start + step)
            rows = group.rows[part]
            out, lse = _chunk(group, part, rows, q, k, v, key_mask, scale)
            outs.append(out.transpose(0, 1).flatten(1, 2))
            lses.append(lse.transpose(0, 1).flatten(1, 2))
            order.append(rows.flatten())
    out, lse, taken = torch.cat(outs, 1), torch.cat(lses, 1), torch.cat(order)
    if _consecutive(taken):
        return out, lse
    back = torch.empty_like(taken)
    back[taken] = torch.arange(len(taken))
    back = back.to(q.device)
    return out.index_select(1, back), lse.index_select(1, back)


def _consecutive(index: Tensor) -> bool:
    return bool((index[1:] - index[:-1] == 1).all())


def _taken(x: Tensor, index: Tensor) -> Tensor:
    """``x [H,S,E]`` at ``index [N,n]``: ``[N,H,n,E]``, a view where the index is a range."""
    N, n = index.shape
    flat = index.flatten()
    if _consecutive(flat):
        picked = x[:, int(flat[0]) : int(flat[0]) + N * n]
    else:
        picked = x.index_select(1, flat.to(x.device))
    return picked.unflatten(1, (N, n)).transpose(0, 1)


def _chunk(
    group: Group, part: slice, rows: Tensor, q: Tensor, k: Tensor, v: Tensor,
    key_mask: Tensor | None, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    keys, which = group.keys[part], group.which[part]
    dtype = q.dtype if key_mask is None else key_mask.dtype
    some = which.unique()
    if len(some) == 1:
        visible = group.masks[int(some[0])][None, None].to(q.device)
    else:
        visible = group.masks[which][:, None].to(q.device)
    mask: Tensor | None = None
    if not bool(visible.all()):
        mask = torch.zeros((), dtype=dtype, device=q.device).masked_fill(~visible, -INF)
    if key_mask is not None:
        mine = key_mask[:, keys.to(q.device)].transpose(0, 1).unsqueeze(2)  # [N, Hq|1, 1, n]
        mask = mine if mask is None else mine + mask
    out, lse = flash(_taken(q, rows), _taken(k, keys), _taken(v, keys), mask=mask, scale=scale)
    if mask is not None:
        seen = (mask > -INF).any(-1)
        if not bool(seen.all()):
            out = torch.where(seen.unsqueeze(-1), out, 0.0)
            lse = torch.where(seen, lse, -INF)
    return out, lse
