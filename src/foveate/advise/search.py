"""Successive halving on the tuning part: many candidates on a few items, a few on all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import FoveateError
from ..tasks import Item
from .advice import Tried
from .ask import Answered, Ask, OutOfTime
from .goals import changes, gains
from .split import MARGIN

if TYPE_CHECKING:
    from .candidates import Candidate

__all__ = ["FINALISTS", "Rung", "Searched", "choose", "rungs", "search"]

FINALISTS = 3
_FIRST = 4  # items that every candidate is asked, at least
REFUSALS = (FoveateError, IndexError, RuntimeError, ValueError)
"""What a candidate may raise that does not go with a model: a prompt past its positions, say."""
_KINDS = ("nothing", "prompt", "method", "pattern")


@dataclass(frozen=True)
class Rung:
    """So many candidates are asked the items up to this number."""

    candidates: int
    items: int


@dataclass(frozen=True)
class Searched:
    """What a tuning part says.

    Attributes
    ----------
    chosen : Candidate
        The simplest within noise of the best; ``nothing`` too may be that.
    finalists : tuple of Candidate
        At most three, the chosen first, without ``nothing``.
    tried : tuple of Tried
    complete : bool
        False where the time ran out first.
    left_out : tuple of str
        Candidates for which there were not enough answers.
    """

    chosen: Candidate
    finalists: tuple[Candidate, ...]
    tried: tuple[Tried, ...]
    complete: bool
    left_out: tuple[str, ...] = ()


def rungs(candidates: int, items: int, answers: int) -> list[Rung]:
    """The schedule that the number of answers allows.

    Each round keeps the better half, and at last three, or two where that lets more be tried. As
    many items as go are asked from the beginning; where four are too many, the last candidates are
    left out.
    """
    return max((_held(candidates, items, answers, last) for last in (FINALISTS, 2)), key=_begun)


def _held(candidates: int, items: int, answers: int, last: int) -> list[Rung]:
    """The schedule of most candidates that ends with so many of them."""
    for count in range(candidates, 0, -1):
        for first in range(items, min(_FIRST, items) - 1, -1):
            plan = _schedule(count, items, first, last)
            if _answers(plan) <= answers:
                return plan
    return []


def _begun(plan: Sequence[Rung]) -> int:
    return plan[0].candidates if plan else 0


def _schedule(count: int, items: int, first: int, last: int) -> list[Rung]:
    counts = [count]
    while counts[-1] > last and first < items:
        counts.append(max(last, math.ceil(counts[-1] / 2)))
    steps = len(counts) - 1
    lengths = [round(first * (items / first) ** (k / steps)) for k in range(steps)] + [items]
    return [Rung(*pair) for pair in zip(counts, lengths, strict=True)]


def _answers(plan: Sequence[Rung]) -> int:
    before = [0, *(rung.items for rung in plan)]
    return sum(r.candidates * (r.items - b) for r, b in zip(plan, before, strict=False))


def search(
    ask: Ask,
    candidates: Sequence[Candidate],
    items: Sequence[Item],
    base: Sequence[Answered],
    *,
    answers: int,
    goal: str = "accuracy",
    margin: float = MARGIN,
) -> Searched:
    """Ask candidates the items of a tuning part, the fewer the more.

    Parameters
    ----------
    ask : Ask
    candidates : sequence of Candidate
        ``nothing`` first; it costs no answers, competes to the end and wins ties.
    items : sequence of Item
        In an order in which every beginning is like the whole.
    base : sequence of Answered
        What the model as it is answered to them.
    answers : int
        How many may be asked for.
    goal : str
    margin : float
        Accuracy that may be lost, for speed and memory.
    """
    nothing, *live = candidates
    found: dict[str, list[Answered]] = {one.name: [] for one in live}
    dropped: dict[str, int] = {}
    plan = rungs(len(live), len(items), answers) if live else []
    reached, alive = 0, live[: plan[0].candidates] if plan else []
    complete = bool(plan) or not live
    refused: dict[str, str] = {}
    left_out = tuple(one.name for one in live[len(alive) :])
    settled: list[Candidate] = []
    try:
        for number, rung in enumerate(plan, 1):
            if number > 1:
                order = _ranked(alive, found, base, goal, margin)
                for one in order[rung.candidates :]:
                    dropped[one.name] = number - 1
                alive = order[: rung.candidates]
            for one in list(alive):
                have = len(found[one.name])
                try:
                    found[one.name] += ask(one, items[have : rung.items])
                except REFUSALS as error:  # one that does not go here is no reason to stop
                    refused[one.name] = str(error)
                    alive = [other for other in alive if other is not one]
            reached, settled = rung.items, alive
    except OutOfTime:
        complete = False
        if not reached:  # of the first round those that were asked all of it
            reached = plan[0].items
            settled = [one for one in alive if len(found[one.name]) == reached]
    known = {one.name: found[one.name][:reached] for one in settled}
    chosen = choose([nothing, *settled], known, base[:reached], goal, margin)
    best = [one for one in _ranked(settled, known, base, goal, margin) if one is not chosen]
    finalists = ([] if chosen is nothing else [chosen]) + best
    tried = tuple(
        _tried(one, found[one.name], base, dropped.get(one.name), refused.get(one.name))
        for one in live
        if one.name not in left_out
    )
    return Searched(chosen, tuple(finalists[:FINALISTS]), tried, complete, left_out)


def choose(
    candidates: Sequence[Candidate],
    found: Mapping[str, Sequence[Answered]],
    base: Sequence[Answered],
    goal: str = "accuracy",
    margin: float = MARGIN,
) -> Candidate:
    """The simplest candidate within noise of the best, ``nothing`` (the first) among them.

    Within noise: its mean is less than one standard error of the paired difference below that of
    the best. Simpler: fewer parts; of equally many a prompt before a method, then the better.
    """
    nothing, *live = candidates
    n = len(base)
    means = {nothing.name: np.zeros(n)}
    fit = [one for one in live if n and _fits(base, found[one.name], goal, margin, strict=True)]
    means |= {one.name: gains(goal, base, found[one.name]) for one in fit}
    pool = [nothing, *fit]
    if not fit:
        return nothing
    best = max(pool, key=lambda one: float(means[one.name].mean()))  # of equals the first

    def near(one: Candidate) -> bool:
        apart = means[best.name] - means[one.name]
        noise = apart.std(ddof=1) / math.sqrt(n) if n > 1 else math.inf
        return bool(apart.mean() <= noise + 1e-9)  # one item is just one error: within noise

    def simple(one: Candidate) -> tuple[int, int, float]:
        return one.parts, _KINDS.index(one.kind), -float(means[one.name].mean())

    return min((one for one in pool if near(one)), key=simple)


def _fits(
    base: Sequence[Answered], found: Sequence[Answered], goal: str, margin: float, strict: bool
) -> bool:
    """Whether too much accuracy is lost for speed or memory: for sure, or (strict) as it looks."""
    if goal == "accuracy":
        return True
    mended, broken = changes(base[: len(found)], found)
    noise = 0.0 if strict else math.sqrt(mended + broken)
    return broken - mended <= margin * len(found) + noise


def _ranked(
    alive: Sequence[Candidate],
    found: Mapping[str, Sequence[Answered]],
    base: Sequence[Answered],
    goal: str,
    margin: float,
) -> list[Candidate]:
    """Best first; of equals the one that was more promising."""

    def key(one: Candidate) -> tuple[bool, float]:
        mine = found[one.name]
        if not mine:
            return True, 0.0
        fits = _fits(base, mine, goal, margin, strict=False)
        return not fits, -float(gains(goal, base[: len(mine)], mine).mean())

    return sorted(alive, key=key)


def _tried(
    one: Candidate,
    found: Sequence[Answered],
    base: Sequence[Answered],
    dropped: int | None,
    refused: str | None,
) -> Tried:
    asked = len(found)
    return Tried(
        name=one.name,
        kind=one.kind,
        parts=one.parts,
        why=one.why if refused is None else f"refused: {refused}",
        asked=asked,
        right=sum(answer.right for answer in found),
        base_right=sum(answer.right for answer in base[:asked]),
        seconds=sum(answer.seconds for answer in found) / asked if asked else 0.0,
        dropped_at=1 if refused is not None and dropped is None else dropped,
    )
