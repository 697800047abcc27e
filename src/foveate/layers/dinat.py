"""DiNAT: blocks of neighbourhood attention, local and dilated in turn."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .._implements import implements
from ..errors import FoveateError
from ..patterns import Neighborhood
from ._projections import check_heads
from .neighborhood import NeighborhoodAttention, on_grid

__all__ = ["DiNAT"]


@implements("dinat", basis="paper")
class DiNAT(nn.Module):
    """A stage of DiNAT: blocks of neighbourhood attention, local and dilated in turn.

    A block is ``x + attention(norm(x))``, then ``x + mlp(norm(x))``. A local block sees what is
    near, a dilated one as many tokens from farther away: through both, the receptive field grows by
    a factor a pair of blocks instead of by a summand a block, at the same cost. The stage keeps its
    grid; put convolutions that halve it between stages for the paper's hierarchy.

    Parameters
    ----------
    dim, heads : int
    grid : sequence of int
        Of one to three axes.
    window : int or sequence of int
    dilations : sequence of int or of tuples, optional
        One for each block. Default: ``depth`` blocks, local and the widest that fits in turn
        (``side // window``), as in the authors' models; of 56 x 56 tokens with window 7: 1, 8, 1.
    depth : int
        How many blocks, where ``dilations`` is left out.
    mlp : float
        Width of the hidden layer, in ``dim``.
    position_bias : bool

    Raises
    ------
    FoveateError
        Sizes that do not fit, no block at all.

    References
    ----------
    Hassani and Shi, "Dilated Neighborhood Attention Transformer", 2022, sections 3.2 and 3.4; the
    authors' ``nat.py`` and ``dinat.py``. Of these, drop path and layer scale are left out.

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> stage = fv.layers.DiNAT(dim=32, heads=4, grid=(16, 16), window=3, depth=4)
    >>> [block.attention.pattern.dilation for block in stage.blocks]
    [(1, 1), (5, 5), (1, 1), (5, 5)]
    >>> stage(torch.randn(2, 256, 32)).shape
    torch.Size([2, 256, 32])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        grid: Sequence[int],
        window: int | Sequence[int],
        *,
        dilations: Sequence[int | Sequence[int]] | None = None,
        depth: int = 2,
        mlp: float = 3.0,
        position_bias: bool = True,
    ) -> None:
        super().__init__()
        check_heads(dim, heads)
        local = Neighborhood(grid, window)
        if dilations is None:
            if not isinstance(depth, int) or isinstance(depth, bool) or depth < 1:
                raise FoveateError(
                    f"DiNAT(depth={depth!r}): a number of blocks, at least 1, was wanted."
                )
            widest = tuple(n // w for n, w in zip(local.grid, local.window, strict=True))
            dilations = [widest if block % 2 else 1 for block in range(depth)]
        if not isinstance(dilations, Sequence) or isinstance(dilations, str) or not dilations:
            raise FoveateError(
                f"DiNAT(dilations={dilations!r}): one for each block was wanted, such as [1, 4]."
            )
        if not isinstance(mlp, int | float) or int(dim * mlp) < 1:
            raise FoveateError(f"DiNAT(mlp={mlp!r}): a factor greater than 0 was wanted.")
        self.grid, self.dim = local.grid, dim
        self.blocks = nn.ModuleList(
            _Block(
                dim,
                NeighborhoodAttention(
                    *(dim, heads, grid, window), dilation=one, position_bias=position_bias
                ),
                int(dim * mlp),
            )
            for one in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, tokens, dim] -> [B, tokens, dim]``; ``[B, *grid, dim]`` likewise."""
        flat = on_grid(x, self.grid, self.dim)
        for block in self.blocks:
            flat = block(flat)
        return flat.view(x.shape)


class _Block(nn.Module):
    """Attention and an MLP, each behind a norm and beside a residual connection."""

    def __init__(self, dim: int, attention: nn.Module, hidden: int) -> None:
        super().__init__()
        self.attention = attention
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.mlp(self.norms[1](x))
