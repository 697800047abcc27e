"""Made-up advice, small enough to check by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from foveate.advise import Advice, Baseline, Example, Figure, Finalist, Tried, Verdict
from foveate.advise.diagnosis import Diagnosis, Row

TOKENS = ["<|im_start|>", "user", "\n", "The", " mill", " opens", " at", " nine", ".", "\n\n",
          "The", " inn", " closes", " at", " six", ".", "\n\n", "When", " does", " the", " inn",
          " close", "?"]  # fmt: skip
POLICY: Any = SimpleNamespace(to_toml=lambda: 'format = "policy 1"\n[[method]]\nname = "Emphasize"')

CONTROLS = {
    "perplexity": 20.4, "perplexity_base": 20.0, "unrelated_right": 17, "unrelated_base": 18,
    "n": 24, "mended": 1, "broken": 2, "notes": ["Plain text has no 'closest passage'."],
}  # fmt: skip


def finalist(name: str = "closest passage × 5", **changes: Any) -> Finalist:
    given: dict[str, Any] = {
        "kind": "method", "parts": 1, "gain": Figure(0.5, 0.34, 0.64, 50), "p": 3e-7,
        "mended": 26, "broken": 1, "seconds": Figure(1.04, 1.01, 1.08, 50), "memory": 1.0,
        "controls": CONTROLS,
        "policy": POLICY, "expression": "Emphasize('closest passage', gain=5)", "base_right": 8,
    }  # fmt: skip
    return Finalist(name=name, **{**given, **changes})


def example(**changes: Any) -> Example:
    n = len(TOKENS)
    before, after = [0.2 / (n - 1)] * n, [0.2 / (n - 1)] * n
    before[0], after[0] = 0.8, 0.5
    after[14] += 0.3
    given: dict[str, Any] = {
        "id": "7", "question": "When does the inn close?", "context": "The mill opens at nine.",
        "answer": "six", "before": "At nine.", "after": "At six.", "right_before": False,
        "right_after": True, "tokens": TOKENS, "before_weights": before, "after_weights": after,
        "evidence": [10, 11, 12, 13, 14, 15], "raised": [10, 11, 12, 13, 14, 15],
    }  # fmt: skip
    return Example(**{**given, **changes})


def diagnosis() -> Diagnosis:
    share, whole = "share of attention", "share of items"
    return Diagnosis(
        (
            "On 14 of 23 failures the evidence got under 2 % of what the last token looked at; "
            "raising it mends 11.",
            "It is not the length: failing and passing questions are equally long.",
        ),
        (
            Row("evidence.last", "evidence, last token", "looked at", share, 0.012, 0.05, 23, 8,
                -0.06, -0.01, 0.002, "permutation"),
            Row("raised", "right with the evidence raised", "did it matter", whole,
                0.48, 1.0, 23, 8),
        ),
        (),
    )  # fmt: skip


def tried(name: str, kind: str = "method", **changes: Any) -> Tried:
    given: dict[str, Any] = {
        "parts": 1, "why": "the passage that shares most words with the question", "asked": 25,
        "right": 17, "base_right": 4, "seconds": 0.61, "dropped_at": None,
    }  # fmt: skip
    return Tried(name=name, kind=kind, **{**given, **changes})


def advice(**changes: Any) -> Advice:
    """A gain that is claimed; name what should be otherwise."""
    best = finalist()
    second = finalist("quote first", kind="prompt", gain=Figure(0.06, -0.04, 0.16, 50), p=0.45,
                     mended=5, broken=2, controls={},
                     seconds=Figure(1.9, 1.7, 2.1, 50))  # fmt: skip
    third = finalist("question twice", kind="prompt", gain=Figure(-0.02, -0.08, 0.04, 50), p=1.0,
                     mended=1, broken=2, memory=None, controls={})  # fmt: skip
    right = tuple(i < 8 for i in range(50))
    verdict = Verdict(True, best.name, "It is the simplest of what is within noise of the best.",
                      (best, second, third), None, 2, 0.05)  # fmt: skip
    given: dict[str, Any] = {
        "goal": "accuracy",
        "verdict": verdict,
        "policy": POLICY,
        "baseline": Baseline(right, tuple(map(str, range(50))), ("nine",) * 50,
                             Figure(0.16, 0.08, 0.29, 50), 0.55, 180 * 2**20),
        "diagnosis": diagnosis(),
        "tried": (
            tried("closest passage × 5"),
            tried("closest passage × 12", dropped_at=2, right=9, asked=14, base_right=2),
            tried("quote first", "prompt", why="the model looks for the words before it answers"),
            tried("passages × 2", dropped_at=1, right=1, asked=7, base_right=1),
        ),
        "examples": (
            example(),
            example(id="9", after="At nine.", right_after=False),
            example(id="12", before="At six.", after="At ten.", right_before=True,
                    right_after=False),
        ),
        "settings": {
            "model": "smollm2", "fingerprint": "9f8e", "data": "mine", "data_fingerprint": "0a1b2c",
            "n": 50, "of": 50, "seed": 0, "minutes": 15.0, "seconds": 812.4, "threads": None,
            "versions": {"foveate": "0.1.0", "torch": "2.13.0"}, "torch": "2.13.0",
            "left_out": {"by similarity": "there is no context"}, "notes": [], "complete": True,
        },
        "command": "foveate compare --model smollm2 --task mine.jsonl --policy policy.toml",
        "python": "with fv.attach(model, policy, prompt=prompt):\n    ids = model.generate(…)",
    }  # fmt: skip
    return Advice(**{**given, **changes})


def nothing(**changes: Any) -> Advice:
    """Advice to change nothing, with what was tried."""
    weak = finalist(gain=Figure(0.04, -0.06, 0.14, 50), p=0.6, mended=5, broken=3)
    verdict = Verdict(False, "nothing", "No gain could be told from chance.", (weak,), 210, 2, 0.05)
    same = tuple(
        replace(one, after=one.before, right_after=one.right_before) for one in advice().examples
    )
    return advice(**{"verdict": verdict, "examples": same, "command": "", "python": "", **changes})
