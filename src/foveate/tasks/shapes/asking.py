"""A vision–language model is shown scenes and asked: under any methods, item by item."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...attach import attach
from ...errors import FoveateError
from ...prompt import Prompt
from .captions import mentions
from .questions import Question, absent, questions
from .render import render
from .scene import Scene
from .scores import Existence, answered, existence

__all__ = ["DESCRIBE", "Pope", "f1_gain", "inputs_of", "made_up", "pope", "replies"]

DESCRIBE = "describe the picture."
_SAMPLES = 2000  # of a bootstrap


def inputs_of(processor: Any, scenes: Sequence[Scene], texts: Sequence[str]) -> dict[str, Any]:
    """One chat about each scene, ready for the model.

    Parameters
    ----------
    processor : LlavaProcessor
        That of ``fv.load("shapes-vlm")``.
    scenes, texts : sequence
        As many of both.

    Returns
    -------
    dict
        ``input_ids``, ``attention_mask`` int64 ``[B, S]``, ``pixel_values`` ``[B, 3, 32, 32]``.
    """
    if len(scenes) != len(texts) or not scenes:
        raise FoveateError(
            f"{len(scenes)} scenes and {len(texts)} texts were given; as many of both are wanted, "
            "at least one."
        )
    return _shown(processor, scenes, texts).inputs


def _shown(processor: Any, scenes: Sequence[Scene], texts: Sequence[str]) -> Prompt:
    chats = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": render(scene)},
                    {"type": "text", "text": text},
                ],
            }
        ]
        for scene, text in zip(scenes, texts, strict=True)
    ]
    return Prompt(processor, chats)


def replies(
    model: Any,
    processor: Any,
    scenes: Sequence[Scene],
    texts: Sequence[str],
    methods: Sequence[Any] = (),
    *,
    generate: Callable[..., Any] | None = None,
    batch: int = 64,
    tokens: int = 40,
) -> list[str]:
    """What a model says, greedily, to one text about each scene.

    Parameters
    ----------
    model, processor
        From ``fv.load("shapes-vlm")``.
    scenes, texts : sequence
        As many of both.
    methods : sequence of methods
        Attached while it speaks; the region ``"image"`` is known to them.
    generate : callable, optional
        In the place of ``model.generate``, for what decodes in a way of its own: takes the inputs
        and ``max_new_tokens``, ``do_sample`` by name and returns ids, the prompt's first.
    batch : int
        Scenes at once.
    tokens : int
        A reply's most.
    """
    made = generate or model.generate
    said: list[str] = []
    for start in range(0, len(texts), batch):
        part = slice(start, start + batch)
        prompt = _shown(processor, scenes[part], texts[part])
        with torch.no_grad(), attach(model, *methods, prompt=prompt):
            out = made(**prompt.inputs, max_new_tokens=tokens, do_sample=False)
        new = out[:, prompt.length :]
        said += processor.batch_decode(new, skip_special_tokens=True)
    return said


@dataclass(frozen=True)
class Pope:
    """Questions for existence, the replies, and whether each is right.

    Attributes
    ----------
    questions : tuple of Question
    replies : tuple of str
    right : tuple of bool
    """

    questions: tuple[Question, ...]
    replies: tuple[str, ...]

    @property
    def right(self) -> tuple[bool, ...]:
        """Item by item."""
        return tuple(answered(q, r) for q, r in zip(self.questions, self.replies, strict=True))

    @property
    def score(self) -> Existence:
        """Accuracy, F1, share of yes and of false yes, with intervals."""
        return existence(self.questions, self.replies)


def pope(
    model: Any,
    processor: Any,
    scenes: Sequence[Scene],
    methods: Sequence[Any] = (),
    *,
    negatives: str = "adversarial",
    seed: int = 0,
    **options: Any,
) -> Pope:
    """Ask for things that are there and as many that are not.

    Parameters
    ----------
    model, processor
        From ``fv.load("shapes-vlm")``.
    scenes : sequence of Scene
        Those in which nothing can be asked for so are left out.
    methods, options
        As :func:`replies` takes them.
    negatives : str
        One of ``NEGATIVES``.
    seed : int
        Of what is asked: the same for all methods that are to be compared.

    References
    ----------
    Li et al., "Evaluating Object Hallucination in Large Vision-Language Models" (POPE), 2023.
    """
    pairs = [
        (scene, question)
        for i, scene in enumerate(scenes)
        if absent(scene, negatives)
        for question in questions(scene, seed + i, sorts=["existence"], negatives=negatives)
    ]
    shown, asked = [scene for scene, _ in pairs], [question for _, question in pairs]
    texts = [question.text for question in asked]
    options = {"tokens": 4} | options
    return Pope(tuple(asked), tuple(replies(model, processor, shown, texts, methods, **options)))


def f1_gain(base: Pope, other: Pope) -> tuple[float, float, float]:
    """How much higher another run's F1 of "yes" is, over the same questions.

    Parameters
    ----------
    base, other : Pope
        Two runs of :func:`pope` on the same scenes, with the same negatives and seed.

    Returns
    -------
    (difference, low, high) : tuple of float
        F1 of `other` minus that of `base`, as a share (0.01 is one point), and the 95 % interval
        of that difference: a bootstrap over the questions, paired.

    Raises
    ------
    FoveateError
        The two did not ask the same.
    """
    if base.questions != other.questions:
        raise FoveateError(
            "f1_gain() got answers to different questions; give pope() the same scenes, negatives "
            "and seed both times."
        )
    truth = np.array([question.answer == "yes" for question in base.questions])
    said = [
        np.array([right == is_yes for right, is_yes in zip(run.right, truth, strict=True)])
        for run in (base, other)
    ]

    def gain(rows: np.ndarray) -> float:
        there = truth[rows]
        first, second = (
            2 * (there & yes[rows]).sum() / max(there.sum() + yes[rows].sum(), 1) for yes in said
        )
        return float(second - first)

    rows = np.random.default_rng(0).integers(0, len(truth), (_SAMPLES, len(truth)))
    low, high = np.quantile([gain(sample) for sample in rows], [0.025, 0.975])
    return gain(np.arange(len(truth))), float(low), float(high)


def made_up(captions: Sequence[str], scenes: Sequence[Scene]) -> list[float]:
    """Share of the kinds that each caption mentions that are not there; 0 where it mentions none.

    The mean over captions, not over mentions, so that two runs can be paired item by item;
    :func:`~foveate.tasks.shapes.hallucination` is CHAIR's own count.
    """
    told = [set(mentions(caption)) for caption in captions]
    return [
        len(kinds - scene.kinds) / max(len(kinds), 1)
        for kinds, scene in zip(told, scenes, strict=True)
    ]
