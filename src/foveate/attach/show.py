"""How a run shows itself in a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .. import display

if TYPE_CHECKING:
    from .run import Coverage, Forward, Run

__all__ = ["coverage", "run"]

_NAMED = 40  # sites named one by one


def run(given: Run) -> str:
    """What was attached, what ran, where it acted, and what was measured."""
    methods = "; ".join(map(repr, given.methods)) or "passthrough: the model's own attention"
    forwards = _forwards(given.calls)
    places = coverage(given.coverage)
    measured = given.results._repr_html_() if given.results else ""
    return display.lines(
        f"<b>{html.escape(methods)}</b>",
        display.note(forwards or "no forward yet: run the model inside the attach block"),
        places,
        measured,
    )


def _forwards(calls: list[Forward]) -> str:
    """The forwards in a line."""
    if not calls:
        return ""
    prefills = [call for call in calls if call.phase == "prefill"]
    tokens, steps = sum(call.length for call in prefills), len(calls) - len(prefills)
    edited = sum(call.edited for call in calls)
    parts = [f"{_counted(len(calls), 'forward')}: {_counted(tokens, 'token')} of prefill"]
    if steps:
        parts.append(_counted(steps, "decode step"))
    batch = max(call.batch for call in calls)
    if batch > 1:
        parts.append(f"batch of {batch}")
    parts.append(f"{_counted(edited, 'attention call')} edited or measured")
    return ", ".join(parts)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def coverage(given: Coverage) -> str:
    """The sites by what became of them, and one by one behind a fold."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for one in given:
        groups.setdefault((one.stack, one.state, one.why), []).append(one.layer)
    rows = [
        (stack, state, _ranges(layers), str(len(layers)), why)
        for (stack, state, why), layers in groups.items()
    ]
    rows += [("", "out of reach", name, "1", kind) for name, kind in given.unreachable[:_NAMED]]
    left = len(given.unreachable) - _NAMED
    return display.table(("stack", "sites", "layers", "number", "why"), rows, words=3) + (
        display.note(f"and {left} more out of reach") if left > 0 else ""
    )


def _ranges(numbers: Iterable[int]) -> str:
    """``0-3, 7`` out of 0, 1, 2, 3, 7."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in spans)
