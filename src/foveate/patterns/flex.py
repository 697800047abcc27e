"""Patterns for torch's FlexAttention: a mask function, and the blocks that are visible."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..engine.backends import flex
from ..engine.program import Program
from ..engine.shapes import Shapes
from ..engine.terms import fold
from ..errors import FoveateError

if TYPE_CHECKING:
    from ._base import Pattern

__all__ = ["block_mask", "mask_mod"]


def _of_positions(pattern: Pattern) -> None:
    for part in pattern.parts():
        if part.routed or hasattr(part, "selected"):  # chosen by content, or still to choose
            raise FoveateError(
                f"{part!r} looks at the content, and only patterns that do not convert to "
                "FlexAttention. route(q, k) chooses for one call; .matrix() of what was chosen is "
                "a dense mask."
            )


def mask_mod(pattern: Pattern, q_offset: int = 0) -> Callable[..., Tensor]:
    """A pattern as the function ``(batch, head, q_idx, kv_idx) -> bool`` of FlexAttention."""
    if not isinstance(q_offset, int) or isinstance(q_offset, bool):
        raise FoveateError(
            f"mask_mod(q_offset={q_offset!r}): the key index of query 0 was wanted, a whole number."
        )
    _of_positions(pattern)
    zero = torch.zeros((), dtype=torch.int64)
    try:
        pattern.visible(zero, zero, zero, zero)  # what has none says so here, not compiled
    except NotImplementedError as error:
        raise FoveateError(
            f"{pattern!r} has no function of single pairs; block_mask(Sq, Sk) looks its tiles up."
        ) from error

    def visible(batch: Tensor, head: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return pattern.visible(batch, head, q_idx + q_offset, kv_idx)

    return visible


def block_mask(pattern: Pattern, Sq: int, Sk: int, q_offset: int, device: Any) -> Any:
    """A pattern as torch's ``BlockMask`` of blocks of 128 × 128."""
    try:
        where = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise FoveateError(
            f"block_mask(device={device!r}): a device was wanted, such as 'cpu' or 'cuda'."
        ) from error
    _of_positions(pattern)
    heads = pattern.heads or 1
    shapes = Shapes(1, heads, heads, Sq, Sk, 64, 64, torch.float32, where)
    program = Program(pattern=pattern, q_offset=q_offset)
    return flex.Call(program, fold(program, shapes), shapes).block_mask
