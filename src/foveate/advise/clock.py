"""The minutes that were given, shared out among the stages, and how they are shown."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from .search import FINALISTS, rungs
from .split import ONE_SPLIT

__all__ = ["CONTROLS", "Clock", "Plan", "Tell", "minutes_for_all", "planned", "shown"]

Tell = Callable[[str, str, float], None]
"""Called with the stage, what is asked in it, and the seconds left."""

# when each stage has to end, as a share of the time; what one does not use the next ones have
ENDS = {"baseline": 0.3, "diagnosis": 0.42, "search": 0.74, "verdict": 0.86, "controls": 0.95,
        "examples": 0.98}  # fmt: skip
CONTROLS = 0.1
"""Of the time at most, for controls; what was chosen is asked first."""
_BASELINE = 0.25  # of the time at most, for asking every item once
_BESIDE = 0.15  # the same where it is asked again beside every answer
_DIAGNOSIS = 0.12  # of the time, aimed at: a quarter more is the end
_ASKING = 0.75  # of the time: baseline, search and verdict, the last two a quarter slower
_SLOWER = 1.25
_SEARCH = 0.75  # of these, where no answers are kept for what reports
_LONGEST = 10_000  # minutes
_SIZES = (12, 16, 24, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256, 320, 400, 512, 640, 800, 1024)


@dataclass
class Clock:
    """Seconds since a beginning, out of so many."""

    seconds: float
    start: float = field(default_factory=time.monotonic)

    def end(self, stage: str) -> float:
        """When a stage has to end, on the clock of :func:`time.monotonic`."""
        return self.start + ENDS[stage] * self.seconds

    def left(self, stage: str | None = None) -> float:
        """Seconds until a stage, or everything, has to end; not under 0."""
        end = self.start + self.seconds if stage is None else self.end(stage)
        return max(0.0, end - time.monotonic())

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.start


@dataclass(frozen=True)
class Plan:
    """How much is asked: of whole numbers, so that a little more speed changes nothing.

    Attributes
    ----------
    items : int
        Items that are asked at all.
    answers : int
        That the search may ask for, in all folds together.
    diagnosis : float
        Seconds that the diagnosis aims at.
    """

    items: int
    answers: int
    diagnosis: float


def planned(items: int, pace: float, seconds: float, beside: bool = False) -> Plan:
    """What ``seconds`` allow at ``pace`` seconds an answer, which is rounded to half powers of 2.

    Parameters
    ----------
    items : int
    pace, seconds : float
    beside : bool
        Whether the baseline is asked again beside every answer.
    """
    pace = 2.0 ** (round(2 * math.log2(max(pace, 1e-4))) / 2)
    most = int((_BESIDE if beside else _BASELINE) * seconds / pace)
    if items > most:
        items = max((n for n in _SIZES if n <= min(items, most)), default=min(items, most))
    room = _ASKING * seconds - items * pace  # what the baseline leaves is the search's
    answers = room / (_SLOWER * pace * (2 if beside else 1))
    report = FINALISTS * items / 2  # answers of the finalists; of two folds' some are the same
    if items >= ONE_SPLIT:  # with few answers as many choose as report
        least = min(answers / 2, report)
    else:  # so few that all are asked everything in both folds, and none is left to report
        least = min(_SEARCH * answers, 2 * report)
    return Plan(items, int(max(answers - report, least)), _DIAGNOSIS * seconds)


def minutes_for_all(
    candidates: int, items: int, pace: float, seconds: float, beside: bool = False
) -> int:
    """About how many minutes hold so many candidates, and all items: whole, above those given."""
    minutes = math.floor(seconds / 60) + 1
    while minutes < _LONGEST:
        plan = planned(items, pace, 60 * minutes, beside)
        folds = 1 if plan.items >= ONE_SPLIT else 2
        held = rungs(candidates, math.ceil(plan.items / 2), plan.answers // folds)
        if plan.items == items and held and held[0].candidates == candidates:
            break
        minutes = max(minutes + 1, round(1.1 * minutes))
    return minutes


def sampled(count: int, of: int, seed: int) -> list[int]:
    """Numbers of the items that are asked, in their order."""
    if count >= of:
        return list(range(of))
    rng = np.random.default_rng([seed, of])
    return sorted(int(i) for i in rng.choice(of, count, replace=False))


@contextmanager
def shown(progress: bool | Tell | None, clock: Clock) -> Iterator[Callable[[str, str], None]]:
    """Progress as a bar of the time on stderr, as calls, or not at all."""
    if progress is not None and not isinstance(progress, bool):
        call = progress
        yield lambda stage, what: call(stage, what, clock.left())
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    if progress is False or (progress is None and not console.is_terminal):
        yield lambda stage, what: None
        return
    columns = (TextColumn("{task.fields[stage]}"), BarColumn(), TextColumn("{task.fields[left]}"),
               TextColumn("{task.fields[what]}"))  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=clock.seconds, stage="reading", left="", what="")

        def tell(stage: str, what: str) -> None:
            minutes, seconds = divmod(int(clock.left()), 60)
            left = f"{minutes}:{seconds:02d} left"
            bar.update(task, completed=clock.spent, stage=stage, left=left, what=what)

        yield tell
