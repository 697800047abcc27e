"""What shapes-vlm reaches on scenes it was not trained on, asked as a user would."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from foveate.tasks.shapes import (
    NEGATIVES,
    Rate,
    Scene,
    absent,
    answered,
    caption,
    hallucination,
    mentions,
    questions,
    rate,
    scenes,
)
from foveate.tasks.shapes.asking import DESCRIBE, pope, replies

HELD_OUT = 1_000_000_000  # seeds from here on are never trained on


def measured(model: Any, processor: Any, world: dict[str, Any], n: int) -> dict[str, Any]:
    """All figures on `n` scenes of a world that is drawn like the training's but not biased."""
    fair = {**world, "bias": 0.0, "popularity": 0.0}
    drawn = scenes(n, HELD_OUT, **fair)
    figures: dict[str, Any] = {}
    for sort in ("colour", "shape", "count", "relation"):
        asked = [(s, q) for i, s in enumerate(drawn) for q in questions(s, i, sorts=[sort])]
        said = replies(model, processor, [s for s, _ in asked], [q.text for _, q in asked])
        right = [answered(q, reply) for (_, q), reply in zip(asked, said, strict=True)]
        figures[sort] = _plain(rate(right))
    missing = [s for s in drawn if all(absent(s, negatives) for negatives in NEGATIVES)]
    for negatives in NEGATIVES:
        run = pope(model, processor, missing, negatives=negatives)
        figures[f"existence, {negatives} negatives"] = {
            name.replace("_", " "): _plain(value) if isinstance(value, Rate) else value
            for name, value in vars(run.score).items()
        }
    for name, some in {
        "captions": drawn,
        "captions of biased scenes": scenes(n, HELD_OUT + 1, **world),
    }.items():
        said = replies(model, processor, some, [DESCRIBE] * len(some))
        made_up = hallucination(said, some)
        exact = [_same(reply, scene) for reply, scene in zip(said, some, strict=True)]
        figures[name] = {
            "made up, of the kinds mentioned": _plain(made_up.mentions),
            "captions with something made up": _plain(made_up.captions),
            "kinds mentioned, of those there": _plain(made_up.recall),
            "partners among the made up": made_up.partners,
            "right kinds and numbers": _plain(rate(exact)),
        }
    return figures


def _same(reply: str, scene: Scene) -> bool:
    return mentions(reply) == mentions(caption(scene))


def _plain(figure: Rate) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(figure).items()}
