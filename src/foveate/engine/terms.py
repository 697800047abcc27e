"""A program's terms, sorted by what they cost: key-only, low-rank columns, dense."""

from __future__ import annotations

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

    @property
    def differentiable(self) -> bool:
        """Whether a term itself wants a gradient."""
        tensors = [t for pair in self.columns for t in pair] + [self.bias, self.sinks]
        return any(t is not None and t.requires_grad for t in tensors)


def region_of(program: Program, name: str) -> Tensor:
    """A region as bool ``[B|1, Sk]``."""
    inside = program.regions[name]
    return inside[None] if inside.dim() == 1 else inside


def _log_gain(gain: Gain, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``log g`` as ``[B|1, Hq|1, Sq|1]``."""
    g = torch.as_tensor(gain.value, device=device)
    return g.to(dtype).log().reshape((1,) * (3 - g.dim()) + tuple(g.shape))


def _split_hidden(key_bias: Tensor, keys: int) -> tuple[Tensor, Tensor | None]:
    """The finite part of a key bias and, when it hides keys, which are visible."""
    visible = key_bias > -INF
    if bool(visible.all()):
        return key_bias, None
    return torch.where(visible, key_bias, 0.0), visible.expand(*visible.shape[:-1], keys)


def fold(program: Program, shapes: Shapes) -> Terms:
    """Sort the score terms of ``program`` for a call of these shapes."""
    dtype, device = shapes.stat_dtype, shapes.device
    keyed: list[Tensor] = []
    columns = [(phi, psi) for phi, psi in program.score_terms]
    visible = None
    if program.key_bias is not None:
        bias = program.key_bias.to(dtype)
        bias = bias.reshape((1,) * (3 - bias.dim()) + tuple(bias.shape))
        finite, visible = _split_hidden(bias, shapes.Sk)
        if bias.requires_grad:
            psi = finite.unsqueeze(-1).expand(-1, -1, shapes.Sk, -1)
            columns.append((torch.ones(1, 1, 1, 1, dtype=dtype, device=device), psi))
            finite = torch.zeros((), dtype=dtype, device=device)
        if visible is not None:
            keyed.append(torch.where(visible, finite, -INF).unsqueeze(2))
        elif not bias.requires_grad:
            keyed.append(finite.unsqueeze(2))
    for gain in program.gains:
        log_g = _log_gain(gain, dtype, device)
        inside = region_of(program, gain.region).to(dtype)[:, None]  # [B|1, 1, Sk]
        if log_g.shape[-1] == 1 and not log_g.requires_grad:
            keyed.append((log_g * inside).unsqueeze(2))
        else:
            columns.append((log_g.unsqueeze(-1), inside.unsqueeze(-1)))
    key_mask = None
    if keyed:
        key_mask = keyed[0] if len(keyed) == 1 else sum(keyed[1:], keyed[0])
        if key_mask.shape[-1] != shapes.Sk:
            key_mask = key_mask.expand(*key_mask.shape[:-1], shapes.Sk)
        if shapes.dtype == torch.float64:
            key_mask = key_mask.double()
    return Terms(
        scale=shapes.D**-0.5 if program.scale is None else float(program.scale),
        causal=program.causal,
        q_offset=shapes.Sk - shapes.Sq if program.q_offset is None else program.q_offset,
        key_mask=key_mask,
        columns=tuple(columns),
        hides=visible is not None,
        bias=program.bias,
        softcap=program.softcap,
        pattern=program.pattern,
        sinks=program.sinks,
    )
