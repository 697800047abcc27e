"""HaloNet's blocked local attention with relative positions and strided queries."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._implements import implements
from ..errors import FoveateError
from ._image import Sides, cut, divides, join, on_grid, sides, split_heads, whole
from .flash_window import flash_window_attention

__all__ = ["HaloAttention"]


@implements("halonet", basis="abstract")
class HaloAttention(nn.Module):
    """Blocked local self-attention: a block of queries sees the block and a halo around it.

    The scores are ``scale * q·(k + r)``, ``r`` the sum of two learned vectors, of the rows and of
    the columns between query and key. Written out it is dense attention under the mask
    :class:`foveate.patterns.Halo`; here each block is one short window of queries, and the position
    terms are columns beside q and k, so that no scores are kept.

    Parameters
    ----------
    dim : int
        A multiple of ``heads``: size of tokens, and of values over all heads.
    heads : int
    block, halo : int or (int, int)
        Sides of a block, which must divide the grid's, and how far is seen beyond it.
    stride : int
        Only every ``stride``-th query of a row and of a column is asked (it must divide the block):
        the layer in the place of a strided convolution. Keys are all there.
    grid : (int, int), optional
        Rows and columns of the image, where they are always the same.
    head_dim : int, optional
        Of queries and keys; default ``dim // heads``.
    bias : bool
        Of the projections to q, k and v.
    proj : bool
        Whether a projection follows. HaloNet's own layer stands between convolutions and has none.
    padding : {"hidden", "zeros"}
        What a halo sees outside the image: nothing, or keys and values of zeros, which take part in
        the softmax with their position terms (as in timm).
    scale_position : bool
        Whether the position terms are scaled like ``q·k``.

    Raises
    ------
    FoveateError
        Sizes that do not divide each other.

    Notes
    -----
    There is no official code. The relative terms are those of one of the authors (in the code of
    "Bottleneck Transformers", cited as HaloNet's reference by others): scaled queries, two tables
    of ``2 * window - 1`` vectors that heads share. timm does not scale them by default and sees
    zeros outside; :meth:`from_timm` sets both. The paper does not say what a halo sees outside the
    image. With a stride, positions are those of the image: the result is the unstrided one,
    subsampled. timm counts the remaining queries instead, so its strided weights mean other
    positions and are refused.

    References
    ----------
    Vaswani et al., "Scaling Local Self-Attention for Parameter Efficient Visual Backbones" (2021),
    sections 2.2 (blocked attention) and 2.3 (strided attention).

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> layer = fv.layers.HaloAttention(dim=64, heads=4, block=4, halo=2, grid=(16, 16))
    >>> layer(torch.randn(2, 256, 64)).shape
    >>> half = fv.layers.HaloAttention(dim=64, heads=4, block=4, halo=2, stride=2, grid=(16, 16))
    >>> half(torch.randn(2, 256, 64)).shape
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        block: int | Sides = 8,
        halo: int | Sides = 3,
        *,
        stride: int = 1,
        grid: Sides | None = None,
        head_dim: int | None = None,
        bias: bool = False,
        proj: bool = True,
        padding: Literal["hidden", "zeros"] = "hidden",
        scale_position: bool = True,
    ) -> None:
        super().__init__()
        who = "HaloAttention"
        size = split_heads(who, dim, heads)
        self.dim, self.heads = dim, heads
        self.head_dim = size if head_dim is None else whole(who, "head_dim", head_dim)
        self.block, self.halo = sides(who, "block", block), sides(who, "halo", halo, least=0)
        self.stride = whole(who, "stride", stride)
        self.grid = None if grid is None else sides(who, "grid", grid)
        if any(b % stride for b in self.block):
            raise FoveateError(
                f"{who}: a stride of {stride} does not divide the block {self.block}."
            )
        if self.grid is not None:
            divides(who, "block", self.block, self.grid)
        if padding not in ("hidden", "zeros"):
            raise FoveateError(f'{who}(padding={padding!r}): "hidden" or "zeros" was wanted.')
        self.padding, self.scale_position = padding, bool(scale_position)
        self.q = nn.Linear(dim, heads * self.head_dim, bias=bias)
        self.kv = nn.Linear(dim, heads * self.head_dim + dim, bias=bias)  # head by head, k then v
        self.proj = nn.Linear(dim, dim) if proj else nn.Identity()
        self.height_rel, self.width_rel = (
            nn.Parameter(torch.empty(2 * w - 1, self.head_dim)) for w in self.window
        )
        for table in (self.height_rel, self.width_rel):
            nn.init.trunc_normal_(table, std=self.head_dim**-0.5)

    @property
    def window(self) -> Sides:
        """Sides of what a block sees, its halo with it."""
        return self.block[0] + 2 * self.halo[0], self.block[1] + 2 * self.halo[1]

    @classmethod
    def from_timm(cls, module: Any, grid: Sides | None = None) -> HaloAttention:
        """The layer that computes what a ``timm.layers.HaloAttn`` does, with its weights copied.

        It takes tokens ``[B, H * W, dim]`` where timm's takes ``[B, dim, H, W]``.

        Raises
        ------
        FoveateError
            For a stride (positions are counted otherwise there), pooling after the attention, or
            another size of output than of input.
        """
        dim, out = module.q.in_channels, module.dim_out_v
        if module.block_stride != 1 or not isinstance(module.pool, nn.Identity) or out != dim:
            raise FoveateError(
                "from_timm takes a HaloAttn of stride 1 with dim_out == dim; this one has a stride "
                f"of {module.block_stride}, {type(module.pool).__name__} after it, dim={dim} and "
                f"dim_out={out}. timm's strided layer counts positions otherwise."
            )
        layer = cls(
            *(dim, module.num_heads, module.block_size, module.halo_size),
            grid=grid,
            head_dim=module.dim_head_qk,
            bias=module.q.bias is not None,
            proj=False,
            padding="zeros",
            scale_position=module.scale_pos_embed,
        )
        state = {
            name.removeprefix("pos_embed."): value.flatten(1) if value.dim() == 4 else value
            for name, value in module.state_dict().items()
        }
        layer.load_state_dict(state)
        return layer.to(module.q.weight)

    def forward(self, x: Tensor, grid: Sides | None = None) -> Tensor:
        """``[B, H * W, dim] -> [B, H/stride * W/stride, dim]``, tokens in row-major order.

        Raises
        ------
        FoveateError
            Tokens that do not fill the grid; a grid that blocks do not divide.
        """
        H, W = on_grid("HaloAttention", x, self.dim, grid, self.grid)
        divides("HaloAttention", "block", self.block, (H, W))
        x = x.view(-1, H, W, self.dim)
        asked = self.block[0] // self.stride, self.block[1] // self.stride
        q = cut(self.q(x[:, :: self.stride, :: self.stride]), asked)
        q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B * blocks, heads, tokens, D]
        k, v = self._neighbourhoods(x).split((self.head_dim, self.dim // self.heads), -1)
        rows, columns = self._positions(q, asked)
        scale = self.head_dim**-0.5
        by = scale if self.scale_position else 1.0
        wide = torch.cat([q * scale, rows * by, columns * by], -1)
        where = _where(self.window, k.device).to(k.dtype).expand(*k.shape[:3], -1)
        mask = None
        if self.padding == "hidden" and any(self.halo):
            mask = _inside((H, W), self.block, self.halo, k.device)
        out = flash_window_attention(wide, torch.cat([k, where], -1), v, mask=mask, scale=1.0)
        small = H // self.stride, W // self.stride
        x = join(self.proj(out.transpose(1, 2).flatten(2)), small, asked)
        return x.flatten(1, 2)

    def _neighbourhoods(self, x: Tensor) -> Tensor:
        """Keys and values of each block: ``[B * blocks, heads, tokens of a window, D + Dv]``."""
        (b, c), (h, w) = self.block, self.window
        kv = nn.functional.pad(
            self.kv(x), (0, 0, self.halo[1], self.halo[1], self.halo[0], self.halo[0])
        )
        kv = kv.unfold(1, h, b).unfold(2, w, c)  # [B, down, across, C, h, w]
        kv = kv.unflatten(3, (self.heads, -1)).permute(0, 1, 2, 3, 5, 6, 4)
        return kv.reshape(-1, self.heads, h * w, kv.shape[-1])

    def _positions(self, q: Tensor, asked: Sides) -> tuple[Tensor, Tensor]:
        """What each row and each column of a window adds to a query's scores."""
        at = q.unflatten(2, asked)
        tables = (self.height_rel, self.width_rel)
        y, x = (
            table[torch.arange(w, device=q.device) - own[:, None] + w - 1].to(q.dtype)
            for table, w, own in zip(tables, self.window, self._own(q.device), strict=True)
        )
        rows = torch.einsum("nhyxd,yjd->nhyxj", at, y)
        columns = torch.einsum("nhyxd,xjd->nhyxj", at, x)
        return rows.flatten(2, 3), columns.flatten(2, 3)

    def _own(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rows and columns of the queries within their block."""
        down, across = (torch.arange(0, b, self.stride, device=device) for b in self.block)
        return down, across

    def extra_repr(self) -> str:
        """What it was made with."""
        return (
            f"{self.dim}, heads={self.heads}, block={self.block}, halo={self.halo}, "
            f"stride={self.stride}, padding={self.padding!r}"
        )


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # it may be kept for a backward pass later
def _where(window: Sides, device: torch.device) -> Tensor:
    """The row and the column of a window's keys, one-hot: ``[keys, rows + columns]``."""
    key = torch.arange(window[0] * window[1], device=device)
    row = nn.functional.one_hot(key // window[1], window[0])
    return torch.cat([row, nn.functional.one_hot(key % window[1], window[1])], -1)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # it may be kept for a backward pass later
def _inside(grid: Sides, block: Sides, halo: Sides, device: torch.device) -> Tensor:
    """Which keys of each block's window lie in the image: bool ``[blocks, 1, keys]``."""
    along = []
    for side, b, h in zip(grid, block, halo, strict=True):
        starts = torch.arange(0, side, b, device=device)[:, None]
        at = starts + torch.arange(-h, b + h, device=device)
        along.append((at >= 0) & (at < side))
    rows, columns = along
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(2).flatten(0, 1)[:, None]
