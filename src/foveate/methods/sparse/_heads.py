"""An operator on some heads: the others as they were."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["on_heads"]

Made = tuple[Tensor, ...]  # out [B,H,S,Dv] and lse [B,H,S]


def on_heads(heads: tuple[int, ...] | None, others: Made, made: Made) -> tuple[Tensor, Tensor]:
    """``made`` on ``heads``, ``others`` on the others; ``made`` where ``heads`` is None."""
    if heads is None:
        return made[0], made[1]
    here = torch.zeros(made[1].shape[1], 1, dtype=torch.bool, device=made[1].device)
    here[list(heads)] = True
    return torch.where(here.unsqueeze(-1), made[0], others[0]), torch.where(
        here, made[1], others[1]
    )
