"""CSWin's attention: half the heads in horizontal stripes, half in vertical ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .._implements import implements
from ..errors import FoveateError
from ._image import Sides, cut, divides, join, on_grid, sides, split_heads, whole
from .flash_window import flash_window_attention

__all__ = ["CrossShapedWindowAttention"]


@implements("cswin", basis="paper")
class CrossShapedWindowAttention(nn.Module):
    """Self-attention in a cross of stripes, with positions from a convolution of the values (LePE).

    The first half of the heads sees the rows of its stripe, the second half the columns:
    :class:`foveate.patterns.CrossShaped`. To what a head reads is added a depthwise 3 × 3
    convolution of its values, within the stripe.

    Parameters
    ----------
    dim : int
        A multiple of ``heads``.
    heads : int
        Even.
    stripe : int
        Width of a stripe, which must divide both sides of the grid. A stripe as wide as a square
        image makes every head global; 1 is attention along the axes.
    grid : (int, int), optional
        Rows and columns of the image, where they are always the same.
    bias : bool
        Of the projection to q, k and v.

    Raises
    ------
    FoveateError
        An odd number of heads; sizes that do not divide each other.

    Notes
    -----
    As the authors' code, the convolution sees zeros beyond its stripe (the paper's equation 6 does
    not say where it ends). Halves stand in the order of the paper's equation 4; in the code the
    first half is the vertical one: :meth:`from_official` exchanges them. Their segmentation code
    pads grids that stripes do not divide with zeros, which take part in the softmax; here such
    grids are refused.

    References
    ----------
    Dong et al., "CSWin Transformer" (2021), sections 3.2 and 3.3, and the authors'
    ``models/cswin.py``.

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> layer = fv.layers.CrossShapedWindowAttention(dim=64, heads=4, stripe=2, grid=(8, 8))
    >>> layer(torch.randn(2, 64, 64)).shape
    """

    def __init__(
        self, dim: int, heads: int, stripe: int, *, grid: Sides | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        who = "CrossShapedWindowAttention"
        split_heads(who, dim, heads)
        if heads % 2:
            raise FoveateError(
                f"{who}(heads={heads}): an even number was wanted, half for each direction."
            )
        self.dim, self.heads, self.stripe = dim, heads, whole(who, "stripe", stripe)
        self.grid = None if grid is None else sides(who, "grid", grid)
        if self.grid is not None:
            divides(who, "stripe", (stripe, stripe), self.grid)
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.lepe = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.proj = nn.Linear(dim, dim)

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], heads: int, stripe: int, grid: Sides | None = None
    ) -> CrossShapedWindowAttention:
        """The layer of a ``CSWinBlock``, from the block's state dict (its norms and MLP are left).

        Parameters
        ----------
        state : mapping
            With ``qkv.weight``, ``proj.weight``, ``attns.0.get_v.weight`` and so on.
        heads, stripe, grid
            As the block's ``num_heads``, ``split_size`` and ``reso``.

        Raises
        ------
        FoveateError
            Weights that are missing.
        """
        branches = 2 if "attns.1.get_v.weight" in state else 1
        wanted = ["qkv.weight", "proj.weight", "proj.bias"]
        wanted += [
            f"attns.{i}.get_v.{name}" for i in range(branches) for name in ("weight", "bias")
        ]
        missing = [name for name in wanted if name not in state]
        if missing:
            raise FoveateError(
                f"The state of a CSWinBlock was wanted; {', '.join(missing)} is not in it."
            )
        dim = state["proj.weight"].shape[0]
        layer = cls(dim, heads, stripe, grid=grid, bias="qkv.bias" in state)
        layer = layer.to(state["proj.weight"])
        order = torch.arange(dim)
        if branches == 2:  # there the first half of the heads is the vertical one
            order = order.roll(dim // 2)
        ours = {
            "proj.weight": state["proj.weight"][:, order],
            "proj.bias": state["proj.bias"],
        }
        for name in ("weight", "bias"):
            both = [state[f"attns.{i}.get_v.{name}"] for i in range(branches)]
            ours[f"lepe.{name}"] = torch.cat(both)[order]
            if f"qkv.{name}" in state:
                three = state[f"qkv.{name}"].unflatten(0, (3, dim))
                ours[f"qkv.{name}"] = three[:, order].flatten(0, 1)
        layer.load_state_dict(ours)
        return layer

    def forward(self, x: Tensor, grid: Sides | None = None) -> Tensor:
        """``[B, H * W, dim] -> [B, H * W, dim]``, tokens in row-major order.

        Raises
        ------
        FoveateError
            Tokens that do not fill the grid; a grid that stripes do not divide.
        """
        who = "CrossShapedWindowAttention"
        H, W = on_grid(who, x, self.dim, grid, self.grid)
        divides(who, "stripe", (self.stripe, self.stripe), (H, W))
        qkv = self.qkv(x).view(-1, H, W, 3, 2, self.dim // 2)
        lying = self._half(qkv[..., 0, :], (self.stripe, W), slice(0, self.dim // 2))
        standing = self._half(qkv[..., 1, :], (H, self.stripe), slice(self.dim // 2, None))
        out: Tensor = self.proj(torch.cat([lying, standing], -1).flatten(1, 2))
        return out

    def _half(self, qkv: Tensor, stripe: Sides, channels: slice) -> Tensor:
        """Half of the heads in their stripes: ``[B, H, W, 3, dim/2] -> [B, H, W, dim/2]``."""
        grid = qkv.shape[1], qkv.shape[2]
        windows = cut(qkv.flatten(3), stripe).unflatten(-1, (3, -1))
        q, k, v = windows.unflatten(-1, (self.heads // 2, -1)).permute(2, 0, 3, 1, 4)
        out = flash_window_attention(q, k, v).transpose(1, 2).flatten(2)
        values = windows[:, :, 2].mT.unflatten(-1, stripe)
        weight, bias = self.lepe.weight[channels], self.lepe.bias
        assert bias is not None
        near = nn.functional.conv2d(values, weight, bias[channels], padding=1, groups=len(weight))
        return join(out + near.flatten(2).mT, grid, stripe)

    def extra_repr(self) -> str:
        """What it was made with."""
        return f"{self.dim}, heads={self.heads}, stripe={self.stripe}"
