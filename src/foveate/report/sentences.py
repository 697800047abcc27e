"""What an advice says, in sentences that one understands without having been there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..advise.advice import Advice, Figure, Finalist

__all__ = [
    "MEMORY_NOISE", "SAVED", "baseline", "change", "chosen", "counts", "damage", "headline",
    "number", "ratio", "signed",
]  # fmt: skip

SAVED = {"speed": "time", "memory": "peak memory"}
"""What is saved, by goal."""
MEMORY_NOISE = 0.05
"""Of peak memory: what an allocator gives or takes by itself from one run to the next."""


def headline(advice: Advice) -> tuple[str, str]:
    """What to do, and why, in a sentence each that one understands without having been there;
    where the time did not hold all there is to try, that too.
    """
    from ..advise.words import held

    verb, said = _headline(advice)
    short = held(advice.settings)
    return verb, f"{said} {short}" if short else said


def _headline(advice: Advice) -> tuple[str, str]:
    verdict, n = advice.verdict, len(advice.baseline.right)
    best = verdict.finalists[0] if verdict.finalists else None
    if verdict.recommended != "nothing" and best is not None:
        one = chosen(advice) or best
        verb = "Change the prompt:" if one.kind == "prompt" else "Change this:"
        agreed = not verdict.choices or {*verdict.choices} == {one.name}
        who = "It" if agreed else "What each half chose, asked the other half,"
        return verb, f"{one.name}. {_brings(one, advice.goal, who)}; {_costs(one, advice.goal)}."
    if verdict.folds == 0:
        more = f": {verdict.needed} would do" if verdict.needed else ""
        of = advice.settings.get("of", n)
        cut = of > advice.settings.get("n", n)
        some = f"the time held {n} of {of} questions," if cut else f"{of} questions are"
        some = "one question is" if of == 1 and not cut else some
        if advice.goal == "accuracy" and n and all(advice.baseline.right):
            held = "" if of == n else f" (of {of}, for which the time is too short)"
            return "Change nothing yet:", f"it answers {n} of {n} questions right as it is{held}."
        return "Change nothing yet:", f"{some} too few to tell{more}."
    if best is None and not advice.settings.get("complete", True):
        return "Change nothing yet:", "there was no time to try anything; give more minutes."
    if not advice.tried:
        return "Change nothing:", "nothing of what there is to try goes with these questions."
    if best is None:
        return "Change nothing:", f"nothing that was tried did better on these {n} questions."
    top = max(verdict.finalists, key=lambda one: one.gain.value)
    told = f" answers {counts(best)}" if _counted(advice, best) else f": {_gain(best, advice.goal)}"
    if top.gain.value <= 0:
        return "Change nothing:", f"nothing that was tried did better. “{best.name}”{told}."
    if top is not best:  # the first one is what was chosen
        return "Change nothing:", (
            f"no gain is proved. What was chosen, “{best.name}”,{told}; “{top.name}” looks better "
            f"({_gain(top, advice.goal)}), but was not chosen beforehand."
        )
    tail = "which may be chance"
    if best.gain.low > 0 and best.p < verdict.alpha:
        tail = "but it was not chosen beforehand, and of several the best one looks good by chance"
    return (
        "Change nothing:",
        f"the best of what was tried, “{best.name}”, is not proved. "
        f"{_brings(best, advice.goal)}, {tail}.",
    )


def _counted(advice: Advice, one: Finalist) -> bool:
    return advice.goal == "accuracy" and one.base_right is not None


def chosen(advice: Advice) -> Finalist | None:
    """The finalist that is recommended; None where nothing is."""
    named = advice.verdict.recommended
    return next((one for one in advice.verdict.finalists if one.name == named), None)


def _gain(one: Finalist, goal: str) -> str:
    return signed(one.gain, 100, " points" if goal == "accuracy" else f" % {SAVED[goal]} saved")


def _brings(one: Finalist, goal: str, who: str = "It") -> str:
    if goal != "accuracy":
        saved = signed(one.gain, 100, " %")
        right = "" if one.base_right is None else f" and answers {counts(one)}"
        return f"{who} saves {saved} of the {SAVED[goal]}{right}"
    gain = _gain(one, goal)
    return f"{who} answers {counts(one)}: {gain}" if one.base_right is not None else (
        f"{who} gains {gain}"
    )  # fmt: skip


def counts(one: Finalist) -> str:
    """Right answers now, and of the model as it is."""
    assert one.base_right is not None
    now = one.base_right + one.mended - one.broken
    return f"{now} of {one.gain.n} right instead of {one.base_right}"


def _costs(one: Finalist, goal: str) -> str:
    told, free = [], []
    if goal != "speed":
        sure = not one.seconds.low <= 1 <= one.seconds.high
        told += [ratio(one.seconds.value, "time")] if sure else []
        free += [] if sure else ["time"]
    if one.memory is not None and goal != "memory":
        sure = abs(one.memory - 1) >= MEMORY_NOISE
        told += [ratio(one.memory, "memory")] if sure else []
        free += [] if sure else ["memory"]
    told = [word for word in told if not word.startswith("the same")]
    if not told:
        return f"no measurable cost in {' or '.join(free)}" if free else (
            "it costs nothing else that was measured"
        )  # fmt: skip
    return f"it {'takes' if 'less' in told[0] else 'costs'} {' and '.join(told)}"


def ratio(value: float, what: str) -> str:
    """A ratio of what something takes, in words."""
    more = round(100 * (value - 1))
    if not more:
        return f"the same {what}"
    if value >= 2:
        return f"{value:.1f} × the {what}"
    return f"{abs(more)} % {'more' if more > 0 else 'less'} {what}"


def change(value: float) -> str:
    """A ratio as a change: ``+4 %``, ``× 2.5``."""
    return f"× {value:.1f}" if value >= 2 else f"{number(100 * (value - 1), '+.0f')} %"


def signed(figure: Figure, scale: float, unit: str) -> str:
    """A gain with its interval."""
    value, low, high = (scale * one for one in (figure.value, figure.low, figure.high))
    return f"{number(value, '+.0f')}{unit} (95 %: {number(low, '.0f')} to {number(high, '.0f')})"


def number(value: float, form: str) -> str:
    """A number with a true minus, and no sign on 0."""
    said = format(value, form)
    return said.lstrip("+-") if float(said) == 0 else said.replace("-", "−")


def damage(found: Mapping[str, Any]) -> Iterator[str]:
    """What becomes of plain text and of unrelated questions, in words."""
    now, was = found.get("perplexity"), found.get("perplexity_base")
    if now is not None and was:
        more = 100 * (now / was - 1)
        said = "unchanged" if abs(more) < 0.05 else f"{number(more, '+.1f')} %"
        yield f"perplexity of plain text {now:.2f} instead of {was:.2f} ({said})"
    if found.get("n"):
        yield (
            f"unrelated questions {found['unrelated_right']} of {found['n']} right instead of "
            f"{found['unrelated_base']} ({found['mended']} mended, {found['broken']} broken)"
        )


def baseline(advice: Advice) -> str:
    """The model as it is."""
    base = advice.baseline
    if not base.ids:
        return "it was not asked"
    peak = "" if base.memory is None else f", {base.memory / 2**20:.0f} MiB at its peak"
    low, high = (f"{100 * one:.0f}" for one in (base.accuracy.low, base.accuracy.high))
    return (
        f"{sum(base.right)} of {len(base.right)} right ({100 * base.accuracy.value:.0f} %; 95 %: "
        f"{low} to {high}), {base.seconds:.2f} s a question{peak}"
    )
