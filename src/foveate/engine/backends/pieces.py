"""What content chose, on flash kernels: pieces of queries × keys, gathered, run and merged.

A piece is some queries and some keys that all see each other. Pieces alike in size run as one
batch; a query in several has its partials merged through their ``lse``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import embedding, embedding_bag, pad

from .flash import flash

INF = float("inf")

CHUNK = 1_000_000  # numbers gathered at once: they are read again while the cache holds them
HELD = 32_000_000  # numbers of partial outputs held before they are merged


@dataclass(frozen=True, eq=False)
class Pieces:
    """Pieces alike in size, ``N`` a head: queries ``rows[..., i, :]`` see ``keys[..., i, :]``.

    Attributes
    ----------
    rows : Tensor
        int64 ``[B|1, H|1, N, m]``: rows of the call; -1 fills up.
    keys : Tensor
        int64 ``[B|1, H|1, N, n]``: keys, or runs of ``unit`` keys counted in units; -1 fills up.
    unit : int
        Keys ``i * unit … (i + 1) * unit - 1`` are meant by ``i``: whole blocks are copied, where
        single keys are picked. Keys past the last are not there.
    past : bool
        Known to hold no key after any of its queries: a causal call need not look.
    slots : Tensor, optional
        int64 ``[B|1, H|1, Sq, K]``: where in ``rows`` (flattened, ``N * m``) each query stands, -1
        fills up. Found by sorting where it is not given.

    Notes
    -----
    A pair of query and key is in one piece only.
    """

    rows: Tensor
    keys: Tensor
    unit: int = 1
    past: bool = False
    slots: Tensor | None = None

    @property
    def pairs(self) -> int:
        """Pairs computed of one head."""
        return self.rows.shape[-2] * self.rows.shape[-1] * self.keys.shape[-1] * self.unit


@dataclass(frozen=True, eq=False)
class Selected:
    """Pieces of a call, and what is visible within them."""

    pieces: tuple[Pieces, ...]
    causal: bool
    q_offset: int

    @property
    def pairs(self) -> int:
        """Pairs computed of one head."""
        return sum(piece.pairs for piece in self.pieces)


def run(
    selected: Selected, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention within pieces.

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
    B, H, Sq, E = q.shape
    selected = replace(selected, pieces=tuple(p for p in selected.pieces if p.pairs))
    if not selected.pieces:
        dtype = torch.promote_types(q.dtype, torch.float32)
        return torch.zeros_like(q), torch.full((B, H, Sq), -INF, dtype=dtype, device=q.device)
    most = max(p.rows.shape[-2] * p.rows.shape[-1] for p in selected.pieces) * E
    together = max(1, HELD // max(1, most))
    heads = [(b, h) for b in range(B) for h in range(H)]
    outs, lses = [], []
    for start in range(0, len(heads), together):
        some = torch.tensor(heads[start : start + together])
        out, lse = _heads(selected, some[:, 0], some[:, 1], q, k, v, key_mask, scale)
        outs.append(out)
        lses.append(lse)
    return torch.cat(outs).view(B, H, Sq, E), torch.cat(lses).view(B, H, Sq)


def _heads(
    selected: Selected, b: Tensor, h: Tensor, q: Tensor, k: Tensor, v: Tensor,
    key_mask: Tensor | None, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Heads ``h [G]`` of batch items ``b [G]``: out ``[G, Sq, E]`` and lse."""
    Sq = q.shape[2]
    found = []
    for piece in selected.pieces:
        rows, keys = _pick(piece.rows, b, h), _pick(piece.keys, b, h)
        chunks = _chunks(selected, piece, rows, keys, b, h, q, k, v, key_mask, scale)
        learns = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
        out, lse = _together(chunks, rows.numel(), q, learns)
        slots = _in_order(rows, Sq)
        if slots is None:
            given = piece.slots
            slots = _slots(rows, Sq) if given is None else _pick(given, b, h)
        found.append((out, lse, slots))
    return _merged(found, len(b), Sq)


def _together(
    chunks: Iterator[tuple[Tensor, Tensor]], size: int, q: Tensor, learns: bool
) -> tuple[Tensor, Tensor]:
    """All chunks' ``out [size, E]`` and ``lse [size]``."""
    if learns:
        done = list(chunks)
        return torch.cat([o for o, _ in done]), torch.cat([one for _, one in done])
    # Kept one by one, small results between freed gathers cut the heap into pieces: gigabytes.
    out = q.new_empty(size, q.shape[-1])
    lse = q.new_empty(size, dtype=torch.promote_types(q.dtype, torch.float32))
    at = 0
    for some, its_lse in chunks:
        out[at : at + len(some)] = some
        lse[at : at + len(some)] = its_lse
        at += len(some)
    return out, lse


def _pick(x: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """``x [B|1, H|1, ...]`` of some heads, ``[G, ...]``."""
    return x[b if x.shape[0] > 1 else torch.zeros_like(b), h if x.shape[1] > 1 else h * 0]


def _in_order(rows: Tensor, Sq: int) -> Tensor | None:
    """``[G, Sq, 1]`` where every query stands once and in its place."""
    flat = rows.flatten(1)
    if flat.shape[1] < Sq or not bool((flat[:, :Sq] == torch.arange(Sq)).all()):
        return None
    if flat.shape[1] > Sq and not bool((flat[:, Sq:] < 0).all()):
        return None
    return torch.arange(Sq).expand(len(rows), Sq).unsqueeze(-1)


def _slots(rows: Tensor, Sq: int) -> Tensor:
    """Where in ``rows [G, N, m]`` each query stands: ``[G, Sq, K]``, -1 where it does not."""
    G = len(rows)
    flat = rows.flatten(1)
    size = flat.shape[1]
    place = (flat + Sq * torch.arange(G)[:, None]).flatten()
    at = (flat >= 0).flatten().nonzero().flatten()
    place, order = place[at].sort(stable=True)
    counts = torch.bincount(place, minlength=G * Sq)
    first = counts.cumsum(0) - counts
    slots = torch.full((G * Sq, max(1, int(counts.max()))), -1)
    slots[place, torch.arange(len(place)) - first[place]] = at[order] % size
    return slots.view(G, Sq, -1)


def _merged(
    found: Sequence[tuple[Tensor, Tensor, Tensor]], G: int, Sq: int
) -> tuple[Tensor, Tensor]:
    """Partials ``out [G * M, E]``, ``lse [G * M]`` at ``slots [G, Sq, K]``, merged row by row."""
    if len(found) == 1 and found[0][2].shape[2] == 1 and bool((found[0][2] >= 0).all()):
        out, lse, slots = found[0]
        M = len(lse) // G
        if bool((slots[..., 0] == torch.arange(Sq)).all()):
            return out.view(G, M, -1)[:, :Sq], lse.view(G, M)[:, :Sq]
    parts, tables = [], []
    for out, lse, slots in found:
        M = len(lse) // G
        there = slots >= 0
        at = torch.where(there, slots + M * torch.arange(G)[:, None, None], 0).flatten(0, 1)
        at = at.to(lse.device)
        tables.append((out, at))
        parts.append(torch.where(there.flatten(0, 1).to(lse.device), lse[at], -INF))
    all_ = torch.cat(parts, 1)
    top = all_.detach().amax(1, keepdim=True)
    top = torch.where(top > -INF, top, 0.0)
    weights = (all_ - top).exp()
    total = weights.sum(1, keepdim=True)
    seen = total > 0
    safe = torch.where(seen, total, 1.0)
    weights = weights / safe
    lse = torch.where(seen, safe.log() + top, -INF).view(G, Sq)
    merged: Tensor | None = None
    split = weights.split([p.shape[1] for p in parts], 1)
    for (out, at), weight in zip(tables, split, strict=True):
        # not in half precision: weights and sums would be rounded once more
        one = embedding_bag(at, out.to(weight.dtype), per_sample_weights=weight, mode="sum")
        merged = one if merged is None else merged + one
    assert merged is not None
    return merged.to(found[0][0].dtype).view(G, Sq, -1), lse


def _chunks(
    selected: Selected, piece: Pieces, rows: Tensor, keys: Tensor, b: Tensor, h: Tensor,
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, scale: float,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """Out ``[tasks * m, E]`` and lse of one piece after the other, some tasks at a time."""
    (G, N, m), unit = rows.shape, piece.unit
    n = keys.shape[2] * unit
    (_, H, Sq, E), (_, Hkv, Sk, _) = q.shape, k.shape
    units = -(-Sk // unit)
    if Sk % unit:
        k, v = (pad(x, (0, 0, 0, units * unit - Sk)) for x in (k, v))
    flat_q = q.reshape(-1, E)
    flat_k, flat_v = (x.reshape(-1, unit * E) for x in (k, v))
    q_base = ((b * H + h) * Sq).repeat_interleave(N)
    kv_base = ((b * Hkv + h * Hkv // H) * units).repeat_interleave(N)
    rows, keys = rows.flatten(0, 1), keys.flatten(0, 1)
    step = max(1, CHUNK // ((n + m) * E))
    for first in range(0, G * N, step):
        r, u = rows[first : first + step], keys[first : first + step]
        at = (r.clamp(min=0) + q_base[first : first + step, None]).to(q.device)
        of = (u.clamp(min=0) + kv_base[first : first + step, None]).to(q.device)
        # a block on itself is a triangle, which the kernel knows
        triangle = key_mask is None and _triangle(selected, piece, r, u, Sk)
        mask = None if triangle else _mask(selected, piece, r, u, Sk, q.dtype)
        if key_mask is not None:
            who = torch.arange(first, min(first + step, G * N)) // N
            mine = _pick(key_mask[:, :, 0], b[who], h[who])  # [tasks, Sk]
            mine = mine.gather(1, _tokens(u, unit).clamp(0, Sk - 1))[:, None]
            mask = mine if mask is None else mine + mask
        out, lse = flash(
            embedding(at, flat_q)[:, None],
            *(embedding(of, x).view(len(r), 1, n, E) for x in (flat_k, flat_v)),
            mask=None if mask is None else mask[:, None].to(q.device),
            causal=triangle,
            scale=scale,
        )
        out, lse = out[:, 0], lse[:, 0]
        if mask is not None:
            seen = (mask > -INF).any(-1).to(q.device).expand(lse.shape)
            if not bool(seen.all()):
                out = torch.where(seen.unsqueeze(-1), out, 0.0)
                lse = torch.where(seen, lse, -INF)
        yield out.flatten(0, 1), lse.flatten()


def _triangle(selected: Selected, piece: Pieces, rows: Tensor, keys: Tensor, Sk: int) -> bool:
    """Whether every piece is a run of queries on the very keys at which they stand."""
    m, n = rows.shape[1], keys.shape[1] * piece.unit
    if not selected.causal or piece.past or m != n or m == 1:
        return False
    tokens = _tokens(keys, piece.unit)
    inside = bool((tokens[:, 0] >= 0).all()) and bool((tokens[:, -1] < Sk).all())
    counted = tokens[:, :1] + torch.arange(n, device=tokens.device)
    return inside and torch.equal(tokens, counted) and torch.equal(rows + selected.q_offset, tokens)


def _tokens(keys: Tensor, unit: int) -> Tensor:
    """Units ``[tasks, n]`` as tokens ``[tasks, n * unit]``; negative where there is none."""
    if unit == 1:
        return keys
    return (keys.unsqueeze(-1) * unit + torch.arange(unit)).flatten(1)


def _mask(
    selected: Selected, piece: Pieces, rows: Tensor, keys: Tensor, Sk: int, dtype: torch.dtype
) -> Tensor | None:
    """What is hidden within some pieces: ``[tasks, m|1, n]``; None where nothing is."""
    tokens: Tensor | None = None
    hidden: Tensor | None = None
    if bool((keys < 0).any()) or bool((keys >= Sk // piece.unit).any()):
        tokens = _tokens(keys, piece.unit)
        hidden = ((tokens < 0) | (tokens >= Sk))[:, None]
    if selected.causal and not piece.past:
        tokens = _tokens(keys, piece.unit) if tokens is None else tokens
        later = tokens[:, None] > (rows + selected.q_offset)[:, :, None]
        hidden = later if hidden is None else hidden | later
    if hidden is None:
        return None
    return torch.zeros((), dtype=dtype).masked_fill(hidden, -INF)
