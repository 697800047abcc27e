"""An operator on some heads: the others as they were."""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine.planner import plan
from ...engine.program import Program
from ...engine.shapes import Shapes

__all__ = ["on_heads"]


def on_heads(
    heads: tuple[int, ...] | None,
    program: Program,
    qkv: tuple[Tensor, Tensor, Tensor],
    made: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """``made`` (out and lse) on ``heads``, what ``program`` gives on the others; None for all."""
    if heads is None:
        return made
    done = plan(program, Shapes.of(*qkv)).run(*qkv)
    here = torch.zeros(qkv[0].shape[1], 1, dtype=torch.bool, device=qkv[0].device)
    here[list(heads)] = True
    return (
        torch.where(here.unsqueeze(-1), made[0], done.out),
        torch.where(here, made[1], done.lse),
    )
