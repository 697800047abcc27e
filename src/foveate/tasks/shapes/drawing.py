"""A text-to-image model is asked for things and its pictures are read: under any methods."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import permutations, product
from typing import Any

import torch

from ...attach import attach
from ...errors import FoveateError
from ...prompt import Prompt
from .captions import mentions, named
from .checker import check
from .scene import Kind
from .scores import Binding, binding

__all__ = ["DRAWN", "drawn", "judged", "marked", "prompts"]

DRAWN: tuple[Kind, ...] = tuple(
    product(("circle", "square", "triangle"), ("red", "green", "blue", "yellow"))
)
"""The kinds that the shipped text-to-image models know."""


def prompts(count: int, n: int, seed: int = 1) -> list[str]:
    """``n`` texts that ask for `count` things of different kinds, all kinds (pairs) alike often.

    ``"a red circle and a green square"``.
    """
    if not 1 <= count <= len(DRAWN) or n < 1:
        raise FoveateError(
            f"prompts({count!r}, {n!r}) wants 1 to {len(DRAWN)} things a prompt and at least one "
            "prompt."
        )
    asked = list(permutations(DRAWN, count)) if count <= 3 else []
    rng = random.Random(seed)
    rng.shuffle(asked)
    kinds = [asked[i % len(asked)] if asked else tuple(rng.sample(DRAWN, count)) for i in range(n)]
    return [" and ".join(named(kind) for kind in some) for some in kinds]


def marked(tokenizer: Any, asked: Sequence[str]) -> Prompt:
    """A batch of prompts in which the words for each thing are marked.

    Parameters
    ----------
    tokenizer
        The pipeline's.
    asked : sequence of str
        Texts that name as many things each, with an article (:func:`prompts`).

    Returns
    -------
    Prompt
        Regions ``"thing 1"`` (``"a red circle"``), ``"colour 1"`` (``"red"``), ``"shape 1"``
        (``"circle"``), ``"thing 2"``, ...
    """
    prompt = Prompt(tokenizer, list(asked), padding_side="right")
    for item, text in enumerate(asked):
        for number, kind in enumerate(mentions(text), start=1):
            words = named(kind)
            start, colour = text.index(words), words.index(" ") + 1
            shape = words.rindex(" ") + 1
            for name, first, last in (
                ("thing", 0, len(words)),
                ("colour", colour, shape - 1),
                ("shape", shape, len(words)),
            ):
                prompt.mark(f"{name} {number}", span=(start + first, start + last), item=item)
    return prompt


def drawn(
    pipeline: Any,
    asked: Sequence[str],
    methods: Sequence[Any] = (),
    *,
    steps: int = 20,
    guidance: float = 4.0,
    seed: int = 7,
    batch: int = 32,
    **options: Any,
) -> list[Any]:
    """Pictures of a pipeline, one a prompt.

    Parameters
    ----------
    pipeline
        From ``fv.load("shapes-dit")`` or another of its kind.
    asked : sequence of str
    methods : sequence of methods
        Attached while it draws; the regions of :func:`marked` are known to them.
    steps, guidance
        Denoising steps and scale of guidance.
    seed : int
        Of the noise: the same for all methods that are to be compared.
    batch : int
        Pictures at once. The noise depends on it.
    **options
        Go to the pipeline.

    Returns
    -------
    list of PIL.Image.Image
    """
    pipeline.set_progress_bar_config(disable=True)
    pictures: list[Any] = []
    for first in range(0, len(asked), batch):
        part = list(asked[first : first + batch])
        noise = torch.Generator().manual_seed(seed + first)
        with attach(pipeline, *methods, prompt=marked(pipeline.tokenizer, part)):
            pictures += pipeline(
                part,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=noise,
                **options,
            ).images
    return pictures


def judged(asked: Sequence[str], pictures: Sequence[Any]) -> list[Binding]:
    """What became of the things that each prompt asked for, as the checker reads its picture.

    Parameters
    ----------
    asked : sequence of str
    pictures : sequence of pictures
        As :func:`~foveate.tasks.shapes.check` takes them, as many.
    """
    if len(asked) != len(pictures):
        raise FoveateError(
            f"{len(asked)} prompts and {len(pictures)} pictures were given; as many of both are "
            "wanted."
        )
    return [
        binding(check(picture), [kind for kind, n in mentions(text).items() for _ in range(n)])
        for text, picture in zip(asked, pictures, strict=True)
    ]
