"""Attend-and-Excite: are both things of a prompt drawn that asks for two?

Pictures of shapes-dit, read by the checker. Which words are subjects, the size of the steps and how
long they last are chosen on prompts and noise of one seed and reported on those of another; the
paper's own setting is reported beside it. The loss with and without the updates is on the same
noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...load import load
from ...methods.diffusion import AttendAndExcite
from ...statistics import mcnemar
from ...tasks.shapes.drawing import drawn, judged, prompts
from ._trial import Trial

TUNING, REPORT = 48, 144
NOUNS = ("shape 1", "shape 2")
WORDS = (*NOUNS, "colour 1", "colour 2")
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "nouns, 5, half": {"subjects": NOUNS, "step_size": 5.0, "thresholds": {}},
    "nouns, 10, quarter": {"subjects": NOUNS, "step_size": 10.0, "until": 0.25, "thresholds": {}},
    "nouns, 10, quarter, refined": {
        "subjects": NOUNS, "step_size": 10.0, "until": 0.25, "thresholds": {0.0: 0.3}, "refine": 5,
    },
    "words, 10, quarter": {"subjects": WORDS, "step_size": 10.0, "until": 0.25, "thresholds": {}},
    "words, 3, half": {"subjects": WORDS, "step_size": 3.0, "thresholds": {}},
}  # fmt: skip
PAPER: Mapping[str, Any] = {"subjects": NOUNS, "refine": 5}


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    pipe, _ = load("shapes-dit")
    tuning, report = prompts(2, TUNING, seed=11), prompts(2, REPORT, seed=12)
    tried = {}
    for name, setting in SETTINGS.items():
        progress(f"{TUNING} pictures: {name}")
        tried[name] = _figures(_draw(pipe, tuning, 100, AttendAndExcite(**setting)))
    plain = _figures(_draw(pipe, tuning, 100))
    best = max(tried, key=lambda name: (tried[name]["both there"], -tried[name]["neglected"]))
    progress(f"{REPORT} pictures, plain")
    base = _draw(pipe, report, 200)
    progress(f"{REPORT} pictures: {best}")
    method = AttendAndExcite(**SETTINGS[best])
    excited = _draw(pipe, report, 200, method)
    some = report[: REPORT // 3]
    progress(f"{len(some)} pictures with the paper's setting")
    papers = _draw(pipe, some, 200, AttendAndExcite(**PAPER))
    before, after = ([float(told.right == 2) for told in one] for one in (base, excited))
    return Trial(
        baseline=("share of pictures with both things, plain", before),
        method=(f"share of pictures with both things, Attend-and-Excite ({best})", after),
        better="higher",
        seeds=(11, 12),
        details={
            "pictures": {"tuning": TUNING, "report": REPORT},
            "tuning": {"plain": plain, **tried},
            "report": {"plain": _figures(base), "excited": _figures(excited)},
            "the paper's setting": {
                "plain": _figures(base[: len(some)]),
                "excited": _figures(papers),
            },
            "loss by step, last batch": {
                str(step): round(float(loss.mean()), 4) for step, loss in method.losses.items()
            },
            "mcnemar": mcnemar(before, after),
        },
    )


def _draw(pipe: Any, asked: list[str], seed: int, *methods: Any) -> list[Any]:
    return judged(asked, drawn(pipe, asked, methods, seed=seed, batch=48))


def _figures(told: list[Any]) -> dict[str, float]:
    """Shares of pictures, and of the things asked for."""
    n = len(told)
    return {
        "both there": round(sum(one.right == 2 for one in told) / n, 4),
        "things right": round(sum(one.right for one in told) / (2 * n), 4),
        "neglected": round(sum(one.neglected for one in told) / (2 * n), 4),
        "leaked": round(sum(one.leaked for one in told) / (2 * n), 4),
        "others a picture": round(sum(one.extra for one in told) / n, 4),
    }
