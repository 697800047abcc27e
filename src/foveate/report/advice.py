"""Advice as a page that can be forwarded: what is wrong, what to change, what that brings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import display
from . import sentences as words
from .html import asset, environment, save
from .looks import blocks, highest, seen, shades

if TYPE_CHECKING:
    import os

    from ..advise.advice import Advice, Example

__all__ = ["fragment", "render", "write"]

_GAIN_OF = {"accuracy": "right answers", "speed": "less time", "memory": "less peak memory"}

_KINDS = {
    "nothing": "the model as it is",
    "prompt": "a change of the prompt",
    "method": "a change of attention",
    "pattern": "a sparse pattern",
}
_LABELS = {
    "data": "Data", "data_fingerprint": "Fingerprint of the data", "n": "Questions", "seed": "Seed",
    "minutes": "Minutes allowed", "seconds": "Time spent", "asked": "Replies asked for",
    "date": "Date", "model": "Model", "architecture": "Architecture",
    "fingerprint": "Fingerprint of the model", "dtype": "Precision", "device": "Device",
    "machine": "Machine", "threads": "Threads", "attention": "Attention", "versions": "Versions",
}  # fmt: skip


def write(advice: Advice, path: str | os.PathLike[str]) -> Path:
    """Write advice as a self-contained HTML file: no network, no other file, light and dark.

    Raises
    ------
    FoveateError
        If the file cannot be written.
    """
    return save(render(advice), path)


def render(advice: Advice) -> str:
    """The page, as text; it can be read without scripts."""
    from markupsafe import Markup

    css = Markup(asset("report.css") + asset("advice.css") + _shades())
    return environment().get_template("advice.html.j2").render(css=css, **_view(advice))


def fragment(advice: Advice) -> str:
    """The verdict and the finalists for a notebook."""
    verb, said = words.headline(advice)
    body = [
        [one["name"], one["right"], one["gain"], one["p"], one["seconds"]]
        for one in _finalists(advice)
    ]
    head = ("", "right", "gain (95 %)", "p", "time")
    return display.lines(
        display.note(f"As it is: {words.baseline(advice)}"),
        f"<p><b>{escape(verb)}</b> {escape(said)}</p>",
        display.table(head, body) if body else "",
        display.note("advice.report(path) writes the page; advice.policy.save(path) the policy."),
    )


@cache
def _shades() -> str:
    return shades(asset("report.css"))


# -- the parts of the page -------------------------------------------------------------------------
def _view(advice: Advice) -> dict[str, Any]:
    verdict, chosen = advice.verdict, words.chosen(advice)
    verb, said = words.headline(advice)
    finalists = _finalists(advice)
    return {
        "title": f"{verb} {chosen.name}" if chosen else verb.rstrip(":"),
        "verb": verb,
        "said": said,
        "changes": chosen is not None,
        "reason": verdict.reason.splitlines(),
        "baseline": words.baseline(advice),
        "late": not advice.settings.get("complete", True),
        "minutes": advice.settings.get("minutes"),
        **_diagnosed(advice.diagnosis),
        "chosen": chosen,
        "prompt_wins": chosen is not None and chosen.kind == "prompt",
        "beaten": chosen is not None and any(f.kind != chosen.kind for f in verdict.finalists),
        "why": next((one.why for one in advice.tried if chosen and one.name == chosen.name), ""),
        "file": advice.policy.to_toml() if chosen else "",
        "kinds": _KINDS,
        "goal": advice.goal,
        "gain_of": _GAIN_OF[advice.goal],
        "finalists": finalists,
        "alpha": verdict.alpha,
        "folds": verdict.folds,
        "tried": [_tried(one) for one in _in_order(advice.tried)],
        "examples": [_example(one, chosen is not None) for one in advice.examples],
        "command": advice.command,
        "python": advice.python,
        "facts": list(_facts(advice.settings)),
        "split": _split(advice),
        "unasked": list(_unasked(advice)),
        "left_out": advice.settings.get("left_out", {}),
        "not_tried": advice.settings.get("not_tried", ()),
    }


def _diagnosed(diagnosis: Any) -> dict[str, Any]:
    """The diagnosis: its sentences, and its figures by group."""
    from ..advise.diagnosis.show import HEAD, rows

    groups: dict[str, list[tuple[str, ...]]] = {}
    for row, cells in zip(diagnosis.figures, rows(diagnosis), strict=True) if diagnosis else ():
        groups.setdefault(row.group, []).append(cells)
    said = diagnosis.sentences if diagnosis else ()
    return {"sentences": said, "figures": groups, "figure_head": HEAD}


def _finalists(advice: Advice) -> list[dict[str, Any]]:
    """The finalists as texts, with places in percent on one axis that holds them all, and 0."""
    all_ = advice.verdict.finalists
    low = min([0.0, *(one.gain.low for one in all_)])
    high = max([0.0, *(one.gain.high for one in all_)])
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return round(100 * (value - low) / span, 2)

    unit = " points" if advice.goal == "accuracy" else " %"
    return [
        {
            "name": one.name,
            "kind": _KINDS.get(one.kind, one.kind),
            "chosen": one.name == advice.verdict.recommended,
            "right": "" if one.base_right is None else words.counts(one),
            "now": "–" if one.base_right is None else one.base_right + one.mended - one.broken,
            "was": "–" if one.base_right is None else one.base_right,
            "n": one.gain.n,
            "gain": words.signed(one.gain, 100, unit),
            "p": "< 0.001" if one.p < 0.001 else f"{one.p:.3f}",
            "mended": one.mended,
            "broken": one.broken,
            "seconds": words.change(one.seconds.value),
            "seconds_interval": " to ".join(map(words.change, (one.seconds.low, one.seconds.high))),
            "memory": None if one.memory is None else words.change(one.memory),
            "damage": list(words.damage(one.controls)),
            "damage_notes": one.controls.get("notes", ()),
            "zero": at(0.0),
            "bar": sorted((at(0.0), at(one.gain.value))),
            "whisker": (at(one.gain.low), at(one.gain.high)),
            "sure": one.gain.low > 0,
        }
        for one in all_
    ]


def _in_order(tried: Sequence[Any]) -> list[Any]:
    """What stayed longest first."""
    last = max((one.dropped_at or 0 for one in tried), default=0) + 1
    return sorted(tried, key=lambda one: -(one.dropped_at or last))


def _tried(one: Any) -> dict[str, Any]:
    change = one.right - one.base_right
    return {
        "name": one.name,
        "kind": _KINDS.get(one.kind, one.kind),
        "why": one.why,
        "asked": one.asked,
        "right": one.right,
        "base_right": one.base_right,
        "change": words.number(change, "+d") if change else "0",
        "seconds": f"{one.seconds:.2f}",
        "dropped": "–" if one.dropped_at is None else f"after round {one.dropped_at}",
    }


def _example(one: Example, changed: bool) -> dict[str, Any]:
    sides = [_side("before", one, one.evidence, ())]
    if changed:
        sides.append(_side("after", one, one.after_evidence or one.evidence, one.raised))
    sight = None
    if not one.after_tokens:  # what is in sight on one side is on the other
        marked = {*one.evidence, *one.raised}
        sight = set().union(*(seen(side["weights"], marked) for side in sides))
    top = highest(*(side["weights"] for side in sides))
    for side in sides:
        drawn = {key: side[key] for key in ("evidence", "raised")} | {"said": one.said}
        side["blocks"] = (
            blocks(side["tokens"], side["weights"], top, sight=sight, **drawn)
            if side["weights"]
            else []
        )
    return {
        "id": one.id,
        "question": one.question,
        "context": one.context,
        "answer": one.answer,
        "what": _WHAT[one.right_before, one.right_after] if changed else "",
        "sides": sides,
        "drawn": any(side["blocks"] for side in sides),
    }


def _side(
    label: str, one: Example, evidence: Sequence[int], raised: Sequence[int]
) -> dict[str, Any]:
    weights = getattr(one, f"{label}_weights")
    return {
        "label": label,
        "reply": getattr(one, label),
        "right": getattr(one, f"right_{label}"),
        "tokens": (one.after_tokens if label == "after" else ()) or one.tokens,
        "weights": weights,
        "evidence": evidence,
        "raised": raised,
        "sink": weights[0] if weights else None,
        "share": sum(weights[i] for i in evidence) if weights and evidence else None,
    }


_WHAT = {
    (False, True): "mended",
    (True, False): "broken",
    (False, False): "still wrong",
    (True, True): "right both times",
}


# -- how it was found ------------------------------------------------------------------------------
def _facts(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, label in _LABELS.items():
        value = settings.get(key)
        if value is None:
            continue
        if key == "seconds":
            value = f"{value / 60:.1f} minutes" if value >= 90 else f"{value:.0f} s"
        elif key == "n" and settings.get("of", value) != value:
            value = f"{value}, drawn from {settings['of']}"
        yield label, _plain(value)


def _plain(value: Any) -> str:
    """A figure, or some of them, as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
    if isinstance(value, float):
        return words.number(value, ".4g")
    return str(value)


def _split(advice: Advice) -> str:
    return {
        0: "There were too few questions to split, so nothing was tried.",
        1: "The questions were split once into two parts alike in how often the model was right: "
        "everything was chosen on the first, and the figures above come from the second, which was "
        "asked once.",
        2: "The questions were split into two halves alike in how often the model was right: what "
        "was chosen on one half is reported on the other, and the other way round. The figures "
        "above are of all pairs together.",
    }.get(advice.verdict.folds, f"The questions were split into {advice.verdict.folds} folds.")


def _unasked(advice: Advice) -> Iterator[str]:
    yield (
        "Questions unlike these. All of this is of questions of the same kind and length; for "
        "others, ask again with some of them."
    )
    yield "Sampling. Every question was asked once, greedily; with a temperature replies vary."
    if any(one.before_weights for one in advice.examples):
        yield (
            "Why. The shades show where the model looked, not what decided: what was hidden or "
            "raised to see if it mattered stands under “What is wrong”."
        )
    if advice.settings.get("of", 0) > advice.settings.get("n", 0):
        yield "All of the questions: the time does not hold them; a seeded sample was asked."
    yield from advice.settings.get("notes", ())
