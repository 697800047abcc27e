"""Swin's attention in shifted windows, on a kernel that keeps no scores."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FoveateError
from ._image import Sides, cut, join, on_grid, sides, split_heads
from .flash_window import flash_window_attention

__all__ = ["WindowAttention"]


class WindowAttention(nn.Module):
    """Swin's self-attention in windows, shifted or not, with a bias by relative position.

    Cyclic shift, padding, windows, the shift's mask and their inverse are all in here: tokens of an
    image go in and come out. The attention itself is
    :func:`~foveate.layers.flash_window.flash_window_attention`. Parameters are named and laid out
    as in timm and in Swin's repository: ``load_state_dict`` takes the ``attn`` of a timm block.

    Parameters
    ----------
    dim : int
        A multiple of ``heads``.
    heads : int
    window : int or (int, int)
        Sides of a window, in tokens.
    shift : int or (int, int)
        By how much the windows are moved, smaller than the window; Swin takes half a window in
        every second layer.
    grid : (int, int), optional
        Rows and columns of the image, where they are always the same.
    bias : bool
        Of the projection to q, k and v.
    chunk : int, optional
        Features taken at once by the kernel.

    Raises
    ------
    FoveateError
        A shift that is not smaller than the window; ``heads`` that do not divide ``dim``.

    Notes
    -----
    A grid that windows do not divide is padded below and right with zeros, before the shift, and
    the zeros are tokens like others: their keys are the projection's bias, as in Swin's detection
    code and in transformers. (timm shifts first and pads then, with the mask of an image that was
    padded first: on such grids it differs here.) Along a side that is one window there is no shift,
    as in timm; Swin's own code then has none along the other side either. What the mask hides has a
    probability of 0; in all of those codes its score is lowered by 100.

    References
    ----------
    Liu et al., "Swin Transformer" (2021), section 3.2, equation 4, and the authors' code; the
    kernel: Zhang, "Flash Window Attention" (2025).

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> layer = fv.layers.WindowAttention(dim=96, heads=3, window=7, shift=3)
    >>> layer(torch.randn(2, 28 * 28, 96), grid=(28, 28)).shape
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window: int | Sides = 7,
        shift: int | Sides = 0,
        *,
        grid: Sides | None = None,
        bias: bool = True,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        split_heads("WindowAttention", dim, heads)
        self.dim, self.heads, self.chunk = dim, heads, chunk
        self.window = sides("WindowAttention", "window", window)
        self.shift = sides("WindowAttention", "shift", shift, least=0)
        self.grid = None if grid is None else sides("WindowAttention", "grid", grid)
        if any(s >= w for s, w in zip(self.shift, self.window, strict=True)):
            raise FoveateError(
                f"WindowAttention(shift={shift!r}): a shift smaller than the window {self.window} "
                "was wanted, such as half of it."
            )
        h, w = self.window
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * h - 1) * (2 * w - 1), heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("_index", _index(self.window), persistent=False)

    def position_bias(self) -> Tensor:
        """What is added to the scores of each pair of a window: ``[heads, tokens, tokens]``."""
        table = self.relative_position_bias_table
        return table[self._index].permute(2, 0, 1)  # type: ignore[index]

    def forward(self, x: Tensor, grid: Sides | None = None) -> Tensor:
        """``[B, H * W, dim] -> [B, H * W, dim]``, tokens in row-major order.

        Raises
        ------
        FoveateError
            Tokens that do not fill the grid.
        """
        H, W = on_grid("WindowAttention", x, self.dim, grid, self.grid)
        h, w = self.window
        x = x.view(-1, H, W, self.dim)
        padded = -(-H // h) * h, -(-W // w) * w
        if padded != (H, W):
            x = nn.functional.pad(x, (0, 0, 0, padded[1] - W, 0, padded[0] - H))
        shift = tuple(
            s if side > n else 0 for s, side, n in zip(self.shift, padded, (h, w), strict=True)
        )
        mask = None
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), (1, 2))
            mask = _mask(padded, self.window, shift, x.device)
        windows = cut(x, self.window)
        q, k, v = self.qkv(windows).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = self._attend(q, k, v, mask)
        x = join(self.proj(out.transpose(1, 2).flatten(2)), padded, self.window)
        if any(shift):
            x = x.roll(shift, (1, 2))
        return x[:, :H, :W].reshape(-1, H * W, self.dim)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention in windows ``[N, heads, tokens, D]``."""
        bias = self.position_bias().to(q.dtype)
        return flash_window_attention(q, k, v, bias, mask, chunk=self.chunk)

    def extra_repr(self) -> str:
        """What it was made with."""
        return f"{self.dim}, heads={self.heads}, window={self.window}, shift={self.shift}"


def _index(window: Sides) -> Tensor:
    """Which row of the table a pair of a window's tokens has: int64 ``[tokens, tokens]``."""
    h, w = window
    y, x = torch.arange(h * w) // w, torch.arange(h * w) % w
    down, right = y[:, None] - y + h - 1, x[:, None] - x + w - 1
    return down * (2 * w - 1) + right


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # it may be kept for a backward pass later
def _mask(grid: Sides, window: Sides, shift: Any, device: torch.device) -> Tensor:
    """Who sees whom in the windows of a rolled image: bool ``[windows, tokens, tokens]``.

    Tokens see each other that lay in one window before the image was rolled, counted from the
    shifted origin: what :class:`foveate.patterns.Windows` says.
    """
    pieces = [
        torch.div(torch.arange(side, device=device) - s, n, rounding_mode="floor")
        for side, n, s in zip(grid, window, shift, strict=True)
    ]
    number = (pieces[0][:, None] + 1) * (grid[1] + 1) + pieces[1] + 1
    number = number.roll((-shift[0], -shift[1]), (0, 1))
    each = cut(number[None, :, :, None], window)[..., 0]
    return each[:, :, None] == each[:, None]
