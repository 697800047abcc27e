"""What shapes-vlm reaches on scenes it was not trained on, asked as a user would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from _vlm import ASK_FOR_CAPTION

from foveate.tasks.shapes import (
    NEGATIVES,
    Question,
    Rate,
    Scene,
    absent,
    answered,
    caption,
    existence,
    hallucination,
    mentions,
    questions,
    rate,
    render,
    scenes,
)

HELD_OUT = 1_000_000_000  # seeds from here on are never trained on
BATCH = 64


def replies(model: Any, processor: Any, drawn: Sequence[Scene], texts: Sequence[str]) -> list[str]:
    """What the model says, greedily, to one text about each scene."""
    said = []
    for start in range(0, len(texts), BATCH):
        part = slice(start, start + BATCH)
        chats = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
            for text in texts[part]
        ]
        inputs = processor(
            text=[processor.apply_chat_template(c, add_generation_prompt=True) for c in chats],
            images=[render(scene) for scene in drawn[part]],
            padding=True,
            return_tensors="pt",
            add_special_tokens=False,
        )
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=40, do_sample=False)
        made = out[:, inputs["input_ids"].shape[1] :]
        said += processor.batch_decode(made, skip_special_tokens=True)
    return said


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
        pairs: list[tuple[Scene, Question]] = [
            (s, q)
            for i, s in enumerate(missing)
            for q in questions(s, i, sorts=["existence"], negatives=negatives)
        ]
        said = replies(model, processor, [s for s, _ in pairs], [q.text for _, q in pairs])
        scored = existence([q for _, q in pairs], said)
        wrong = [r != "no" for (_, q), r in zip(pairs, said, strict=True) if q.answer == "no"]
        figures[f"existence, {negatives} negatives"] = {
            name: _plain(value) if isinstance(value, Rate) else value
            for name, value in vars(scored).items()
        } | {"false yes": _plain(rate(wrong))}
    for name, some in {
        "captions": drawn,
        "captions of biased scenes": scenes(n, HELD_OUT + 1, **world),
    }.items():
        said = replies(model, processor, some, [ASK_FOR_CAPTION] * len(some))
        scored = hallucination(said, some)
        exact = [_same(reply, scene) for reply, scene in zip(said, some, strict=True)]
        figures[name] = {
            "made up, of the kinds mentioned": _plain(scored.mentions),
            "captions with something made up": _plain(scored.captions),
            "kinds mentioned, of those there": _plain(scored.recall),
            "partners among the made up": scored.partners,
            "right kinds and numbers": _plain(rate(exact)),
        }
    return figures


def _same(reply: str, scene: Scene) -> bool:
    return mentions(reply) == mentions(caption(scene))


def _plain(figure: Rate) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(figure).items()}
