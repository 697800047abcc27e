"""Scores moved towards the extremes of their row, as terms: no matrix of scores is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...engine.terms import hidden

__all__ = ["terms_of"]

TILE = 4_000_000  # pairs of queries and keys looked at together


def terms_of(
    q: Tensor, k: Tensor, much: Tensor, rows: Tensor, block: Tensor, segments: Tensor,
    scale: float, key_bias: Tensor | None, several: bool,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """``-a s + a min + a (max - min) m`` on one block of keys, as columns of queries and keys."""
    if not bool(much.any()):
        return
    low, high = _extremes(q, k[:, :, block], scale, _seen(key_bias, block, k.shape[2]))
    kind: dict[str, Any] = {"dtype": q.dtype, "device": q.device}
    much = much.to(q)
    inside = block.to(**kind)[None, None, :, None]
    yield -much[..., None] * scale * q, k * inside
    yield (
        (much * (high - low))[..., None] * rows.to(**kind)[:, None],
        segments.to(**kind)[:, None],
    )
    if several:  # else it is one number a row, which its softmax does not see
        yield (much * low)[..., None], inside.expand(len(q), -1, -1, -1)


def _seen(key_bias: Tensor | None, block: Tensor, keys: int) -> Tensor | None:
    """Which keys of the block are visible: bool ``[B|1, Hq|1, 1, n]``."""
    if key_bias is None:
        return None
    shape = (1,) * (3 - key_bias.dim()) + tuple(key_bias.shape)
    return ~hidden(key_bias.reshape(shape).expand(-1, -1, keys)[..., block])[:, :, None]


def _extremes(q: Tensor, k: Tensor, scale: float, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    """Lowest and highest score of each row, ``[B, Hq, Sq]``: a tile of rows at a time."""
    low, high = [], []
    size = max(1, TILE // max(1, q.shape[0] * q.shape[1] * k.shape[2]))
    for part in q.split(size, 2):
        scores = scale * (part @ k.mT)
        if seen is None:
            low.append(scores.amin(-1))
            high.append(scores.amax(-1))
        else:
            low.append(scores.masked_fill(~seen, math.inf).amin(-1))
            high.append(scores.masked_fill(~seen, -math.inf).amax(-1))
    return torch.cat(low, -1), torch.cat(high, -1)
