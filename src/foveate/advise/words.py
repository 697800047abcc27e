"""Advice in words: what a terminal shows, and what a person reads first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .advice import Advice, Figure, Finalist

__all__ = ["cost", "gain", "summary"]


def gain(figure: Figure, goal: str) -> str:
    """A gain with its interval: points of accuracy, or the share of seconds or bytes saved."""
    unit = "points" if goal == "accuracy" else f"% of {_SAVED[goal]}"
    low, high = 100 * figure.low, 100 * figure.high
    return f"{100 * figure.value:+.1f} {unit} (95 %: {low:+.1f} to {high:+.1f}, n = {figure.n})"


def cost(one: Finalist) -> str:
    """What a finalist takes, as ratios to the baseline."""
    said = f"{one.seconds.value:.2f} × the time"
    return said if one.memory is None else f"{said}, {one.memory:.2f} × the peak memory"


def summary(advice: Advice) -> str:
    """The advice as lines of plain text."""
    base, verdict = advice.baseline, advice.verdict
    right, n = sum(base.right), len(base.right)
    peak = "" if base.memory is None else f", {base.memory / 2**20:.0f} MiB at its peak"
    lines = [
        f"As it is: {right} of {n} right ({100 * base.accuracy.value:.0f} %; 95 %: "
        f"{100 * base.accuracy.low:.0f} to {100 * base.accuracy.high:.0f}), "
        f"{base.seconds:.2f} s a question{peak}."
    ]
    if advice.diagnosis is not None:
        lines += advice.diagnosis.sentences
    lines.append(f"Tried: {len(advice.tried)} policies.")
    for one in verdict.finalists:
        lines.append(
            f"  {one.name}: {gain(one.gain, advice.goal)}, p = {one.p:.2g}, "
            f"{one.mended} mended, {one.broken} broken, {cost(one)}"
        )
    advised = "change nothing" if verdict.recommended == "nothing" else verdict.recommended
    lines += [f"Recommended: {advised}.", verdict.reason]
    if not advice.settings.get("complete", True):
        lines.append("The time ran out before the search came to its end.")
    return "\n".join(line for line in lines if line)


_SAVED = {"speed": "the seconds saved", "memory": "the peak bytes saved"}
