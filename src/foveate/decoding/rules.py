"""Rules that combine next-token distributions; decoders are settings of these.

All take and give log-probabilities ``[B, V]``; what they give is defined up to a constant a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import FoveateError

__all__ = ["against", "checked_plausibility", "contrast", "entropy", "plausible"]


def entropy(log_probs: Tensor, *, normalised: bool = False) -> Tensor:
    """Entropy of each row's distribution, ``[B]``: in nats, or as a share of ``log V``."""
    probabilities = log_probs.exp()
    terms = torch.where(probabilities > 0, probabilities * log_probs, 0.0)  # 0 log 0 is 0
    found = -terms.sum(-1)
    return found / math.log(log_probs.shape[-1]) if normalised else found


def contrast(base: Tensor, other: Tensor, alpha: Tensor | float) -> Tensor:
    """``(1 + alpha) base - alpha other``: what the first says and the second does not.

    Parameters
    ----------
    base, other : Tensor
        Log-probabilities ``[B, V]``.
    alpha : float or Tensor
        One number, or one a row ``[B]``. 0 gives ``base``. Tokens impossible in ``base`` stay so.
    """
    if isinstance(alpha, Tensor) and alpha.dim() == 1:
        alpha = alpha[:, None]
    scores = base + alpha * (base - other)
    return torch.where(base.isneginf(), base, scores)


def plausible(scores: Tensor, base: Tensor, beta: float) -> Tensor:
    """Keep tokens whose probability in ``base`` is at least ``beta`` times that of the best one.

    The adaptive plausibility constraint of contrastive decoding (Li et al. 2023): 0 < beta <= 1.
    """
    if not 0 < beta <= 1:
        raise FoveateError(f"beta={beta!r} was given; 0 < beta <= 1 was wanted.")
    least = base.max(-1, keepdim=True).values + math.log(beta)
    return scores.masked_fill(base < least, -math.inf)


def against(log_probs: Sequence[Tensor], alpha: float, plausibility: float | None) -> Tensor:
    """What the first of two views says and the second does not, among what is plausible to it."""
    first, second = log_probs
    scores = contrast(first, second, alpha)
    return scores if plausibility is None else plausible(scores, first, plausibility)


def checked_plausibility(share: float | None) -> None:
    """Refuse a share of the best token's probability that is none."""
    if share is not None and not 0 < share <= 1:
        raise FoveateError(f"plausibility={share!r} was given; 0 < plausibility <= 1 was wanted.")
