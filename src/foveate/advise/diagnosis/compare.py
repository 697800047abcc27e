"""Failing against passing items: intervals and tests, and silence where there are too few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from .result import Row

__all__ = ["FEW", "counts", "fisher", "holm", "means", "permutation"]

FEW = 5  # items of a kind below which nothing is compared
_EXACT = 20_000  # ways to share out the items up to which all are tried
_DRAWN = 9_999


def means(
    key: str,
    name: str,
    group: str,
    unit: str,
    failing: Sequence[float],
    passing: Sequence[float],
    *,
    seed: int = 0,
) -> Row:
    """A number an item: the two means, an interval of their difference, a permutation test."""
    a, b = (np.asarray([x for x in part if x is not None], float) for part in (failing, passing))
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    low = high = p = None
    if min(a.size, b.size) >= FEW:
        draw = np.random.default_rng(seed)
        size = 2000
        apart = a[draw.integers(0, a.size, (size, a.size))].mean(1) - b[
            draw.integers(0, b.size, (size, b.size))
        ].mean(1)
        low, high = map(float, np.quantile(apart, (0.025, 0.975)))
        p = permutation(a, b, seed=seed)
    said = "" if p is None else "permutation"
    bad, good = (float(side.mean()) if side.size else None for side in (a, b))
    return Row(key, name, group, unit, bad, good, a.size, b.size, low, high, p, said)


def counts(
    key: str, name: str, group: str, failing: Sequence[bool], passing: Sequence[bool]
) -> Row:
    """Yes or no an item: the two shares, Newcombe's interval of the difference, Fisher's test."""
    yes, n = (sum(failing), sum(passing)), (len(failing), len(passing))
    low = high = p = None
    if min(n) >= FEW:
        low, high = _newcombe(yes[0], n[0], yes[1], n[1])
        p = fisher(yes[0], n[0] - yes[0], yes[1], n[1] - yes[1])
    said = "" if p is None else "Fisher"
    bad, good = (y / m if m else None for y, m in zip(yes, n, strict=True))
    return Row(key, name, group, "share of items", bad, good, *n, low, high, p, said)


def permutation(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> float:
    """Two-sided permutation test of equal means: exact where there are few ways, else drawn.

    Returns
    -------
    float
        The share of all ways to call the items failing and passing in which the means are as far
        apart as they are, or further.
    """
    pooled = np.concatenate([np.asarray(a, float), np.asarray(b, float)])
    n, size = len(pooled), len(a)
    total = pooled.sum()

    def apart(sums: np.ndarray) -> np.ndarray:
        return np.abs(sums / size - (total - sums) / (n - size))

    seen = apart(np.asarray(a, float).sum()) * (1 - 1e-9)  # ties are ties, whatever the rounding
    if math.comb(n, size) <= _EXACT:
        sums = np.array([pooled[list(chosen)].sum() for chosen in combinations(range(n), size)])
        return float((apart(sums) >= seen).mean())
    draw = np.random.default_rng(seed)
    order = draw.random((_DRAWN, n)).argsort(1)[:, :size]
    hits = int((apart(pooled[order].sum(1)) >= seen).sum())
    return (hits + 1) / (_DRAWN + 1)


def fisher(a: int, b: int, c: int, d: int) -> float:
    """Fisher's exact two-sided test of the table ``[[a, b], [c, d]]``.

    The sum of the probabilities of all tables with these margins that are no likelier.
    """
    row, other, column = a + b, c + d, a + c
    whole = math.comb(row + other, column)
    ways = [
        math.comb(row, x) * math.comb(other, column - x) if 0 <= column - x <= other else 0
        for x in range(row + 1)
    ]
    return min(1.0, sum(w for w in ways if w <= ways[a]) / whole) if whole else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979), in the order given."""
    order = sorted(range(len(p)), key=p.__getitem__)
    found, most = [1.0] * len(p), 0.0
    for rank, i in enumerate(order):
        most = max(most, min(1.0, (len(p) - rank) * p[i]))
        found[i] = most
    return found


def _newcombe(a: int, m: int, b: int, n: int) -> tuple[float, float]:
    """95 % interval of a/m - b/n (Newcombe 1998, method 10: from the two Wilson intervals)."""
    from ...statistics import wilson

    (low, high), (less, more) = wilson(a, m), wilson(b, n)
    x, y = a / m, b / n
    return (
        x - y - math.hypot(x - low, more - y),
        x - y + math.hypot(high - x, y - less),
    )
