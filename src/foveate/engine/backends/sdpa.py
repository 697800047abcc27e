"""Attention on flash kernels: what goes in beside the queries, keys and values.

Key-only terms are a broadcast mask, query-dependent ones of low rank ride along as columns of Q
and K, measures linear in the probabilities as columns of V.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..terms import Terms
from . import dense, gathered, pieces
from .flash import flash
from .pieces import Selected

INF = float("inf")


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
    cut: gathered.Cut | Selected | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``(P @ [V | cols], lse, share)`` for terms that flash kernels take.

    Parameters
    ----------
    v : Tensor, optional
        None where only the columns are wanted.
    cols : Tensor, optional
        Value columns ``[B, Sk, C]``.
    cut : Cut or Selected, optional
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

    wide = wide_q, wide_k, wide_v, terms.key_mask, terms.scale
    if cut is None:
        out, lse = dense.run(*wide, terms.causal, terms.q_offset, terms.hides)
    elif isinstance(cut, Selected):
        out, lse = pieces.run(cut, *wide)
    else:
        out, lse = gathered.run(cut, *wide)
    out = out[..., :value_width] if value_width < width else out
    return with_sinks(terms.sinks, out, lse)


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
