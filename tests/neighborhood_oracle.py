"""Neighbourhood attention written out: loops and float64, nothing of foveate.

The window is found as NATTEN's Flex backend does, from a centre that is held inside the grid
(foveate holds the window's start); dilation by listing the members of each interleaved grid.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

Axes = tuple[int, ...]


def neighbors(side: int, w: int, s: int, d: int, causal: bool) -> list[list[int]]:
    """For each coordinate of an axis the coordinates that it sees, in order."""
    seen: list[list[int]] = [[] for _ in range(side)]
    for phase in range(d):
        members = range(phase, side, d)
        n = len(members)
        for place, at in enumerate(members):
            if causal:
                leader = min(place // s * s + s - 1, n - 1)
                window = [p for p in range(n) if p <= place and leader - p < w]
            else:
                left, right = w // 2, w - w // 2 - 1
                centre = min(place // s * s + s // 2, n - 1)
                while centre - left < 0:
                    centre += 1
                while centre + right > n - 1:
                    centre -= 1
                window = list(range(centre - left, centre + right + 1))
            seen[at] = [members[p] for p in window]
    return seen


def mask(
    grid: Axes, window: Axes, stride: Axes, dilation: Axes, causal: tuple[bool, ...]
) -> Tensor:
    """Bool ``[tokens, tokens]``."""
    along = [neighbors(*each) for each in zip(grid, window, stride, dilation, causal, strict=True)]
    found = torch.zeros(math.prod(grid), *grid, dtype=torch.bool)
    for q, at in enumerate(itertools.product(*map(range, grid))):
        for key in itertools.product(*(by[i] for by, i in zip(along, at, strict=True))):
            found[(q, *key)] = True
    return found.flatten(1)


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention in float64 over the seen keys; ``bias`` broadcasts to the scores."""
    scores = q.double() @ k.double().transpose(-1, -2) / math.sqrt(q.shape[-1])
    if bias is not None:
        scores = scores + bias.double()
    return scores.masked_fill(~seen, -math.inf).softmax(-1) @ v.double()


def relative(grid: Axes, window: Axes, dilation: Axes, table: Tensor) -> Tensor:
    """``bias[h, q, k] = table[h, offset + window - 1]`` by loops, offsets in steps of the dilation.

    ``[heads, tokens, tokens]``; 0 where the offset is none of the table's.
    """
    places = list(itertools.product(*map(range, grid)))
    bias = torch.zeros(table.shape[0], len(places), len(places), dtype=table.dtype)
    for (q, i), (k, j) in itertools.product(enumerate(places), repeat=2):
        off = [b - a for a, b in zip(i, j, strict=True)]
        steps = [o // d for o, d in zip(off, dilation, strict=True)]
        if any(o % d for o, d in zip(off, dilation, strict=True)):
            continue
        if all(abs(o) < w for o, w in zip(steps, window, strict=True)):
            at = tuple(o + w - 1 for o, w in zip(steps, window, strict=True))
            bias[:, q, k] = table[(slice(None), *at)]
    return bias
