"""Training-free sparse attention at a density: a list of data, one line a method.

A density is what is computed of the causal triangle: 1/4 is a quarter of dense attention. Of what
goes by content it is counted on random queries and keys: how many are chosen does not depend on
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

import foveate as fv
from foveate import patterns as p
from foveate.find.tuning import fitted, share
from foveate.methods.sparse import DeltaCorrection, HyperAttention

DENSITIES = (1 / 2, 1 / 4, 1 / 8)
EVERY, LAST = 64, 64  # of the delta correction; the authors' last rows are 128

Make = Callable[[float, int], list[Any]]  # density, tokens -> methods for attach


def _even(size: int, of: int) -> int:
    return max(of, size // of * of)


# a size -> a pattern that sees more the larger it is; block sizes follow the length
SIZED: Mapping[str, Callable[[int, int], fv.patterns.Pattern]] = {
    "window + 4 sinks": lambda n, size: p.SlidingWindow(size, sinks=4),
    "dilated": lambda n, size: p.SlidingWindow(size, sinks=4) | p.Dilated(size, 8),
    "strided": lambda n, size: (
        p.SlidingWindow(size, sinks=4) | p.Strided(max(1, n // (2 * size)), local=1)
    ),
    "PowerAttention": lambda n, size: p.PowerAttention(block=max(16, n // 128), window=size),
    "HiP": lambda n, size: p.HiP(k=_even(size, 2), window=size, sinks=16),
    "DHSA": lambda n, size: p.DHSA(budget=2 * size + 17, window=size, sinks=16, block_q=64, last=0),
    "vertical–slash": lambda n, size: p.VerticalSlash(
        verticals=size,
        slashes=size + 1 + size // 32,
        sinks=min(30, size),
        window=size,
    ),
    "MoBA": lambda n, size: p.MoBA(block=max(16, n // 64), top=size),
}


def density(pattern: fv.patterns.Pattern, tokens: int) -> float:
    """What a pattern shows of a causal triangle; of routed ones, on random queries and keys."""
    if not getattr(pattern, "routed", False):
        return share(pattern, tokens)
    q, k = torch.randn(2, 1, 1, tokens, 16, generator=torch.Generator().manual_seed(0))
    found = pattern.route(q, k, causal=True, q_offset=0, scale=0.25)  # type: ignore[attr-defined]
    return sum(_seen(piece, tokens) for piece in found.pieces) / (tokens * (tokens + 1) / 2)


def _seen(piece: Any, tokens: int) -> int:
    """Pairs of one head's pieces that a causal call sees."""
    total = 0
    inside = torch.arange(piece.unit)
    for rows, keys in zip(piece.rows[0, 0].split(64), piece.keys[0, 0].split(64), strict=False):
        wide = (keys[:, :, None] * piece.unit + inside).masked_fill(keys[:, :, None] < 0, tokens)
        ordered = wide.flatten(1).sort(1).values
        upto = torch.searchsorted(ordered, rows.contiguous(), right=True)
        total += int(upto[rows >= 0].sum())
    return total


@cache
def sized(name: str, wanted: float, tokens: int) -> fv.patterns.Pattern:
    """The largest pattern of a family within a density."""
    return fitted(lambda size: SIZED[name](tokens, size), wanted, tokens, density=density)


def hyper(wanted: float, tokens: int) -> list[Any]:
    """HyperAttention: half of the density for the exact ends, half for blocks and samples."""
    least = int(tokens * wanted / 2)
    levels = max(1, math.ceil(math.log2(tokens / least)))
    each = max(8, int(tokens * wanted / 2 / levels / 2))
    return [HyperAttention(block=each, samples=each, least=least)]


def delta(wanted: float, tokens: int) -> list[Any]:
    """A window with sinks, its full rows (the last, and every 64th) within the density."""
    full = sum(range(tokens - LAST, tokens)) / (tokens * tokens / 2) + 1 / EVERY
    if wanted <= full + 0.01:
        raise fv.FoveateError(f"{tokens} tokens: the full rows alone are {full:.2f} of them.")
    window = sized("window + 4 sinks", wanted - full, tokens)
    return [window, DeltaCorrection(every=EVERY, last=LAST)]


METHODS: Mapping[str, Make] = {
    **{
        name: lambda wanted, tokens, name=name: [sized(name, wanted, tokens)]  # type: ignore[misc]
        for name in SIZED
    },
    "window + delta": delta,
    "HyperAttention": hyper,
}
