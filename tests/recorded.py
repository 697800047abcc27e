"""Candidates, items and matrices of outcomes, for tests that ask no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foveate.advise.ask import Answered, Recorded
from foveate.advise.candidates import Candidate
from foveate.advise.search import search
from foveate.advise.split import split
from foveate.advise.verdict import verdict
from foveate.policy import Policy
from foveate.tasks import Item

NOTHING = Candidate(Policy(), "nothing", 0, "")


def candidate(name: str, kind: Any = "method", parts: int = 1) -> Candidate:
    return Candidate(Policy(name=name), kind, parts, "")


def items(n: int) -> list[Item]:
    return [Item(str(i), "", "") for i in range(n)]


def recorded(
    outcomes: Mapping[str, Sequence[Any]], seconds: Mapping[str, float] | None = None
) -> Recorded:
    taken = seconds or {}
    return Recorded(
        {
            name: {
                str(i): Answered(str(i), "", bool(right), taken.get(name, 1.0), 1000)
                for i, right in enumerate(row)
            }
            for name, row in outcomes.items()
        }
    )


def advised(
    outcomes: Mapping[str, Sequence[Any]],
    pool: Sequence[Candidate],
    *,
    seed: int = 0,
    answers: int = 10**6,
    goal: str = "accuracy",
    seconds: Mapping[str, float] | None = None,
) -> Any:
    """Split, search and verdict."""
    ask, every = recorded(outcomes, seconds), items(len(outcomes["nothing"]))
    base = ask(NOTHING, every)
    folds = split([one.right for one in base], seed, goal)
    found = [
        search(ask, [NOTHING, *pool], [every[i] for i in fold.tuning],
               [base[i] for i in fold.tuning], answers=answers, goal=goal)
        for fold in folds
    ]  # fmt: skip
    return verdict(ask, NOTHING, every, base, folds, found, goal=goal, samples=300)


def coins(n: int, share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < share
