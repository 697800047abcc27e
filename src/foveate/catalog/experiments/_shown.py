"""Scenes shown to shapes-vlm: what the answers' log-probabilities are, under methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...attach import attach
from ...statistics import paired_bootstrap
from ...tasks.shapes import Question, Scene, absent, hallucination, questions, scenes
from ...tasks.shapes.asking import DESCRIBE, f1_gain, inputs_of, made_up, pope, replies

__all__ = [
    "Choose",
    "asked_about",
    "bare",
    "difference",
    "fair",
    "logp",
    "speaking",
    "told",
    "tuned",
]

HELD_OUT = 1_000_000_000  # seeds from here on are never trained on
BATCH = 64
Choose = Callable[[dict[str, Any]], Sequence[Any]]


def fair(n: int, seed: int) -> list[Scene]:
    """Scenes as in training but without the bias, so that what is always said is often wrong."""
    return list(scenes(n, HELD_OUT + seed, objects=(1, 4), size=32, repeats=0.1, texture="any"))


def asked_about(
    shown: Sequence[Scene], seed: int, sort: str = "existence", negatives: str = "adversarial"
) -> list[tuple[Scene, Question]]:
    """Questions of one sort, with their scenes: the same that ``pope`` asks."""
    return [
        (scene, question)
        for i, scene in enumerate(shown)
        if sort != "existence" or absent(scene, negatives)
        for question in questions(scene, seed + i, sorts=[sort], negatives=negatives)
    ]


@torch.no_grad()
def logp(
    model: Any,
    processor: Any,
    pairs: Sequence[tuple[Scene, Question]],
    methods: Sequence[Any] | Choose = (),
    other: dict[str, str] | None = None,
) -> Tensor:
    """``log p`` of each answer, ``[N]``; less that of the ``other`` answer where one is given.

    ``methods`` may be a function of a batch's inputs.
    """
    token = processor.tokenizer.convert_tokens_to_ids
    found = []
    for start in range(0, len(pairs), BATCH):
        part = pairs[start : start + BATCH]
        inputs = inputs_of(processor, [s for s, _ in part], [q.text for _, q in part])
        image = inputs["input_ids"] == model.config.image_token_id
        chosen = methods(inputs) if callable(methods) else methods
        with attach(model, *chosen, regions={"image": image}):
            said = model(**inputs).logits[:, -1].float().log_softmax(-1)
        rows = torch.arange(len(part))
        value = said[rows, [token(q.answer) for _, q in part]]
        if other is not None:
            value = value - said[rows, [token(other[q.answer]) for _, q in part]]
        found.append(value)
    return torch.cat(found)


def bare(model: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """The same chats without their pictures (each has as many tokens of one)."""
    words = inputs["input_ids"] != model.config.image_token_id
    rows = words.shape[0]
    return {name: inputs[name][words].view(rows, -1) for name in ("input_ids", "attention_mask")}


def speaking(model: Any, choose: Choose) -> Callable[..., Any]:
    """``model.generate`` under methods made for each batch: for ``replies(generate=…)``."""

    def generate(**inputs: Any) -> Any:
        with attach(model, *choose(inputs)):
            return model.generate(**inputs)

    return generate


def tuned(
    model: Any,
    processor: Any,
    held: Sequence[Scene],
    variants: dict[str, dict[str, Any]],
    progress: Callable[[str], None],
) -> tuple[str, dict[str, float]]:
    """Which variant makes up least in captions of ``held``, and what each makes up a caption.

    ``variants`` are options of ``replies`` by name; ``"unedited"`` is added and never chosen.
    """
    curve: dict[str, float] = {}
    every: dict[str, dict[str, Any]] = {"unedited": {}, **variants}
    for name, options in every.items():
        progress(f"{len(held)} captions while choosing: {name}")
        said = replies(model, processor, held, [DESCRIBE] * len(held), **options)
        curve[name] = round(sum(made_up(said, held)) / len(held), 4)
    return min(variants, key=lambda name: curve[name]), curve


def told(
    model: Any,
    processor: Any,
    described: Sequence[Scene],
    asked: Sequence[Scene],
    seed: int,
    variants: dict[str, dict[str, Any]],
    progress: Callable[[str], None],
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, Any]]:
    """Captions and adversarial questions under each variant; the first is the base.

    ``variants`` are options of ``replies`` by name. Returns what each caption makes up, what is
    right of the answers, and figures as CHAIR and POPE count them.
    """
    false: dict[str, list[float]] = {}
    right: dict[str, list[float]] = {}
    figures: dict[str, Any] = {}
    base = None
    for name, options in variants.items():
        progress(f"{len(described)} captions and {len(asked)} scenes asked about: {name}")
        said = replies(model, processor, described, [DESCRIBE] * len(described), **options)
        false[name] = made_up(said, described)
        run = pope(model, processor, asked, seed=seed, **options)
        base = base or run
        right[name] = [float(one) for one in run.right]
        chair, score, gain = hallucination(said, described), run.score, f1_gain(base, run)
        figures[name] = {
            "made up, of the kinds mentioned": str(chair.mentions),
            "captions with something made up": str(chair.captions),
            "kinds mentioned, of those there": str(chair.recall),
            "adversarial accuracy": str(score.accuracy),
            "adversarial F1": str(score.f1),
            "share of yes": str(score.yes),
            "F1 against the base": [round(value, 4) for value in gain],
        }
    return false, right, figures


def difference(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    """Mean of ``b`` less that of ``a``, with its paired interval."""
    low, high = paired_bootstrap(a, b)
    mean = sum(y - x for x, y in zip(a, b, strict=True)) / len(a)
    return {"difference": round(mean, 4), "interval": [round(low, 4), round(high, 4)]}
