"""Relevance names the tokens a model's answer hangs on, sooner than raw attention or rollout do.

As in the paper's perturbation tests: the tokens an explanation ranks first are hidden, and the
probability of the model's own next token is followed. Lower areas are better. Beside it, on
pictures: how much of an explanation is on the thing that is asked for, and what its patches do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...find.attribution import attribute, faithfulness
from ...load import load
from ...prompt import Prompt
from ...statistics import paired_bootstrap
from ...tasks.facts import cases
from ._relevance_pictures import on_pictures
from ._trial import Trial

ITEMS, PICTURES = 9, 40
FRACTIONS = (0.0, 0.1, 0.3)
RANKINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "relevance": ("relevance", {}),
    "raw attention (last layer)": ("attention", {}),
    "attention (mean of layers)": ("attention", {"layers": range(30)}),
    "rollout": ("rollout", {}),
}


def run(progress: Callable[[str], None]) -> Trial:
    """Deletion areas of relevance against raw attention, rollout and chance."""
    ways = RANKINGS | {"attention (mean of layers)": ("attention", {"layers": range(4)})}
    pictures = on_pictures(PICTURES, 41, ways, progress)
    model, tokenizer = load("smollm2")
    areas: dict[str, list[float]] = {name: [] for name in (*RANKINGS, "chance")}
    shares: dict[str, list[float]] = {name: [] for name in areas}
    for n, case in enumerate(cases(ITEMS, seed=21)):
        prompt = Prompt(tokenizer, [{"role": "user", "content": case.text}])
        prompt.mark("evidence", case.evidence)
        user = prompt.regions["user"][0]
        evidence = prompt.regions["evidence"][0]
        target = None
        for name, (method, options) in RANKINGS.items():
            found = attribute(model, prompt, method, target, **options)
            target = found.target  # what the model prefers, for all alike
            chance = 1 if name == "relevance" else 0
            curves = faithfulness(
                model, prompt, found, within=user, fractions=FRACTIONS, insertion=False,
                random=chance, seed=n,
            )  # fmt: skip
            areas[name].append(curves.deletion_auc)
            best = found.top(10, within=user)
            shares[name].append(sum(bool(evidence[i]) for i, _, _ in best) / len(best))
            if chance:
                areas["chance"].append(curves.random_deletion_auc)
                shares["chance"].append(float(evidence.sum() / user.sum()))
        progress(f"{n + 1} of {ITEMS} items")
    relevance = areas["relevance"]
    raw = "raw attention (last layer)"
    return Trial(
        baseline=("area under the deletion curve (probability), raw attention", areas[raw]),
        method=("area under the deletion curve (probability), relevance", relevance),
        better="lower",
        seeds=(21, 41),
        details={
            "items": ITEMS,
            "deletion area": {name: round(_mean(v), 4) for name, v in areas.items()},
            "hidden, part of the user's tokens": list(FRACTIONS),
            "evidence among the 10 best": {n: round(_mean(v), 4) for n, v in shares.items()},
            "relevance less others, deletion, intervals": {
                name: [round(end, 4) for end in paired_bootstrap(values, relevance)]
                for name, values in areas.items()
                if name != "relevance"
            },
            "on pictures": pictures,
        },
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
