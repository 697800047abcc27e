"""Attention with an extra key and value of each head: what massive activations stand in for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._implements import implements
from ..engine.attention import attention
from ..engine.partial import Partial, merge
from ..errors import FoveateError

__all__ = ["AttentionBias", "attention_with_bias"]


def attention_with_bias(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_bias: Tensor,
    v_bias: Tensor,
    *,
    causal: bool = True,
    scale: float | None = None,
) -> Tensor:
    """``softmax(Q [K; k']^T / sqrt(D)) [V; v']``: one more key and value, seen by every query.

    The extra pair is one more :class:`~foveate.engine.partial.Partial`, merged with the attention
    over the tokens: no mask and no wider matrix.

    Parameters
    ----------
    q, k, v : Tensor
        ``[B, H, Sq, D]``, ``[B, H or Hkv, Sk, D]``, ``[B, H or Hkv, Sk, Dv]``.
    k_bias, v_bias : Tensor
        ``k' [H, D]`` and ``v' [H, Dv]``. ``-inf`` cannot be said of a key: for plain attention
        leave the operator out. With ``v' = 0`` the pair is a null key, which only takes attention.
    causal : bool
    scale : float, optional
        Default ``D ** -0.5``.

    Returns
    -------
    Tensor
        ``[B, H, Sq, Dv]``; differentiable in all five tensors.

    Raises
    ------
    FoveateError
        For biases of another shape.

    References
    ----------
    Sun et al., "Massive Activations in Large Language Models" (2024), section 4.3 and the authors'
    ``model_attn_bias.py``.
    """
    heads, size, wide = q.shape[1], q.shape[-1], v.shape[-1]
    for name, bias, wanted in (
        ("k_bias", k_bias, (heads, size)),
        ("v_bias", v_bias, (heads, wide)),
    ):
        if tuple(bias.shape) != wanted:
            raise FoveateError(f"{name} is {list(bias.shape)}; {list(wanted)} was wanted.")
    found = attention(q, k, v, causal=causal, scale=scale)
    scale = size**-0.5 if scale is None else scale
    lse = (q * k_bias[:, None]).sum(-1).to(found.lse.dtype) * scale
    extra = Partial(v_bias[:, None].expand_as(found.out).to(found.out.dtype), lse)
    return merge(Partial(found.out, found.lse), extra).out


@implements("massive-activations", basis="paper")
class AttentionBias(nn.Module):
    """Self-attention with a learned extra key ``k'`` and value ``v'`` in each head.

    GPT-2-size models trained with it have no massive activations, in the paper; that is not tried
    here. The operator is checked against its formula.

    Parameters
    ----------
    dim : int
        A multiple of ``heads``.
    heads : int
    causal : bool
    bias : bool
        Of the projections.

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> layer = fv.layers.AttentionBias(dim=64, heads=4)
    >>> layer(torch.randn(2, 10, 64)).shape
    """

    def __init__(self, dim: int, heads: int, *, causal: bool = True, bias: bool = False) -> None:
        super().__init__()
        if not (isinstance(dim, int) and isinstance(heads, int) and heads > 0 and dim > 0):
            raise FoveateError(f"dim={dim!r}, heads={heads!r} were given; whole numbers > 0 wanted")
        if dim % heads:
            raise FoveateError(f"dim={dim} does not divide into heads={heads}; give a multiple.")
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim, bias=bias)
        self.k_bias = nn.Parameter(torch.randn(heads, dim // heads) * 0.02)
        self.v_bias = nn.Parameter(torch.randn(heads, dim // heads) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, S, dim] -> [B, S, dim]``."""
        B, S, dim = x.shape
        q, k, v = self.qkv(x).view(B, S, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = attention_with_bias(q, k, v, self.k_bias, self.v_bias, causal=self.causal)
        return self.proj(out.transpose(1, 2).reshape(B, S, dim))
