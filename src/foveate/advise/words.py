"""Advice in words: what a terminal shows, and what a person reads first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .advice import Advice, Figure, Finalist

__all__ = [
    "Found",
    "cost",
    "gain",
    "held",
    "not_in_time",
    "reason",
    "summary",
    "too_few_even",
    "too_few_to_tell",
]

_SAVED = {"speed": "the seconds saved", "memory": "the peak bytes saved"}


@dataclass(frozen=True)
class Found:
    """What a verdict's sentences are made of."""

    goal: str
    margin: float
    folds: int
    finished: bool
    refused: str
    compared: bool
    complete: bool
    claimed: bool
    chosen: str
    choices: tuple[str, ...]
    gain: Figure | None
    p: float
    loss: float
    needed: int | None
    simpler: str | None


def gain(figure: Figure, goal: str) -> str:
    """A gain with its interval: points of accuracy, or the share of seconds or bytes saved."""
    unit = "points" if goal == "accuracy" else f"% of {_SAVED[goal]}"
    low, high = 100 * figure.low, 100 * figure.high
    return f"{100 * figure.value:+.1f} {unit} (95 %: {low:+.1f} to {high:+.1f}, n = {figure.n})"


def cost(one: Finalist) -> str:
    """What a finalist takes, as ratios to the baseline."""
    took = one.seconds
    said = f"{took.value:.2f} × the time (95 %: {took.low:.2f} to {took.high:.2f})"
    if took.low <= 1 <= took.high:
        said = f"no measurable difference in time: {said}"
    return said if one.memory is None else f"{said}, {one.memory:.2f} × the peak memory"


def reason(found: Found) -> str:
    """Why it is recommended, or why nothing is."""
    if found.refused:
        return (
            "What was chosen does not go with all of the questions that report, so no gain can be "
            f"claimed ({found.refused})."
        )
    if not found.finished or found.gain is None:
        return (
            "The time ran out before the reporting part was asked, so no gain can be claimed. Give "
            "more minutes; with --resume what was asked is not asked again."
        )
    if not found.compared:
        return (
            "Nothing of what there is to try goes with these questions and this model."
            if found.complete else
            "There was no time to ask anything that could be tried a whole tuning part. Give more "
            "minutes; with --resume what was asked is not asked again."
        )  # fmt: skip
    if set(found.choices) == {"nothing"} and not found.claimed:
        return (
            "Nothing that was tried was better than the model as it is by more than noise on the "
            "tuning part." if found.goal == "accuracy" else
            f"Nothing that was tried took less without losing more than {_points(found.margin)} "
            "of accuracy on the tuning part."
        )  # fmt: skip
    measured = f"Gain: {gain(found.gain, found.goal)}, paired bootstrap{_tested(found)}."
    halves = _halves(found) if found.folds == 2 else []
    lead = _likely(found) if found.claimed else _unclaimed(found)
    more = [measured, *halves]
    if found.claimed and found.simpler:
        more.append(
            f"{found.simpler} looks better still, but not by more than noise where the choice "
            "was made, or not as simply."
        )
    return "\n".join([lead, " ".join(more)])


def _likely(found: Found) -> str:
    """What a claim means, in a line."""
    kept = "" if found.goal == "accuracy" else ", with no more accuracy lost than the margin allows"
    if found.folds != 2:
        return f"Likely real: it gained on questions that did not choose it{kept}."
    agreed = len(set(found.choices)) == 1
    how = "made the same choice" if agreed else "chose differently"
    over = " Halves that agree by chance overstate a gain." if agreed else ""
    return (
        f"Likely real{kept}. The two halves of the questions {how}; test it on questions that are "
        f"not among these (foveate compare) before you rely on it.{over}"
    )


def _halves(found: Found) -> list[str]:
    """What each half chose, and what that makes of the gain."""
    said = ["There are too few items for one half to report alone: each half chose for the other."]
    one, other = found.choices
    all_ = (
        "by the same rule all items together choose nothing."
        if found.chosen == "nothing"
        else f"of the two {found.chosen} is what all items choose by the same rule."
    )
    if one != other:
        said.append(f"They chose differently ({one}; {other}), and the gain is of both; {all_}")
    elif found.chosen == one:
        said.append(f"Both halves chose the same: {one}.")
    else:
        said.append(f"Both halves chose {one}, but {all_}")
    return said


def _tested(found: Found) -> str:
    if found.goal == "accuracy":
        return f"; exact McNemar p = {found.p:.2g}"
    return (
        f"; accuracy lost at most {_points(max(0.0, found.loss))} (95 %, one-sided), "
        f"{_points(found.margin)} allowed"
    )


def _unclaimed(found: Found) -> str:
    if found.goal != "accuracy":
        return "No gain can be claimed: the saving is not sure, or the loss may be too large."
    if found.chosen == "nothing" and found.gain is not None and found.gain.low > 0:
        return "All items together choose no single policy, so nothing is recommended."
    said = "No gain can be claimed: what was measured is within what chance does."
    if found.needed is not None:
        said += (
            f" If it is real, about {found.needed} items would show it (exact McNemar, power 80 %)."
        )
    return said


def too_few_to_tell(goal: str, n: int, right: int, needed: int, margin: float) -> str:
    """The verdict where nothing is tried."""
    if goal == "accuracy" and n == right >= 1:
        return (
            f"{n} of {_count(n)} answered right: there is nothing to mend. Questions that are "
            f"sometimes answered wrong tell more; of such as these about {needed} would be needed."
        )
    if goal == "accuracy":
        return (
            f"{_count(n)}, {n - right} of them answered wrong: too few to tell a gain from chance. "
            f"About {needed} such items are needed for a policy that mends half of the failures "
            "(exact McNemar, power 80 %)."
        )
    return (
        f"{_count(n)}, {right} of them answered right: too few to tell that accuracy is kept "
        f"within {_points(margin)}. At least {needed} are needed, and six right answers among them."
    )


def too_few_even(n: int, needed: int, margin: float) -> str:
    """The verdict for speed and memory where no answers could tell: none is asked for."""
    return (
        f"{_count(n)}: too few to tell that accuracy is kept within {_points(margin)}, even if no "
        f"answer changed. At least {needed} are needed; the model was not asked."
    )


def _count(n: int) -> str:
    return f"{n} item" if n == 1 else f"{n} items"


def held(settings: Mapping[str, Any]) -> str:
    """How many of the things to try the time held, where it did not hold all."""
    late, of = settings.get("not_tried"), settings.get("pool")
    if not late or not of:
        return ""
    more = settings.get("minutes_for_all")
    said = f"The time held {of - len(late)} of {of} things to try"
    return f"{said}; give about {more} minutes for all." if more else f"{said}."


def not_in_time(n: int) -> str:
    """The verdict where not even the baseline was asked."""
    return f"The time ran out before one of {n} items was answered. Give more minutes."


def summary(advice: Advice) -> str:
    """The advice as lines of plain text; the first is the page's."""
    from ..report.sentences import baseline, headline

    verdict = advice.verdict
    lines = [" ".join(headline(advice)), f"As it is: {baseline(advice)}."]
    if advice.diagnosis is not None:
        lines += advice.diagnosis.sentences
    lines.append(f"Tried: {len(advice.tried)} policies.")
    for one in verdict.finalists:
        lines.append(
            f"  {one.name}: {gain(one.gain, advice.goal)}, p = {one.p:.2g}, "
            f"{one.mended} mended, {one.broken} broken, {cost(one)}"
        )
    lines.append(verdict.reason)
    if not advice.settings.get("complete", True):
        lines.append("The time ran out before the search came to its end.")
    return "\n".join(line for line in lines if line)


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"
