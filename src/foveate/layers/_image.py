"""Tokens of an image, cut into windows and put together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import FoveateError

Sides = tuple[int, int]


def whole(who: str, name: str, given: Any, least: int = 1) -> int:
    """A whole number of at least ``least``."""
    if not isinstance(given, int) or isinstance(given, bool) or given < least:
        raise FoveateError(f"{who}({name}={given!r}): a whole number >= {least} was wanted.")
    return given


def sides(who: str, name: str, given: Any, least: int = 1) -> Sides:
    """Two whole numbers (rows, columns); one is taken for both."""
    both = (given, given) if isinstance(given, int) else given
    if not isinstance(both, Sequence) or isinstance(both, str) or len(both) != 2:
        raise FoveateError(f"{who}({name}={given!r}): a number or (rows, columns) was wanted.")
    return whole(who, name, both[0], least), whole(who, name, both[1], least)


def split_heads(who: str, dim: int, heads: int) -> int:
    """The size of a head; ``heads`` must divide ``dim``."""
    if whole(who, "dim", dim) % whole(who, "heads", heads):
        raise FoveateError(f"{who}: dim={dim} does not divide into heads={heads}; give a multiple.")
    return dim // heads


def on_grid(who: str, x: Tensor, dim: int, grid: Any, default: Sides | None) -> Sides:
    """The grid of a call, its tokens ``x [B, S, dim]`` checked against it."""
    if x.dim() != 3 or x.shape[-1] != dim:
        raise FoveateError(f"{who}: x is {list(x.shape)}; [B, S, {dim}] was wanted.")
    if grid is None and default is None:
        raise FoveateError(
            f"{who}: which grid do the {x.shape[1]} tokens lie on? Give grid=(H, W)."
        )
    H, W = default if grid is None else sides(who, "grid", grid)  # type: ignore[misc]
    if x.shape[1] != H * W:
        raise FoveateError(
            f"{who}: {x.shape[1]} tokens were given and a grid of {H} × {W} = {H * W}; give the "
            "image's tokens alone, in row-major order, or another grid=(H, W)."
        )
    return H, W


def divides(who: str, name: str, part: Sides, grid: Sides) -> None:
    """Refuse parts that do not divide the grid."""
    for size, side in zip(part, grid, strict=True):
        if side % size:
            raise FoveateError(
                f"{who}: a {name} of {size} does not divide the grid's side of {side}; pad the "
                f"image to {-(-side // size) * size}, or choose another {name}."
            )


def cut(x: Tensor, window: Sides) -> Tensor:
    """``[B, H, W, C]`` into windows, ``[B * windows, tokens of a window, C]``, images first."""
    B, H, W, C = x.shape
    h, w = window
    x = x.view(B, H // h, h, W // w, w, C)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, h * w, C)


def join(windows: Tensor, grid: Sides, window: Sides) -> Tensor:
    """The inverse of :func:`cut`: ``[B, H, W, C]``."""
    (H, W), (h, w) = grid, window
    x = windows.view(-1, H // h, W // w, h, w, windows.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, H, W, windows.shape[-1])
