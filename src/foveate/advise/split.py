"""Which items choose and which report, and whether there are enough of them to tell anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from ..errors import FoveateError

__all__ = ["ALPHA", "MARGIN", "Fold", "in_all", "items_needed", "split", "too_few"]

ALPHA = 0.05
"""Level of the tests."""
MARGIN = 0.05
"""Accuracy that may be lost for speed or memory, as a share of the items."""
ONE_SPLIT = 100
"""From this many items on one half may choose and the other report; below, they take turns."""
_LEAST_FAILURES = 6  # 2 · 0.5^6 < 0.05 < 2 · 0.5^5: with fewer no gain can reach the level
_LEAST_ITEMS = 12
_Z2 = 1.6449**2  # one-sided 95 %
_POWER = 0.8
_MOST = 100_000
_MANY = 150  # items that differ, from which the exact sum is not worth its time


@dataclass(frozen=True)
class Fold:
    """Numbers of items: those that choose a policy, and those that report on it."""

    tuning: tuple[int, ...]
    reporting: tuple[int, ...]


def split(
    right: Sequence[bool], seed: int, goal: str = "accuracy", margin: float = MARGIN
) -> list[Fold]:
    """Two halves, alike in how many the baseline gets right.

    Parameters
    ----------
    right : sequence of bool
        The baseline's outcome, by item.
    seed : int
    goal, margin
        As :func:`too_few` takes them.

    Returns
    -------
    list of Fold
        One with 100 items or more, if half of them can tell anything; else two, which exchange the
        halves (cross-fitting). The items of a part are in an order in which every beginning has
        about the same share of failures, so that a search may ask a few first.
    """
    if len(right) < 2:
        raise FoveateError(f"{len(right)} items cannot be split; two at least were wanted.")
    rng = np.random.default_rng(seed)
    halves: tuple[list[tuple[float, int]], ...] = ([], [])
    turn = 0
    for outcome in (False, True):
        kind = rng.permutation([i for i, one in enumerate(right) if bool(one) is outcome])
        for half in (0, 1):
            mine = kind[(half + turn) % 2 :: 2]
            halves[half].extend(((k + rng.random()) / len(mine), int(i))
                                for k, i in enumerate(mine))  # fmt: skip
        turn += len(kind)
    first, second = (tuple(i for _, i in sorted(half)) for half in halves)
    reporting = [bool(right[i]) for i in second]
    alone = len(right) >= ONE_SPLIT and too_few(reporting, goal, margin) is None
    return [Fold(first, second)] + ([] if alone else [Fold(second, first)])


def too_few(right: Sequence[bool], goal: str = "accuracy", margin: float = MARGIN) -> int | None:
    """How many items it would take, where these can tell nothing; None where they are enough.

    Accuracy: with fewer than six failures no policy can reach p < 0.05 in McNemar's exact test,
    even if it mended them all; what is needed is reckoned for one that mends half of the failures
    and breaks nothing, at a power of 80 %. Speed and memory: what it takes to bound the loss of
    accuracy by ``margin`` when not one answer changes.
    """
    n = len(right)
    if goal == "accuracy":
        failures = n - sum(map(bool, right))
        if n >= _LEAST_ITEMS and failures >= _LEAST_FAILURES:
            return None
        wanted = items_needed(0.5 * (failures + 0.5) / (n + 1), 0.0)
        return max(in_all(wanted or _MOST), _LEAST_ITEMS, n + 1)
    wanted = math.ceil(_Z2 * (1 - margin) / margin)
    if n >= wanted and sum(map(bool, right)) >= _LEAST_FAILURES:
        return None
    return max(wanted, n + 1)


def in_all(reporting: int) -> int:
    """Items of which so many report: with many, one half of them chooses."""
    return reporting if reporting < ONE_SPLIT else 2 * reporting


def items_needed(mended: float, broken: float) -> int | None:
    """Items at which McNemar's exact test sees such a gain in four cases of five.

    Parameters
    ----------
    mended, broken : float
        Shares of all items that a policy mends and breaks.

    Returns
    -------
    int or None
        None where the gain is not above 0, or more than 100,000 would be needed.
    """
    if not 0 <= broken < mended or mended + broken > 1:
        return None
    differ, gain = mended + broken, mended - broken
    # Connor (1987, Biometrics 43, 207-211), without correction: good where many differ
    wanted = ((1.96 * math.sqrt(differ) + 0.8416 * math.sqrt(differ - gain**2)) / gain) ** 2
    if wanted * differ > _MANY:
        return math.ceil(wanted) if wanted <= _MOST else None
    low, high = 1, 8
    while _power(high, mended, broken) < _POWER:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(middle, mended, broken) >= _POWER else (middle, high)
    return high


def _power(n: int, mended: float, broken: float) -> float:
    """Chance that ``n`` items show a gain at the level: the items that differ are binomial, and so
    are the mended ones among them.
    """
    differ, share = mended + broken, mended / (mended + broken)
    spread = 6 * math.sqrt(n * differ * (1 - differ)) + 6
    middle = range(max(0, int(n * differ - spread)), min(n, int(n * differ + spread)) + 1)
    return sum(_binomial(n, d, differ) * _shown(d, share) for d in middle)


@lru_cache(4096)
def _shown(d: int, share: float) -> float:
    """Chance that ``d`` items that differ show it."""
    least = _critical(d)
    return 0.0 if least is None else sum(_binomial(d, k, share) for k in range(least, d + 1))


@cache
def _critical(d: int) -> int | None:
    """The fewest mended among ``d`` that differ with which p < 0.05."""
    found, tail = None, 0
    for k in range(d, d // 2, -1):
        tail += math.comb(d, k)
        if 2 * tail / 2**d >= ALPHA:
            break
        found = k
    return found


def _binomial(n: int, k: int, p: float) -> float:
    if p in (0.0, 1.0):
        return float(k == n * p)
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log + k * math.log(p) + (n - k) * math.log1p(-p))
