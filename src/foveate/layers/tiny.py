"""A small model around attention layers, to try them on small worlds."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..errors import FoveateError

__all__ = ["TinyModel"]


class TinyModel(nn.Module):
    """Embedding, a short convolution, pre-norm blocks around the given layers, and a head.

    Parameters
    ----------
    vocab : int
        Tokens there are, in and out.
    dim : int
    attention : iterable of Module
        ``[B, S, dim] -> [B, S, dim]``, one a block.
    length : int, optional
        Learned positions for so many tokens; default none.
    grid : (int, int), optional
        The tokens are an image: the convolution is 3 × 3. Otherwise it is causal, three tokens
        wide: a token knows the two before it, so that one layer can recall.
    width : int
        The multilayer perceptron's, in ``dim``.
    """

    def __init__(
        self,
        vocab: int,
        dim: int,
        attention: Iterable[nn.Module],
        *,
        length: int | None = None,
        grid: tuple[int, int] | None = None,
        width: int = 2,
    ) -> None:
        super().__init__()
        self.attention = nn.ModuleList(attention)
        if not len(self.attention):
            raise FoveateError("TinyModel was given no attention layer; one a block was wanted.")
        self.grid = grid
        self.embed = nn.Embedding(vocab, dim)
        self.place = nn.Parameter(torch.randn(length, dim) * 0.02) if length else None
        self.near = nn.Conv2d(dim, dim, 3, padding=1) if grid else nn.Conv1d(dim, dim, 3)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in self.attention)
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(dim),
                nn.Linear(dim, width * dim),
                nn.GELU(),
                nn.Linear(width * dim, dim),
            )
            for _ in self.attention
        )
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, vocab))

    def forward(self, tokens: Tensor) -> Tensor:
        """``int64 [B, S] -> logits [B, S, vocab]``."""
        x = self.embed(tokens)
        if self.place is not None:
            x = x + self.place[: x.shape[1]]
        if self.grid:
            x = x + self.near(x.mT.unflatten(-1, self.grid)).flatten(2).mT
        else:
            x = x + self.near(nn.functional.pad(x.mT, (2, 0))).mT
        for norm, attend, mlp in zip(self.norms, self.attention, self.mlps, strict=True):
            x = x + attend(norm(x))
            x = x + mlp(x)
        return self.head(x)
