"""Attention over a set of keys as a value that merges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import FoveateError
from .checks import broadcast

INF = float("inf")


@dataclass(frozen=True, eq=False)
class Partial:
    """Attention over one set of keys: ``out = softmax(s) V`` and ``lse = logsumexp(s)`` over it.

    Partials over disjoint sets of keys merge exactly (:func:`merge`), in any order and grouping;
    the identity is ``(0, -inf)``.

    Attributes
    ----------
    out : Tensor
        ``[..., Sq, Dv]``.
    lse : Tensor
        ``[..., Sq]``, float32 or wider.
    """

    out: Tensor
    lse: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.out, Tensor) or not isinstance(self.lse, Tensor):
            raise FoveateError(
                "Partial takes two tensors, out and lse; "
                f"{type(self.out).__name__} and {type(self.lse).__name__} were given."
            )
        if self.lse.dtype.itemsize < 4 or not self.lse.is_floating_point():
            raise FoveateError(
                f"Partial takes an lse in float32 or wider (it is a logarithm of sums); it is "
                f"{self.lse.dtype}."
            )
        if self.out.shape[:-1] != self.lse.shape:
            raise FoveateError(
                f"Partial takes out [..., Sq, Dv] and lse [..., Sq]; out {tuple(self.out.shape)} "
                f"and lse {tuple(self.lse.shape)} were given."
            )


def merge(*partials: Partial, gains: Sequence[float | Tensor] | None = None) -> Partial:
    """Merge attention over disjoint sets of keys into attention over their union.

    ``lse = logaddexp(lse_1, lse_2, …)`` and ``out = sum_n exp(lse_n - lse) out_n``. A gain ``g``
    on a set adds ``log g`` to its ``lse`` first: its probabilities are multiplied by ``g`` and the
    rows renormalised. Differentiable with respect to every ``out``, ``lse`` and gain.

    Parameters
    ----------
    *partials : Partial
        At least one; equal shapes.
    gains : sequence of float or Tensor, optional
        One a partial, greater than 0, broadcastable to ``lse``.

    Returns
    -------
    Partial
        Rows visible in no partial are ``(0, -inf)``.

    Raises
    ------
    FoveateError
        No partial, unequal shapes, as many gains as partials not given, or a gain that is not > 0.
    """
    if not partials or not all(isinstance(p, Partial) for p in partials):
        kinds = ", ".join(type(p).__name__ for p in partials) or "none"
        raise FoveateError(f"merge takes one or more Partials, side by side; {kinds} was given.")
    first = partials[0]
    for other in partials[1:]:
        if other.out.shape != first.out.shape:
            raise FoveateError(
                f"merge takes Partials of one shape; {tuple(first.out.shape)} and "
                f"{tuple(other.out.shape)} were given."
            )
    lses = [p.lse for p in partials]
    if gains is not None:
        if isinstance(gains, int | float) or len(gains) != len(partials):
            count = "one number" if isinstance(gains, int | float) else f"{len(gains)} gains"
            raise FoveateError(
                f"merge takes one gain a Partial: {len(partials)} Partials and {count} were given."
            )
        weights = [torch.as_tensor(g, dtype=torch.float64, device=first.lse.device) for g in gains]
        if not all(bool(((g > 0) & g.isfinite()).all()) for g in weights):
            raise FoveateError("merge takes gains that are finite and greater than 0.")
        for weight in weights:
            broadcast("a gain", weight, tuple(first.lse.shape), "the shape of lse")
        lses = [lse + g.log().to(lse.dtype) for lse, g in zip(lses, weights, strict=True)]
    return Partial(*merge_tensors([p.out for p in partials], lses))


def merge_tensors(outs: Sequence[Tensor], lses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """:func:`merge` on bare tensors, without its checks."""
    if len(outs) == 1:
        return outs[0], lses[0]
    stacked = torch.stack(list(lses))
    # -inf - -inf is NaN and so is its gradient: a row that no set shows takes 0 as its reference.
    top = stacked.detach().amax(0)
    top = torch.where(top > -INF, top, 0.0)
    weights = (stacked - top).exp()
    total = weights.sum(0)
    visible = total > 0
    safe = torch.where(visible, total, 1.0)
    lse = torch.where(visible, safe.log() + top, -INF)
    weights = weights / safe
    # Weighted in the dtype of lse and rounded once: half-precision weights would add an error.
    out = sum(w.unsqueeze(-1) * o for w, o in zip(weights, outs, strict=True))
    assert isinstance(out, Tensor)
    return out.to(outs[0].dtype), lse
