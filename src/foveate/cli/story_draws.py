"""The second story of ``foveate demo --vision``: a model draws two things, or only one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..attach import attach
from ..engine import measures as m
from ..methods.hide import Hide
from ..methods.measure import Measure
from ..report.vision import Count, Look, Mark, Side, Story, Table
from ..tasks.shapes import check, drawing, mentions
from ..tasks.shapes.captions import named
from .story import Remedy, case, floats

__all__ = ["draws"]

_STEPS = 20  # of denoising
_LOOKED = range(_STEPS // 2)  # whose attention is drawn: in them it is decided what is where
_BATCH = 32


def draws(pipeline: Any, remedy: Remedy, asked: Sequence[str], seed: int, name: str) -> Story:
    """Pictures of two things, as they are and under a remedy: are both there?

    Parameters
    ----------
    pipeline
        From ``fv.load("shapes-dit")``.
    remedy : Remedy
    asked : sequence of str
        Prompts for two things.
    seed : int
        Of the noise.
    name : str
        The model's.
    """

    def drawn(methods: Sequence[Any], part: slice = slice(None)) -> list[Any]:
        return drawing.drawn(pipeline, asked[part], methods, steps=_STEPS, seed=seed, batch=_BATCH)

    plain, turned = drawn(()), drawn(remedy.methods)
    found = [drawing.judged(asked, pictures) for pictures in (plain, turned)]
    both = [[one.right == 2 for one in side] for side in found]
    clean = [[one.perfect for one in side] for side in found]
    at, chosen = case(
        [
            4 if b.right == 2 else 0 if a.perfect and b.right == 1 else 1 if a.perfect
            else 2 if a.right == 2 else 3
            for b, a in zip(*found, strict=True)
        ],
        (
            "one thing is missing and, with the method, both are there and nothing else",
            "a thing is missing and, with the method, both are there and nothing else",
            "a thing is missing and, with the method, both are there",
            "a thing is missing",
        ),
    )  # fmt: skip
    sides = [
        _drawn(label, pipeline, asked, at, methods, picture, seed)
        for label, methods, picture in (
            ("as it is", (), plain[at]),
            ("with the method", remedy.methods, turned[at]),
        )
    ]
    return Story(
        title="A picture is drawn",
        model=name,
        method=remedy.written,
        task=f"“{asked[at]}”",
        chosen=chosen,
        looked="Attention of each patch of the picture on the words, mean of all layers, heads and "
        f"the first {len(_LOOKED)} of {_STEPS} steps.",
        before=sides[0],
        after=sides[1],
        hidden=_hidden_words(asked, plain, drawn),
        counts=(
            Count("pictures with both things", *map(floats, both)),
            Count("pictures with both things and nothing else", *map(floats, clean)),
        ),
    )


def _drawn(
    label: str,
    pipeline: Any,
    asked: Sequence[str],
    at: int,
    methods: Sequence[Any],
    picture: Any,
    seed: int,
) -> Side:
    """One picture once more, with its batch and so its noise, measured."""
    first = at - at % _BATCH
    part = list(asked[first : first + _BATCH])
    measures = [
        Measure(*(m.mass(f"thing {n}", as_=f"{n}@{step}") for n in (1, 2)), steps=step)
        for step in _LOOKED
    ]
    noise = torch.Generator().manual_seed(seed + first)
    prompt = drawing.marked(pipeline.tokenizer, part)
    with attach(pipeline, *methods, *measures, prompt=prompt) as run:
        pipeline(part, num_inference_steps=_STEPS, guidance_scale=4.0, generator=noise)
    config = pipeline.transformer.config
    grid = config.sample_size // config.patch_size
    looks = []
    for n, kind in enumerate(mentions(asked[at]), start=1):
        each = []
        for step in _LOOKED:
            mass = run.results[f"{n}@{step}"].prefill  # [L, B, H, image then text]
            row = mass.shape[1] - len(part) + at - first  # the prompt's half stands last
            each.append(mass[:, row, :, : grid * grid].mean((0, 1)))
        weights = torch.stack(each).mean(0).reshape(grid, grid).detach().numpy()
        looks.append(Look(f"what looked at “{named(kind)}”, mean", weights, float(weights.mean())))
    pixels = np.asarray(picture)
    there = check(pixels)
    wanted = list(mentions(asked[at]))
    verdict = [
        (f"{named(kind)}: {'there' if good else 'not there'}", good)
        for kind in wanted
        for good in [any(one.kind == kind for one in there)]
    ]
    extra = drawing.judged([asked[at]], [pixels])[0].extra
    if extra:
        verdict.append((f"{extra} more than was asked for", False))
    marks = tuple(Mark(one.box, named(one.kind), one.kind in wanted) for one in there)
    return Side(label, pixels, "", tuple(verdict), tuple(looks), marks)


def _hidden_words(
    asked: Sequence[str], plain: Sequence[Any], drawn: Callable[[Sequence[Any]], list[Any]]
) -> Table:
    """Is a thing still drawn when its words are hidden from the picture?"""
    rows = []
    for what, pictures in (
        ("nothing", plain),
        ("the words of the first", drawn([Hide("thing 1")])),
        ("the words of the second", drawn([Hide("thing 2")])),
    ):
        there = [{one.kind for one in check(picture)} for picture in pictures]
        kinds = [list(mentions(text)) for text in asked]
        counts = [
            sum(two[n] in some for two, some in zip(kinds, there, strict=True)) for n in (0, 1)
        ]
        rows.append((what, *(f"{count} of {len(asked)}" for count in counts)))
    head = ("hidden from attention", "the first thing is there", "the second thing is there")
    return Table(head, tuple(rows))
