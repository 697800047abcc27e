"""What a gain is: right answers, seconds or bytes, always item by item against the baseline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import FoveateError
from .ask import Answered

__all__ = ["GOALS", "changes", "gains", "loss_bound", "memory_before", "seconds_before"]

GOALS = ("accuracy", "speed", "memory")


def gains(goal: str, base: Sequence[Answered], found: Sequence[Answered]) -> np.ndarray:
    """By item, float64 ``[n]``: +1 mended, 0 the same, −1 broken; or the seconds or bytes saved as
    a share of what the baseline takes on average.
    """
    if goal == "accuracy":
        return np.array([f.right - b.right for b, f in zip(base, found, strict=True)], float)
    if goal == "speed":
        after = np.array([one.seconds for one in found])
        before = seconds_before(base, found)
    else:
        after = np.array([_bytes(one.memory) for one in found])
        before = np.array([_bytes(size) for size in memory_before(base, found)])
    return (before - after) / before.mean()


def seconds_before(base: Sequence[Answered], found: Sequence[Answered]) -> np.ndarray:
    """The baseline's seconds by item: those taken beside the candidate's, where there are such."""
    return np.array(
        [b.seconds if f.beside is None else f.beside for b, f in zip(base, found, strict=True)]
    )


def memory_before(base: Sequence[Answered], found: Sequence[Answered]) -> list[int | None]:
    """The same of peak bytes."""
    return [
        b.memory if f.beside_memory is None else f.beside_memory
        for b, f in zip(base, found, strict=True)
    ]


def changes(base: Sequence[Answered], found: Sequence[Answered]) -> tuple[int, int]:
    """How many answers were mended and how many broken."""
    pairs = [(b.right, f.right) for b, f in zip(base, found, strict=True)]
    return pairs.count((False, True)), pairs.count((True, False))


def loss_bound(mended: int, broken: int, n: int) -> float:
    """One-sided 95 % upper bound of the accuracy lost, from pairs.

    The score bound of Tango (1998, Statistics in Medicine 17, 891–908, section 3), which does not
    shrink to nothing where no answer changed: with 0 of n changed it is 2.71 / (n + 2.71).
    """
    z, low, high = 1.6449, (broken - mended) / n, 1.0
    for _ in range(40):  # the statistic falls with the loss that is supposed
        middle = (low + high) / 2
        a, b = 2 * n, -mended - broken + (2 * n - broken + mended) * middle
        c = -mended * middle * (1 - middle)
        rest = (np.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        spread = np.sqrt(max(1e-12, n * (2 * rest + middle * (1 - middle))))
        low, high = (
            (middle, high) if (broken - mended - n * middle) / spread > -z else (low, middle)
        )
    return float(high)


def _bytes(size: int | None) -> float:
    if size is None:
        raise FoveateError(
            "goal='memory' needs the peak memory of an answer, which this system does not tell; "
            "give goal='speed' or 'accuracy'."
        )
    return float(max(size, 1))
