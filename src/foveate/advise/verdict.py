"""What the reporting part says of what the tuning part chose; it is asked once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FoveateError
from ..statistics import mcnemar, paired_bootstrap
from ..tasks import Item
from .advice import Figure, Finalist, Verdict
from .ask import Answered, Ask, OutOfTime
from .goals import changes, gains, loss_bound, memory_before, seconds_before
from .search import FINALISTS, REFUSALS, Searched, choose
from .split import ALPHA, MARGIN, Fold, in_all, items_needed
from .words import Found, reason

if TYPE_CHECKING:
    from .candidates import Candidate

__all__ = ["verdict"]


@dataclass
class _Pairs:
    """Answers of the baseline and of something else to the same items."""

    base: list[Answered]
    found: list[Answered]


def verdict(
    ask: Ask,
    nothing: Candidate,
    items: Sequence[Item],
    base: Sequence[Answered],
    folds: Sequence[Fold],
    searched: Sequence[Searched],
    *,
    goal: str = "accuracy",
    margin: float = MARGIN,
    controls: Callable[[Any], dict[str, Any]] | None = None,
    cost: Callable[[Candidate], tuple[Figure, float | None] | None] | None = None,
    expression: Callable[[Any], str] = str,
    samples: int = 10_000,
) -> Verdict:
    """Ask the finalists the reporting items, and say whether the chosen one's gain is one.

    Only what the tuning part chose can be claimed, so there is one test, whatever was tried. With
    two folds each half's choice is reported on the other half, and the pairs are pooled: what is
    claimed is the gain of choosing so. Of what the halves chose, and so was reported on, one policy
    is then chosen by the same rule on all items.

    Parameters
    ----------
    ask : Ask
    nothing : Candidate
    items, base
        All items, and what the model as it is answered.
    folds, searched : sequence
        Parts, and what the search found on the tuning part of each.
    goal : str
    margin : float
        Accuracy that may be lost, for speed and memory.
    controls : callable, optional
        Collateral damage of a policy; asked for finalists alone.
    cost : callable, optional
        Seconds and peak memory of a candidate as ratios to the baseline's, measured side by side;
        None where there is no time for it. Without it they are those of the answers.
    expression : callable
        A policy as text.
    samples : int
        Of the bootstrap.
    """
    if len(folds) != len(searched) or not folds:
        raise FoveateError(f"{len(folds)} folds and {len(searched)} searches were given.")
    pooled, known = _Pairs([], []), {}
    finished, refused = True, ""
    for fold, part in zip(folds, searched, strict=True):
        here = [items[i] for i in fold.reporting]
        mine = [base[i] for i in fold.reporting]
        try:
            found = mine if part.chosen is nothing else ask(part.chosen, here)
        except (OutOfTime, *REFUSALS) as error:
            finished = False
            refused = "" if isinstance(error, OutOfTime) else f"{part.chosen.name}: {error}"
            break
        pooled.base += mine
        pooled.found += found
    everyone = list({c.name: c for part in searched for c in part.finalists}.values())
    chosen = nothing
    if finished:
        for one in everyone:
            pairs = _asked(ask, one, items, base, folds)
            if pairs is not None:
                known[one.name] = pairs
        chosen = _final(nothing, everyone, known, searched, goal, margin)
    claimed, figure, p = _claim(goal, margin, pooled, samples)
    claimed = claimed and finished and chosen is not nothing
    order = [one for one in everyone if one.name in known]
    order.sort(key=lambda one: -float(gains(goal, known[one.name].base,
                                            known[one.name].found).mean()))  # fmt: skip
    order = ([chosen] if chosen is not nothing else []) + [o for o in order if o is not chosen]
    finalists = []
    for one in order[:FINALISTS]:
        pairs = pooled if one is chosen and len(folds) > 1 else known[one.name]
        damage = controls(one.policy) if controls is not None else {}
        taken = cost(one) if cost is not None else None
        if taken is None:  # right answers are asked in batches that differ, whose peaks do too
            alike = cost is None or goal != "accuracy"
            taken = _ratio(pairs, samples), _memory(pairs) if alike else None
        finalists.append(_finalist(one, pairs, goal, samples, damage, taken, expression))
    needed = None
    if not claimed and pooled.base and goal == "accuracy":
        mended, broken = (count / len(pooled.base) for count in changes(pooled.base, pooled.found))
        wanted = items_needed(mended, broken)
        needed = None if wanted is None or in_all(wanted) <= len(items) else in_all(wanted)
    choices = tuple(one.chosen.name for one in searched)
    found_ = Found(
        goal=goal, margin=margin, folds=len(folds), finished=finished, refused=refused,
        compared=any(one.finalists for one in searched),
        complete=all(one.complete for one in searched), claimed=claimed, chosen=chosen.name,
        choices=choices, gain=figure, p=p, loss=_loss(pooled), needed=needed,
        simpler=_better(chosen, order[:FINALISTS], known, goal),
    )  # fmt: skip
    return Verdict(
        claimed=claimed,
        recommended=chosen.name if claimed else nothing.name,
        reason=reason(found_),
        finalists=tuple(finalists),
        needed=needed,
        folds=len(folds),
        alpha=ALPHA,
        choices=choices,
    )


def _asked(
    ask: Ask,
    one: Candidate,
    items: Sequence[Item],
    base: Sequence[Answered],
    folds: Sequence[Fold],
) -> _Pairs | None:
    """A finalist on what reports: with two folds on all items; None where the time ran out,
    or where it does not go with them.
    """
    where = [i for fold in folds for i in fold.reporting]
    try:
        return _Pairs([base[i] for i in where], ask(one, [items[i] for i in where]))
    except (OutOfTime, *REFUSALS):
        return None


def _final(
    nothing: Candidate,
    everyone: Sequence[Candidate],
    known: dict[str, _Pairs],
    searched: Sequence[Searched],
    goal: str,
    margin: float,
) -> Candidate:
    """The policy to recommend: the choice of the one tuning part, or, among those of the two halves
    (what no half chose has entered no test), that of all items by the same rule.
    """
    chosen = {part.chosen.name for part in searched}
    there = [one for one in everyone if one.name in chosen and one.name in known]
    if len(searched) == 1 or not there:
        return there[0] if there else nothing
    found = {one.name: known[one.name].found for one in there}
    return choose([nothing, *there], found, known[there[0].name].base, goal, margin)


def _claim(
    goal: str, margin: float, pairs: _Pairs, samples: int
) -> tuple[bool, Figure | None, float]:
    """Whether there is a gain for sure; the gain; McNemar's p."""
    if not pairs.base:
        return False, None, 1.0
    figure, p = _gain(goal, pairs, samples), _p(pairs)
    if goal == "accuracy":
        return figure.low > 0 and p < ALPHA, figure, p
    return figure.low > 0 and _loss(pairs) <= margin, figure, p


def _gain(goal: str, pairs: _Pairs, samples: int) -> Figure:
    values = gains(goal, pairs.base, pairs.found)
    low, high = paired_bootstrap([0.0] * len(values), values.tolist(), samples=samples)
    return Figure(float(values.mean()), low, high, len(values))


def _p(pairs: _Pairs) -> float:
    return mcnemar([one.right for one in pairs.base], [one.right for one in pairs.found])


def _loss(pairs: _Pairs) -> float:
    if not pairs.base:
        return 1.0
    return loss_bound(*changes(pairs.base, pairs.found), len(pairs.base))


def _finalist(
    one: Candidate,
    pairs: _Pairs,
    goal: str,
    samples: int,
    damage: dict[str, Any],
    taken: tuple[Figure, float | None],
    expression: Callable[[Any], str],
) -> Finalist:
    mended, broken = changes(pairs.base, pairs.found)
    return Finalist(
        name=one.name,
        kind=one.kind,
        parts=one.parts,
        gain=_gain(goal, pairs, samples),
        p=_p(pairs),
        mended=mended,
        broken=broken,
        seconds=taken[0],
        memory=taken[1],
        controls=damage,
        policy=one.policy,
        expression=expression(one.policy),
        base_right=sum(answer.right for answer in pairs.base),
    )


def _ratio(pairs: _Pairs, samples: int, seed: int = 0) -> Figure:
    """Seconds as a ratio to the baseline's, the items resampled in pairs."""
    before = seconds_before(pairs.base, pairs.found)
    after = np.array([one.seconds for one in pairs.found])
    n = len(before)
    if before.sum() <= 0:
        return Figure(1.0, 1.0, 1.0, n)
    rows = np.random.default_rng(seed).integers(0, n, (min(samples, 2000), n))
    low, high = np.quantile(after[rows].sum(1) / before[rows].sum(1).clip(1e-12), [0.025, 0.975])
    return Figure(float(after.sum() / before.sum()), float(low), float(high), n)


def _memory(pairs: _Pairs) -> float | None:
    """The highest peak as a ratio to the baseline's highest."""
    sides = memory_before(pairs.base, pairs.found), [one.memory for one in pairs.found]
    peaks = [[size for size in side if size] for side in sides]
    return max(peaks[1]) / max(peaks[0]) if all(peaks) else None


def _better(
    chosen: Candidate, finalists: Sequence[Candidate], known: dict[str, _Pairs], goal: str
) -> str | None:
    """A finalist that looks better than the chosen one, which is simpler: each by its own answers
    to the same items, for the gain of a cross-fitted choice is of two policies.
    """
    if chosen.name not in known:
        return None
    means = {
        one.name: float(gains(goal, known[one.name].base, known[one.name].found).mean())
        for one in finalists
    }
    best = max(finalists, key=lambda one: means[one.name])
    return (
        best.name if means[best.name] > means[chosen.name] and best.parts >= chosen.parts else None
    )
