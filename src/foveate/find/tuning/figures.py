"""The figures of a search: plans, how they did, and how sure the difference is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from torch import Tensor

from ...methods.tuned import Tuned
from ...statistics import paired_bootstrap
from .judge import Judged

__all__ = ["Plan", "gain", "rows", "score", "times"]


@dataclass(frozen=True)
class Plan:
    """Heads and their patterns under a name, with what they cost and how they did."""

    name: str
    chosen: Tensor
    density: float
    method: Tuned


def score(judged: Sequence[Judged]) -> tuple[int, float]:
    """What plans are ranked by: right answers, then log-probability."""
    return sum(one.right for one in judged), sum(one.logp for one in judged)


def rows(judged: Mapping[str, Sequence[Judged]], plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """One row a plan: right answers, mean log-probability, median seconds of a prefill."""
    densities = {"dense": 1.0, **{plan.name: plan.density for plan in plans}}
    return [
        {
            "plan": name,
            "density": round(densities[name], 4),
            "right": sum(one.right for one in answers),
            "n": len(answers),
            "logp": round(sum(one.logp for one in answers) / len(answers), 4),
            "seconds": round(median(one.seconds for one in answers), 4),
        }
        for name, answers in judged.items()
    ]


def gain(a: Sequence[Judged], b: Sequence[Judged]) -> dict[str, float]:
    """Mean gain in log-probability of ``a`` over ``b``, and its paired 95 % interval."""
    low, high = paired_bootstrap([one.logp for one in b], [one.logp for one in a])
    mean = sum(x.logp - y.logp for x, y in zip(a, b, strict=True)) / len(a)
    return {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4)}


def times(table: Sequence[Mapping[str, Any]], plan: str) -> float:
    """A plan's seconds a prefill as a multiple of dense attention's, in one half's rows."""
    seconds = {row["plan"]: row["seconds"] for row in table}
    return round(seconds[plan] / max(seconds["dense"], 1e-4), 3)
