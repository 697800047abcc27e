"""BiFormer's bi-level routing attention with its local term."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .._implements import implements
from ..engine.attention import attention
from ..errors import FoveateError
from ..patterns import Pattern
from ..patterns.bilevel import BiLevel
from ._projections import check_heads, merge_heads, split_heads

__all__ = ["BiLevelRouting"]


@implements("biformer", basis="paper")
class BiLevelRouting(nn.Module):
    """Attention of a region's tokens over the regions it chose, plus a depthwise term on V.

    ``y = W_o (Attention(q, K_chosen, V_chosen) + DWConv(v))``.

    Parameters
    ----------
    dim : int
        A multiple of ``heads``.
    heads : int
    grid : (int, int)
        Height and width of the map, in tokens, row-major.
    regions : int or (int, int)
        Regions along each side; they must divide the grid's sides.
    top : int
        Regions that a region sees (BiFormer's stages: 1, 4, 16, all of 49).
    kernel : int
        Side of the depthwise convolution on V, odd; 0 leaves the term out. The authors' models
        have 5.
    scale : float, optional
        Default ``dim ** -0.5``: the authors' code divides by the root of *all* channels, not of one
        head's, "to be consistent with old models".

    Attributes
    ----------
    pattern : foveate.patterns.Pattern or None
        Who sees whom: a ``BiLevel``, or None where all regions are seen. Another pattern may be
        put in its place.

    Raises
    ------
    FoveateError
        Sizes that do not divide; an even kernel; an input of other tokens than the grid's.

    Notes
    -----
    Routing takes no parameters and no gradient (the authors' ``diff_routing=False``, which all
    their models use). The authors pad a grid that its regions do not divide; here it is refused.

    References
    ----------
    Zhu et al., "BiFormer: Vision Transformer with Bi-Level Routing Attention", 2023, section 3.2,
    and the authors' ``bra_legacy.py`` and ``bra_nchw.py``.

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> layer = fv.layers.BiLevelRouting(dim=32, heads=2, grid=(14, 14), regions=7, top=4)
    >>> layer(torch.randn(2, 14 * 14, 32)).shape
    torch.Size([2, 196, 32])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        grid: Sequence[int],
        regions: int | Sequence[int] = 7,
        top: int = 4,
        *,
        kernel: int = 5,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        check_heads(dim, heads)
        if not isinstance(kernel, int) or kernel < 0 or (kernel and kernel % 2 == 0):
            raise FoveateError(f"kernel={kernel!r} was given; an odd number, or 0, was wanted.")
        pattern = BiLevel(grid, regions, top)
        if len(pattern.grid) != 2:
            raise FoveateError(f"grid={grid!r} was given; a height and a width were wanted.")
        self.grid = pattern.grid
        self.pattern: Pattern | None = pattern if top < len(pattern.members) else None
        self.heads, self.scale = heads, dim**-0.5 if scale is None else scale
        self.qkv = nn.Linear(dim, 3 * dim)
        self.local = (
            nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim) if kernel else None
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, S, dim] -> [B, S, dim]`` with ``S`` the tokens of the grid."""
        grid = self.grid
        if x.dim() != 3 or x.shape[1] != grid[0] * grid[1]:
            raise FoveateError(
                f"BiLevelRouting(grid={grid}) was given {list(x.shape)}; [B, {grid[0] * grid[1]}, "
                "dim] was wanted, the tokens row by row."
            )
        q, k, v = self.qkv(x).chunk(3, -1)
        heads = (split_heads(t, self.heads) for t in (q, k, v))
        out = merge_heads(attention(*heads, pattern=self.pattern, scale=self.scale).out)
        if self.local is not None:
            out = out + self.local(v.mT.unflatten(-1, grid)).flatten(2).mT
        return self.proj(out)

    def extra_repr(self) -> str:
        """What the printed module says of itself."""
        return f"heads={self.heads}, grid={self.grid}, {self.pattern}"
