"""What the layers share: heads cut out of a projection and put back."""

from __future__ import annotations

from torch import Tensor

from ..errors import FoveateError


def check_heads(dim: int, heads: int) -> int:
    """The head size, or a refusal."""
    for name, value in (("dim", dim), ("heads", heads)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise FoveateError(f"{name}={value!r} was given; a whole number of at least 1 wanted.")
    if dim % heads:
        raise FoveateError(f"dim={dim} does not divide into heads={heads}; give a multiple.")
    return dim // heads


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``[B, S, heads * D] -> [B, heads, S, D]``."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """``[B, heads, S, D] -> [B, S, heads * D]``."""
    return x.transpose(1, 2).flatten(-2)
