"""Families of patterns with one size each, and the size at which one has a given density."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

import torch

from ...errors import FoveateError
from ...patterns import Pattern, PowerAttention, SlidingWindow, Strided

__all__ = ["FAMILIES", "fitted", "share"]

Make = Callable[[int], Pattern]

_ROWS = 512  # queries looked at: evenly spread where there are more

# What is tried by default: a size -> a pattern that sees more with every step of it.
FAMILIES: Mapping[str, Make] = {
    "window": lambda size: SlidingWindow(size, sinks=4),
    "power": lambda size: PowerAttention(block=16, window=size, sinks=1),
    "strided": lambda size: _strided(size),
}


def _strided(size: int) -> Pattern:
    """A window with sinks, and as much again in columns: one in ``1024 / size``."""
    return SlidingWindow(size, sinks=4) | Strided(max(1, 1024 // size), local=1)


def share(pattern: Pattern, tokens: int) -> float:
    """The share of a causal triangle of ``tokens`` that a pattern shows: 1 is dense attention.

    Averaged over the heads that it tells apart. Of more than 512 tokens, 512 rows are counted.
    """
    rows = torch.arange(tokens)
    if tokens > _ROWS:
        rows = ((torch.arange(_ROWS) + 0.5) * tokens / _ROWS).long()
    keys = torch.arange(tokens)
    seen = 0
    for part in rows.split(64):
        seen += int((pattern.tile(part, keys) & (keys <= part[:, None])).sum())
    return seen / int((rows + 1).sum()) / (pattern.heads or 1)


def fitted(
    make: Make,
    wanted: float,
    tokens: int,
    density: Callable[[Any, int], float] = share,
) -> Pattern:
    """The largest pattern of a family that shows at most ``wanted`` of a causal triangle.

    Parameters
    ----------
    make : callable
        A size of at least 1 to a pattern, such as those of :data:`FAMILIES`.
    wanted : float
        In (0, 1].
    tokens : int
        The length at which it is to hold.
    density : callable
        Counts a pattern at a length; :func:`share` by default.

    Raises
    ------
    FoveateError
        Where the smallest pattern of the family shows more.
    """
    if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not 0 < wanted <= 1:
        raise FoveateError(f"A density of {wanted!r} was asked for; 0 < density <= 1 was wanted.")
    low, high = 1, tokens
    least = density(make(low), tokens)
    if least > wanted:
        raise FoveateError(
            f"{make(low)!r}, the smallest of its kind, shows {least:.3g} of the pairs of {tokens} "
            f"tokens, more than the {wanted:.3g} asked for: a density of "
            f"{ceil(least * 1000) / 1000:g}, or longer texts, were wanted."
        )
    while low < high:
        middle = (low + high + 1) // 2
        if density(make(middle), tokens) <= wanted:
            low = middle
        else:
            high = middle - 1
    return make(low)
