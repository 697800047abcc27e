"""All that causality leaves, on flash kernels: mask-free rectangles and triangles, merged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..partial import merge_tensors
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


def run(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, scale: float, causal: bool,
    q_offset: int, hides: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attention without a pattern.

    Parameters
    ----------
    q, k, v : Tensor
        ``[B,Hq,Sq,E]``, ``[B,Hkv,Sk,E]``, ``[B,Hkv,Sk,E]``.
    key_mask : Tensor, optional
        Additive, ``[B|1, Hq|1, 1, Sk]``.
    hides : bool
        Whether it hides keys.

    Returns
    -------
    out, lse : Tensor
        ``[B,Hq,Sq,E]`` and ``[B,Hq,Sq]``; rows with nothing visible are ``(0, -inf)``.
    """
    outs, lses = [], []
    for piece in pieces(q.shape[2], k.shape[2], causal, q_offset):
        a, b, lo, hi = piece.q_start, piece.q_stop, piece.k_start, piece.k_stop
        mask = None if key_mask is None else key_mask[..., lo:hi]
        out, lse = flash(
            *(q[:, :, a:b], k[:, :, lo:hi], v[:, :, lo:hi]),
            mask=mask,
            causal=piece.causal,
            scale=scale,
        )
        if hides and mask is not None:
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
