"""Multi-window attention: every head looks at windows of its own length, from two tokens to all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .._implements import implements
from ..engine.attention import attention
from ..errors import FoveateError
from ..patterns.sequence import MultiWindow

__all__ = ["MultiWindowAttention"]


@implements("mw-mae", basis="paper")
class MultiWindowAttention(nn.Module):
    """Self-attention in which every head has windows of its own length (MW-MHA).

    A head with window ``w`` cuts the ``N`` tokens into ``N / w`` pieces without overlap; each sees
    itself. Pieces run as a batch: no mask, and never more than ``w × w`` scores of a piece.
    The paper puts it into the decoder of a masked autoencoder and leaves the encoder as it is.

    Parameters
    ----------
    dim : int
        A multiple of the number of heads.
    windows : sequence of int, or int
        One a head, 0 for all tokens; or the number of tokens, for the windows of
        :meth:`MultiWindow.of` of which those that hold all tokens are 0. Each must divide the
        tokens of a call.
    heads : int, optional
        With a number of tokens: how many heads; default as in :meth:`MultiWindow.of`.
    relative : bool
        A learned bias for every distance within a window, one table a head (not for windows of 0).
    bias : bool
        Of the projection to queries, keys and values.

    Raises
    ------
    FoveateError
        Sizes that do not fit each other; a window that does not divide the tokens.

    Notes
    -----
    As in the authors' code: windowed heads have a table of ``2 w - 1`` biases, drawn with a
    variance of ``0.02 / (2 w - 1)``; heads that see everything have none. Its option to shift the
    windows in every other block, off in the published configurations, is left out.

    References
    ----------
    Yadav et al., "Masked Autoencoders with Multi-Window Local-Global Attention Are Better Audio
    Learners", ICLR 2024, section 3; the authors' ``modules/layers.py`` and their configuration for
    250 tokens: windows 2, 5, 10, 25, 50, 125, 0, 0.

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> layer = fv.layers.MultiWindowAttention(dim=384, windows=250)
    >>> layer.windows
    >>> layer(torch.randn(2, 250, 384)).shape
    """

    def __init__(
        self,
        dim: int,
        windows: int | Sequence[int],
        heads: int | None = None,
        *,
        relative: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.windows = _windows(windows, heads)
        if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1 or dim % len(self.windows):
            raise FoveateError(
                f"MultiWindowAttention(dim={dim!r}): a multiple of its {len(self.windows)} heads "
                "was wanted."
            )
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim)
        for layer in (self.qkv, self.proj):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        self.tables = nn.ParameterDict()
        for w in sorted(set(self.windows) - {0}) if relative else ():
            table = torch.empty(self.windows.count(w), 2 * w - 1)
            deviation = (0.02 / (2 * w - 1)) ** 0.5
            self.tables[str(w)] = nn.init.trunc_normal_(
                table, std=deviation, a=-2 * deviation, b=2 * deviation
            )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, dim] -> [B, N, dim]``."""
        B, N, _ = x.shape
        for w in self.windows:
            if w and N % w:
                raise FoveateError(
                    f"{N} tokens were given and a head has windows of {w}, which do not divide "
                    f"them; pad to {-(-N // w) * w}, or build the layer with windows={N}."
                )
        qkv = self.qkv(x).view(B, N, 3, len(self.windows), -1).permute(2, 0, 3, 1, 4)
        outs: list[Tensor] = [qkv.new_empty(0)] * len(self.windows)
        for w in dict.fromkeys(self.windows):
            which = [h for h, other in enumerate(self.windows) if other == w]
            out = self._pieces(
                qkv[:, :, which], w or N, self.tables[str(w)] if w and self.tables else None
            )
            for place, h in enumerate(which):
                outs[h] = out[:, place]
        return self.proj(torch.cat(outs, -1))

    def _pieces(self, qkv: Tensor, w: int, table: Tensor | None) -> Tensor:
        """``[3, B, h, N, D]`` in pieces of ``w`` tokens, ``[B, h, N, D]``."""
        _, B, h, N, D = qkv.shape
        q, k, v = qkv.unflatten(3, (N // w, w)).transpose(2, 3).reshape(3, -1, h, w, D)
        bias = None
        if table is not None:
            here = torch.arange(w, device=table.device)
            bias = table[:, here[:, None] - here + w - 1].unsqueeze(0).to(q.dtype)
        out = attention(q, k, v, bias=bias).out
        return out.view(B, N // w, h, w, D).transpose(1, 2).flatten(2, 3)

    def extra_repr(self) -> str:
        """The windows."""
        return f"windows={self.windows}, relative={bool(self.tables)}"


def _windows(given: int | Sequence[int], heads: int | None) -> tuple[int, ...]:
    if isinstance(given, int) and not isinstance(given, bool):
        return tuple(w if w < given else 0 for w in MultiWindow.of(given, heads).windows)
    if isinstance(given, str | bool) or not isinstance(given, Sequence) or not given:
        raise FoveateError(
            f"MultiWindowAttention(windows={given!r}): a window for every head, such as "
            "[2, 5, 10, 0], or the number of tokens was wanted."
        )
    if heads is not None and heads != len(given):
        raise FoveateError(f"{len(given)} windows were given for heads={heads}; leave heads out.")
    for w in given:
        if not isinstance(w, int) or isinstance(w, bool) or w < 0:
            raise FoveateError(
                f"MultiWindowAttention(windows={given!r}): whole numbers were wanted, 0 for all "
                "tokens."
            )
    return tuple(given)
