"""Where a sequence falls into chunks: boundaries from keys, by similarity or learned."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import FoveateError
from ._base import whole

__all__ = ["BoundaryPredictor", "Boundaries", "chunk_edges", "fixed_edges", "similarity_shifts"]

Boundaries = Callable[[Tensor], Tensor]
WINDOW = 4  # keys looked at on either side of a place


def similarity_shifts(k: Tensor) -> Tensor:
    """How different the keys before a place are from those behind it: training-free boundaries.

    Parameters
    ----------
    k : Tensor
        ``[B, Hkv, Sk, D]``.

    Returns
    -------
    Tensor
        ``[B, Sk]``: 1 minus the cosine between the mean of the four keys up to ``j`` and that of
        the four behind it, the heads side by side. ``-inf`` where there are not four.
    """
    B, Sk = k.shape[0], k.shape[2]
    found = torch.full((B, Sk), -float("inf"), device=k.device)
    if Sk >= 2 * WINDOW:
        flat = k.to(torch.promote_types(k.dtype, torch.float32)).transpose(2, 3).flatten(1, 2)
        mean = nn.functional.avg_pool1d(flat, WINDOW, 1)
        shift = 1 - nn.functional.cosine_similarity(
            mean[..., :-WINDOW], mean[..., WINDOW:], dim=1, eps=1e-6
        )
        found[:, WINDOW - 1 : Sk - WINDOW] = shift.to(found.dtype)
    return found


class BoundaryPredictor(nn.Module):
    """A small module that says after which keys a chunk ends (DHSA's boundary predictor).

    The eight keys around a place go through self-attention and a norm; the means of the left and
    the right four, their difference, product and cosine through two linear layers. As in the
    authors' ``BoundarySimilarityAttn``. It is trained by
    :func:`foveate.find.boundaries.fit_boundaries`.

    Parameters
    ----------
    channels : int
        Key heads times head size: a model's keys of one layer, side by side.
    heads : int
        Of its attention; ``channels`` is a multiple of it.
    hidden : int

    Raises
    ------
    FoveateError
        Sizes that do not fit; keys of other channels.
    """

    def __init__(self, channels: int, heads: int = 4, hidden: int = 256) -> None:
        super().__init__()
        for name, value in (("channels", channels), ("heads", heads), ("hidden", hidden)):
            whole("BoundaryPredictor", name, value)
        if channels % heads:
            raise FoveateError(
                f"BoundaryPredictor(channels={channels}, heads={heads}): channels must be a "
                "multiple of heads."
            )
        self.channels = channels
        self.mix = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.norm = nn.LayerNorm(channels)
        self.judge = nn.Sequential(
            nn.Linear(4 * channels + 1, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def forward(self, k: Tensor) -> Tensor:
        """Logits ``[B, Sk]`` of keys ``[B, Hkv, Sk, D]``; ``-inf`` near the ends."""
        B, H, Sk, D = k.shape
        if self.channels != H * D:
            raise FoveateError(
                f"the boundary predictor was made for {self.channels} key channels; the keys have "
                f"{H} heads of {D}."
            )
        found = torch.full((B, Sk), -float("inf"), device=k.device)
        if Sk < 2 * WINDOW:
            return found
        logits = self.judged(self.around(k)).to(found.dtype)
        return nn.functional.pad(logits, (WINDOW - 1, WINDOW), value=-float("inf"))

    def around(self, k: Tensor) -> Tensor:
        """The eight keys around every place that has them: ``[B, Sk - 7, 8, channels]``."""
        flat = k.transpose(1, 2).flatten(2).to(self.norm.weight.dtype)
        return flat.unfold(1, 2 * WINDOW, 1).transpose(2, 3)

    def judged(self, around: Tensor) -> Tensor:
        """Logits ``[...]`` of windows ``[..., 8, channels]``."""
        keys = around.reshape(-1, *around.shape[-2:])
        mixed = self.norm(self.mix(keys, keys, keys, need_weights=False)[0])
        left, right = mixed[:, :WINDOW].mean(1), mixed[:, WINDOW:].mean(1)
        alike = nn.functional.cosine_similarity(left, right, dim=-1, eps=1e-6)[:, None]
        fused = torch.cat([left, right, (left - right).abs(), left * right, alike], -1)
        found: Tensor = self.judge(fused).reshape(around.shape[:-2])
        return found


def chunk_edges(scores: Tensor, chunks: int, apart: int) -> Tensor:
    """Cut where scores are highest, no two cuts within ``apart`` keys of each other.

    The greedy choice in the order of the scores (non-maximum suppression), for all rows at once:
    of what is left, the peaks are taken and their surroundings struck out, until nothing is left.

    Parameters
    ----------
    scores : Tensor
        ``[B, Sk]``: a chunk may end after key ``j``; ``-inf`` where it may not.
    chunks : int
        At most so many.
    apart : int

    Returns
    -------
    Tensor
        int64 ``[B, chunks + 1]``, ascending from 0 to ``Sk``: chunk ``c`` is ``edges[c]`` up to
        ``edges[c + 1] - 1``. Where fewer cuts are possible the last chunks are empty.
    """
    B, Sk = scores.shape
    alive = scores > float("-inf")
    order = scores.argsort(dim=-1, descending=True, stable=True)
    ahead = torch.empty_like(order)  # Sk for the best place, 1 for the worst: none alike
    ahead.scatter_(-1, order, torch.arange(Sk, 0, -1, device=scores.device).expand(B, -1))
    rank, taken = ahead.to(torch.float64), torch.zeros_like(alive)
    reach = 2 * apart + 1
    while bool(alive.any()):
        left = torch.where(alive, rank, 0.0)
        top = nn.functional.max_pool1d(left, reach, 1, apart)
        peak = alive & (left == top)
        taken |= peak
        near = nn.functional.max_pool1d(peak.to(torch.float64), reach, 1, apart) > 0
        alive &= ~near
    count = min(chunks - 1, Sk)
    best = torch.where(taken, rank, 0.0).topk(count)
    ends = torch.where(best.values > 0, best.indices + 1, Sk).sort(-1).values
    edges = torch.nn.functional.pad(ends, (1, 0))
    return torch.nn.functional.pad(edges, (0, chunks + 1 - edges.shape[-1]), value=Sk)


def fixed_edges(B: int, Sk: int, chunk: int, device: torch.device) -> Tensor:
    """Chunks of ``chunk`` keys, the last perhaps shorter: int64 ``[B, ceil(Sk / chunk) + 1]``."""
    edges = torch.arange(0, Sk + chunk, chunk, device=device).clamp(max=Sk)
    return edges.unique().expand(B, -1)
