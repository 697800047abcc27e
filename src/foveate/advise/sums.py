"""What was asked, put together for the advice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..statistics import wilson
from .advice import Baseline, Figure, Tried, Verdict
from .ask import Answered
from .split import ALPHA

__all__ = ["baseline_of", "nothing_tried", "together"]


def nothing_tried(why: str, needed: int | None) -> Verdict:
    """The verdict where nothing was tried."""
    return Verdict(False, "nothing", why, (), needed, 0, ALPHA)


def baseline_of(base: Sequence[Answered]) -> Baseline:
    """The model as it is."""
    n, right = len(base), sum(one.right for one in base)
    low, high = wilson(right, n) if n else (0.0, 1.0)
    known = [one.memory for one in base if one.memory is not None]
    return Baseline(
        right=tuple(one.right for one in base),
        ids=tuple(one.id for one in base),
        replies=tuple(one.reply for one in base),
        accuracy=Figure(right / n if n else 0.0, low, high, n),
        seconds=sum(one.seconds for one in base) / n if n else 0.0,
        memory=max(known) if known else None,
    )


def together(parts: Sequence[Sequence[Tried]]) -> tuple[Tried, ...]:
    """What was tried, over all tuning parts; given up where no part kept it."""
    found: dict[str, Tried] = {}
    for one in (one for part in parts for one in part):
        was = found.get(one.name)
        if was is None:
            found[one.name] = one
            continue
        asked = was.asked + one.asked
        gone = None not in (was.dropped_at, one.dropped_at)
        found[one.name] = replace(
            was,
            asked=asked,
            right=was.right + one.right,
            base_right=was.base_right + one.base_right,
            seconds=(was.seconds * was.asked + one.seconds * one.asked) / max(1, asked),
            dropped_at=max(was.dropped_at or 0, one.dropped_at or 0) if gone else None,
        )
    return tuple(found.values())
