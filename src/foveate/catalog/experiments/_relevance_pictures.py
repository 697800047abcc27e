"""Relevance on pictures: is it on the thing asked for, and does the answer hang on its patches?

``shapes-vlm`` is asked for the colour of a thing; where it is right, each explanation of its first
word ranks the 64 image tokens. True masks say how much lies on the thing, and the tokens that are
ranked first are hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...find.attribution import attribute, faithfulness
from ...load import load
from ...prompt import Prompt
from ...statistics import paired_bootstrap
from ...tasks.shapes import Scene, layout, questions, render, scenes

FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.4)


def on_pictures(
    items: int,
    seed: int,
    rankings: dict[str, tuple[str, dict[str, Any]]],
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Mass on the thing and deletion areas, by ranking; intervals of relevance less the others."""
    model, processor = load("shapes-vlm")
    mass: dict[str, list[float]] = {name: [] for name in (*rankings, "relevance, in the tower")}
    areas: dict[str, list[float]] = {name: [] for name in rankings}
    mass["chance"], areas["chance"] = [], []
    asked = 0
    drawn = scenes(4 * items, seed, objects=(2, 3), size=32)
    for scene in (one for one in drawn if len(one.kinds) == len(one.things)):
        if len(areas["chance"]) == items:
            break
        for question in questions(scene, seed, sorts=["colour"]):
            content = [
                {"type": "image", "image": render(scene)},
                {"type": "text", "text": question.text},
            ]
            prompt = Prompt(processor, [{"role": "user", "content": content}])
            found = attribute(model, prompt, "relevance")
            asked += 1
            if found.target_text.strip() != question.answer:
                continue
            image = prompt.regions["image"][0]
            thing = _covered(scene, question.text)
            for name, (method, options) in rankings.items():
                if name != "relevance":
                    found = attribute(model, prompt, method, found.target, **options)
                first = name == "relevance"
                curves = faithfulness(
                    model, prompt, found, within=image, fractions=FRACTIONS, insertion=False,
                    random=4 if first else 0, seed=asked,
                )  # fmt: skip
                areas[name].append(curves.deletion_auc)
                mass[name].append(_on(found.scores[image], thing))
                if first:
                    areas["chance"].append(curves.random_deletion_auc)
                    mass["chance"].append(float(thing.mean()))
            tower = attribute(model, prompt, "relevance", found.target, stack="vision")
            mass["relevance, in the tower"].append(_on(tower.scores[1:], thing))
        progress(f"pictures: {len(areas['chance'])} of {items}")
    relevance = {"mass on the thing": mass, "deletion area": areas}
    return {
        "model": "shapes-vlm",
        "answered rightly, of asked": [len(areas["chance"]), asked],
        "hidden, part of the image tokens": list(FRACTIONS),
        **{
            what: {name: round(sum(v) / len(v), 4) for name, v in values.items()}
            for what, values in relevance.items()
        },
        "relevance less others, intervals": {
            what: {
                name: [round(end, 4) for end in paired_bootstrap(v, values["relevance"])]
                for name, v in values.items()
                if name != "relevance"
            }
            for what, values in relevance.items()
        },
    }


def _covered(scene: Scene, text: str) -> torch.Tensor:
    """How much of each patch the one thing of the shape that is asked for covers, ``[64]``."""
    (region,) = (r for r in layout(scene).regions if r.kind[0] in text)
    return torch.from_numpy(region.patches(8)).float().ravel()


def _on(scores: torch.Tensor, thing: torch.Tensor) -> float:
    """The part of what is positive that falls on a thing; chance where nothing is."""
    positive = scores.clamp(min=0)
    total = float(positive.sum())
    return float((positive * thing).sum()) / total if total else float(thing.mean())
