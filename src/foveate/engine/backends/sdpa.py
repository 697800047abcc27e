"""Attention on flash kernels: mask-free rectangles and triangles, merged.

Key-only terms are a broadcast mask, query-dependent ones of low rank ride along as columns of Q
and K, measures linear in the probabilities as columns of V.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..partial import merge_tensors
from ..terms import Terms
from . import gathered
from .flash import flash

INF = float("inf")


@dataclass(frozen=True)
class Piece:
    """A rectangle of queries × keys that one kernel call covers; ``causal`` from its upper left."""

    q_start: int
    q_stop: int
    k_start: int
    k_stop: int
    causal: bool

    @property
    def pairs(self) -> int:
        """Pairs computed."""
        m, n = self.q_stop - self.q_start, self.k_stop - self.k_start
        return sum(min(i + 1, n) for i in range(m)) if self.causal else m * n


def pieces(Sq: int, Sk: int, causal: bool, q_offset: int) -> list[Piece]:
    """Cut what is visible into pieces without a mask; rows that see nothing are in none.

    torch's ``is_causal`` is aligned upper left. With keys before the first query the past is one
    mask-free rectangle and the diagonal a triangle; they are merged.
    """
    if not causal or q_offset >= Sk - 1:
        return [Piece(0, Sq, 0, Sk, False)]
    first = max(0, -q_offset)  # rows before the first key see nothing
    if first >= Sq:
        return []
    past = max(0, q_offset)
    found = [Piece(first, Sq, 0, past, False)] if past else []
    return [*found, Piece(first, Sq, past, min(Sk, past + Sq - first), True)]


def _seen(mask: Tensor, piece: Piece) -> Tensor:
    """Which rows of a piece see a key that ``mask [B|1,H|1,1,n]`` leaves; ``[B|1,H|1,m|1]``."""
    visible = mask[:, :, 0] > -INF
    first = torch.where(visible.any(-1), visible.int().argmax(-1), mask.shape[-1]).unsqueeze(-1)
    if not piece.causal:
        return first < mask.shape[-1]
    rows = torch.arange(piece.q_stop - piece.q_start, device=mask.device)
    return first <= rows.clamp(max=mask.shape[-1] - 1)


def _widen(x: Tensor, extra: list[Tensor], width: int) -> Tensor:
    """``x`` with columns beside it and zeros up to ``width``, in one allocation."""
    used = x.shape[-1] + sum(e.shape[-1] for e in extra)
    if not extra and used == width:
        return x
    columns = [x, *(e.to(x.dtype).expand(*x.shape[:-1], -1) for e in extra)]
    if used < width:
        columns.append(x.new_zeros(()).expand(*x.shape[:-1], width - used))
    return torch.cat(columns, -1)


def run(
    terms: Terms,
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    cols: Tensor | None,
    cut: gathered.Cut | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``(P @ [V | cols], lse, share)`` for terms that flash kernels take.

    Parameters
    ----------
    v : Tensor, optional
        None where only the columns are wanted.
    cols : Tensor, optional
        Value columns ``[B, Sk, C]``.
    cut : Cut, optional
        The pattern, where there is one.

    Returns
    -------
    out : Tensor
        ``[B, Hq, Sq, Dv + C]``; rows with nothing visible are 0.
    lse : Tensor
        ``[B, Hq, Sq]`` with the sink; ``-inf`` where nothing is visible.
    share : Tensor, optional
        What the keys hold of each row beside the sink, ``[B, Hq, Sq]``; None without a sink.
    """
    Hq, D = q.shape[1], q.shape[3]
    lse_dtype = torch.promote_types(q.dtype, torch.float32)
    values = [] if cols is None else [cols.unsqueeze(1)]
    Dv = 0 if v is None else v.shape[-1]
    if any(psi.shape[1] not in (1, k.shape[1]) for _, psi in terms.columns):
        k = k.repeat_interleave(Hq // k.shape[1], 1)
        v = v if v is None else v.repeat_interleave(Hq // v.shape[1], 1)
    score_width = sum(psi.shape[-1] for _, psi in terms.columns)
    value_width = Dv + (0 if cols is None else cols.shape[-1])
    width = max(D + score_width, value_width)
    if width > max(D, Dv):
        width += -width % 8  # head sizes of whole vectors: 80 is faster than 73
    v = k.new_empty(*k.shape[:3], 0) if v is None else v
    wide_q = _widen(q, [phi for phi, _ in terms.columns], width)
    wide_k = _widen(k, [psi.to(lse_dtype) / terms.scale for _, psi in terms.columns], width)
    wide_v = _widen(v, values, width)

    if cut is None:
        out, lse = _dense(terms, wide_q, wide_k, wide_v)
    else:
        out, lse = gathered.run(cut, wide_q, wide_k, wide_v, terms.key_mask, terms.scale)
    out = out[..., :value_width] if value_width < width else out
    return with_sinks(terms.sinks, out, lse)


def _dense(terms: Terms, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """All that causality leaves, in mask-free pieces."""
    outs, lses = [], []
    for piece in pieces(q.shape[2], k.shape[2], terms.causal, terms.q_offset):
        a, b, lo, hi = piece.q_start, piece.q_stop, piece.k_start, piece.k_stop
        mask = None if terms.key_mask is None else terms.key_mask[..., lo:hi]
        out, lse = flash(
            *(q[:, :, a:b], k[:, :, lo:hi], v[:, :, lo:hi]),
            mask=mask,
            causal=piece.causal,
            scale=terms.scale,
        )
        if terms.hides and mask is not None:
            seen = _seen(mask, piece)
            lse = torch.where(seen, lse, -INF)
            out = torch.where(seen.unsqueeze(-1), out, 0.0)
        if a:
            out = torch.nn.functional.pad(out, (0, 0, a, 0))
            lse = torch.nn.functional.pad(lse, (a, 0), value=-INF)
        outs.append(out)
        lses.append(lse)
    if not outs:
        dtype = torch.promote_types(q.dtype, torch.float32)
        outs = [torch.zeros_like(q)]
        lses = [torch.full(q.shape[:3], -INF, dtype=dtype, device=q.device)]
    return merge_tensors(outs, lses)


def with_sinks(
    sinks: Tensor | None, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Merge a learned sink: a partial without a value."""
    if sinks is None:
        return out, lse, None
    seen = lse > -INF
    total = torch.logaddexp(torch.where(seen, lse, 0.0), sinks.to(lse.dtype)[:, None])
    share = torch.where(seen, (lse - total).exp(), 0.0)
    return out * share.unsqueeze(-1).to(out.dtype), torch.where(seen, total, -INF), share


def run_few(terms: Terms, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Few queries, key-only terms, ``Dv == D``: no key is copied, a group's heads are packed.

    Packing ``[B, Hq, Sq, D]`` into ``[B, Hkv, G * Sq, D]`` reads each cached key once a group.
    """
    B, Hq, Sq, D = q.shape
    Hkv = k.shape[1]
    last = k.shape[2] if not terms.causal else min(k.shape[2], terms.q_offset + Sq)
    if last <= 0:
        dtype = torch.promote_types(q.dtype, torch.float32)
        return torch.zeros_like(q), torch.full((B, Hq, Sq), -INF, dtype=dtype, device=q.device)
    mask = terms.key_mask
    if last < k.shape[2]:
        k, v = k[:, :, :last], v[:, :, :last]
        mask = None if mask is None else mask[..., :last]
    seen = None
    if terms.causal and terms.q_offset < last - 1:
        i = torch.arange(Sq, device=q.device)[:, None] + terms.q_offset
        later = torch.arange(last, device=q.device) > i
        dtype = torch.promote_types(q.dtype, torch.float32) if mask is None else mask.dtype
        base = torch.zeros(1, 1, 1, last, dtype=dtype, device=q.device) if mask is None else mask
        mask = base.masked_fill(later, -INF)
    if mask is not None and (terms.hides or terms.q_offset < 0):
        seen = (mask > -INF).any(-1)
    if Hq != Hkv:
        group = Hq // Hkv
        q = q.reshape(B, Hkv, group * Sq, D)
        if mask is not None and mask.shape[1:3] != (1, 1):
            mask = mask.expand(-1, Hq, Sq, -1).reshape(mask.shape[0], Hkv, group * Sq, last)
    out, lse = flash(q, k, v, mask=mask, causal=False, scale=terms.scale)
    out, lse = out.reshape(B, Hq, Sq, D), lse.reshape(B, Hq, Sq)
    if seen is not None:
        out, lse = torch.where(seen.unsqueeze(-1), out, 0.0), torch.where(seen, lse, -INF)
    out, lse, _ = with_sinks(terms.sinks, out, lse)
    return out, lse
