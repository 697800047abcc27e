"""Self-attention that is dense or mixture of block attention, as its mode says."""

from __future__ import annotations

from torch import Tensor, nn

from .._implements import implements
from ..engine.attention import attention
from ..errors import FoveateError
from ..patterns import Pattern
from ..patterns.moba import MoBA as Blocks
from ._projections import check_heads, merge_heads, split_heads

__all__ = ["MoBA"]


@implements("moba", basis="paper")
class MoBA(nn.Module):
    """Causal self-attention over a query's own block and the blocks it scores highest.

    Nothing is learned but the projections, so one set of weights serves both modes: train densely
    and go on with MoBA, or the other way round, or keep the last layers dense as the paper's
    hybrid does: ``layer.dense = True``.

    Parameters
    ----------
    dim : int
        A multiple of ``heads``.
    heads : int
    block : int
        Keys of a block; the last may be shorter.
    top : int
        Blocks a query sees, its own among them; more than there are means all of them.
    kv_heads : int, optional
        Of which ``heads`` is a multiple; default: as many.
    dense : bool
        Attend to everything instead. May be changed at any time.
    bias : bool
        Of the projections.

    Attributes
    ----------
    pattern : foveate.patterns.Pattern
        What a query sees: a ``MoBA``. Another pattern may be put in its place.

    Notes
    -----
    Positions are the model's business: the layer adds none. A causal window of equal budget has
    ``block * top`` keys.

    References
    ----------
    Lu et al., "MoBA: Mixture of Block Attention for Long-Context LLMs", 2025, section 2.

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> layer = fv.layers.MoBA(dim=64, heads=4, block=16, top=3)
    >>> x = torch.randn(2, 100, 64)
    >>> sparse = layer(x)
    >>> layer.dense = True
    >>> (layer(x) - sparse).abs().max() > 0
    tensor(True)
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        block: int,
        top: int,
        *,
        kv_heads: int | None = None,
        dense: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        size = check_heads(dim, heads)
        self.heads, self.kv_heads = heads, heads if kv_heads is None else kv_heads
        if not isinstance(self.kv_heads, int) or self.kv_heads < 1 or heads % self.kv_heads:
            raise FoveateError(
                f"kv_heads={kv_heads!r} was given; a divisor of heads={heads} was wanted."
            )
        self.pattern: Pattern = Blocks(block, top)
        self.dense = dense
        self.q = nn.Linear(dim, dim, bias=bias)
        self.kv = nn.Linear(dim, 2 * self.kv_heads * size, bias=bias)
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, S, dim] -> [B, S, dim]``."""
        q = split_heads(self.q(x), self.heads)
        k, v = (split_heads(t, self.kv_heads) for t in self.kv(x).chunk(2, -1))
        found = attention(q, k, v, causal=True, pattern=None if self.dense else self.pattern)
        return self.proj(merge_heads(found.out))

    def extra_repr(self) -> str:
        """What the printed module says of itself."""
        return f"heads={self.heads}, {self.pattern}, dense={self.dense}"
