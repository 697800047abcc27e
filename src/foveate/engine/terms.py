"""A program's terms, sorted by what they cost: key-only, low-rank columns, dense."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .pattern import Pattern
from .program import Gain, Program
from .shapes import Shapes

INF = float("inf")


@dataclass(frozen=True, eq=False)
class Terms:
    """The score side of a program, ready for a kernel.

    Attributes
    ----------
    key_mask : Tensor, optional
        Everything that depends on the key alone (hidden keys, key biases, gains constant along the
        queries): ``[B|1, Hq|1, 1, Sk]``, free as a broadcast mask.
    columns : tuple of (phi, psi)
        What depends on the query at low rank, or needs a gradient: ``[B|1,Hq|1,Sq|1,R]``,
        ``[B|1,Hq|1,Sk,R]``.
    hides : bool
        Whether ``key_mask`` hides any key, so that a row may have nothing visible.
    adaptive : tuple of (Gain, region, regions of its masses)
        The gains from the first row-adaptive one on, each with its region ``[B|1, Hq|1, Sk]`` and
        those it reads, in the dtype of the statistics.
    """

    scale: float
    causal: bool
    q_offset: int
    key_mask: Tensor | None
    columns: tuple[tuple[Tensor, Tensor], ...]
    hides: bool
    bias: Tensor | None
    softcap: float | None
    pattern: Pattern | None
    sinks: Tensor | None
    adaptive: tuple[tuple[Gain, Tensor, Mapping[str, Tensor]], ...] = ()


def region_of(program: Program, name: str) -> Tensor:
    """A region as bool ``[B|1, Hq|1, Sk]``."""
    inside = program.regions[name]
    if inside.dim() == 1:
        return inside[None, None]
    return inside[:, None] if inside.dim() == 2 else inside


def hidden(t: Tensor) -> Tensor:
    """Where a bias hides: ``-inf``, its dtype's minimum (masks are often so), or <= -1e30."""
    return t <= max(torch.finfo(t.dtype).min, -1e30)


def _leading(t: Tensor, dims: int) -> Tensor:
    """``t`` with axes of size 1 in front, up to ``dims``."""
    return t.reshape((1,) * (dims - t.dim()) + tuple(t.shape))


def log_gain(gain: Gain, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``log g`` as ``[B|1, Hq|1, Sq|1]``; the logarithm is taken before anything is rounded."""
    assert not gain.adaptive
    if isinstance(gain.value, Tensor):
        g = gain.value.to(torch.promote_types(gain.value.dtype, dtype))
        return _leading(g.log().to(dtype), 3)
    return torch.full((1, 1, 1), math.log(gain.value), dtype=dtype, device=device)  # type: ignore[arg-type]


def _split_hidden(key_bias: Tensor, keys: int) -> tuple[Tensor, Tensor | None]:
    """The finite part of a key bias and, when it hides keys, which are visible."""
    away = hidden(key_bias)
    if not bool(away.any()):
        return key_bias, None
    return key_bias.masked_fill(away, 0.0), ~away.expand(*away.shape[:-1], keys)


def fold(program: Program, shapes: Shapes) -> Terms:
    """Sort the score terms of ``program`` for a call of these shapes."""
    dtype, device = shapes.stat_dtype, shapes.home
    keyed: list[Tensor] = []
    columns = []
    for phi, psi in program.score_terms:
        psi = _leading(psi, 4)
        columns.append((_leading(phi, 4), psi.expand(-1, -1, shapes.Sk, -1)))
    visible = None
    if program.key_bias is not None:
        bias = _leading(program.key_bias, 3)
        finite, visible = _split_hidden(bias, shapes.Sk)
        finite = finite.to(dtype)
        if bias.requires_grad:
            psi = finite.unsqueeze(-1).expand(-1, -1, shapes.Sk, -1)
            columns.append((torch.ones(1, 1, 1, 1, dtype=dtype, device=device), psi))
            finite = torch.zeros((), dtype=dtype, device=device)
        if visible is not None:
            keyed.append(torch.where(visible, finite, -INF).unsqueeze(2))
        elif not bias.requires_grad:
            keyed.append(finite.unsqueeze(2))
    adaptive: list[tuple[Gain, Tensor, Mapping[str, Tensor]]] = []
    for gain in program.gains:
        inside = region_of(program, gain.region).to(dtype)
        if gain.adaptive or adaptive:  # what comes after it must not be seen by it
            of = {label: region_of(program, name).to(dtype) for label, name in gain.of.items()}
            adaptive.append((gain, inside, of))
            continue
        log_g = log_gain(gain, dtype, device)
        if log_g.shape[-1] == 1 and not log_g.requires_grad:
            keyed.append((log_g * inside).unsqueeze(2))
        else:
            columns.append((log_g.unsqueeze(-1), inside.unsqueeze(-1)))
    key_mask = None
    if keyed:
        key_mask = keyed[0] if len(keyed) == 1 else sum(keyed[1:], keyed[0])
        key_mask = key_mask.expand(*key_mask.shape[:-1], shapes.Sk).contiguous()
    return Terms(
        scale=shapes.D**-0.5 if program.scale is None else float(program.scale),
        causal=program.causal,
        q_offset=shapes.Sk - shapes.Sq if program.q_offset is None else int(program.q_offset),
        key_mask=key_mask,
        columns=tuple(columns),
        hides=visible is not None,
        bias=program.bias,
        softcap=program.softcap,
        pattern=program.pattern,
        sinks=None if program.sinks is None else program.sinks.reshape(-1).expand(shapes.Hq),
        adaptive=tuple(adaptive),
    )
