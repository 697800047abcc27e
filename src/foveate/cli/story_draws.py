"""The second story of ``foveate demo --vision``: a model draws two things, or only one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attach import attach
from ..engine import measures as m
from ..methods.hide import Hide
from ..methods.measure import Measure
from ..report.vision import Look, Mark, Side, Story, Table
from ..tasks.shapes import check, drawing, mentions
from ..tasks.shapes.captions import named
from ..tasks.shapes.scores import Binding
from .story import Remedy, case, counted

__all__ = ["draws"]

STEPS = 20  # of denoising
_GUIDANCE = 4.0
_BATCH = 36


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
    plain, plain_looks = _drawn(pipeline, asked, (), seed)
    turned, turned_looks = _drawn(pipeline, asked, remedy.methods, seed)
    found = [drawing.judged(asked, pictures) for pictures in (plain, turned)]
    at, chosen = case(
        [_mended(*one) for one in zip(*found, strict=True)],
        (
            "one thing is missing and, with the method, both are there and nothing else",
            "both things are missing and, with the method, both are there and nothing else",
            "a thing is missing and, with the method, both are there",
            "a thing is missing",
        ),
    )
    return Story(
        title="A picture is drawn",
        model=name,
        method=remedy.written,
        task=f"“{asked[at]}”",
        chosen=chosen,
        looked="Attention of each patch of the picture on the words, mean of all layers, heads and "
        f"the first half of {STEPS} steps.",
        before=_side("as it is", asked[at], plain[at], plain_looks[at]),
        after=_side("with the method", asked[at], turned[at], turned_looks[at]),
        hidden=_hidden_words(pipeline, asked, plain, seed),
        counts=(
            counted("pictures with both things", *([j.right == 2 for j in one] for one in found)),
            counted("pictures with just these two", *([j.perfect for j in one] for one in found)),
        ),
    )


def _drawn(
    pipeline: Any, asked: Sequence[str], methods: Sequence[Any], seed: int
) -> tuple[list[Any], Tensor]:
    """Pictures, and by picture and word what each patch put on it: ``[n, 2, rows, columns]``."""
    config, looked = pipeline.transformer.config, range(STEPS // 2)  # where it is decided what is
    side = config.sample_size // config.patch_size
    measures = [
        Measure(*(m.mass(f"thing {n}", as_=f"{n}@{step}") for n in (1, 2)), steps=step)
        for step in looked
    ]
    pipeline.set_progress_bar_config(disable=True)
    pictures: list[Any] = []
    looks = []
    for first in range(0, len(asked), _BATCH):
        part = list(asked[first : first + _BATCH])
        prompt = drawing.marked(pipeline.tokenizer, part)
        noise = torch.Generator().manual_seed(seed + first)
        with attach(pipeline, *methods, *measures, prompt=prompt) as run:
            pictures += pipeline(
                part, num_inference_steps=STEPS, guidance_scale=_GUIDANCE, generator=noise
            ).images
        # [L, B, H, queries]: the image's queries come first, the prompts' rows last
        words = [[_patches(run.results[f"{n}@{step}"], len(part), side) for step in looked]
                 for n in (1, 2)]  # fmt: skip
        looks.append(torch.stack([torch.stack(each).mean(0) for each in words], 1))
    return pictures, torch.cat(looks)


def _patches(mass: Any, rows: int, side: int) -> Tensor:
    """``[rows, side, side]``: the mean of layers and heads of a measure of the joint attention."""
    each = mass.prefill[:, -rows:, :, : side * side].detach().float().mean((0, 2))
    return each.reshape(rows, side, side)


def _side(label: str, text: str, picture: Any, looks: Tensor) -> Side:
    """A picture with what the checker reads and what looked at its words."""
    pixels, wanted = np.asarray(picture), list(mentions(text))
    there = check(pixels)
    kinds = {one.kind for one in there}
    verdict = [
        (f"{named(kind)}: {'there' if kind in kinds else 'not there'}", kind in kinds)
        for kind in wanted
    ]
    (judged,) = drawing.judged([text], [pixels])
    if extra := judged.extra + judged.leaked:
        verdict.append((f"{extra} more than was asked for", False))
    return Side(
        label,
        pixels,
        "",
        tuple(verdict),
        tuple(
            Look(
                f"attention of the patches on “{named(kind)}”, mean", one.numpy(), float(one.mean())
            )
            for kind, one in zip(wanted, looks, strict=True)
        ),
        tuple(Mark(one.box, named(one.kind), one.kind in wanted) for one in there),
    )


def _mended(before: Binding, after: Binding) -> int:
    """How much of a story a case is: 0 is the best, 4 none."""
    if before.right == 2:
        return 4
    if after.perfect:
        return 0 if before.right else 1
    return 2 if after.right == 2 else 3


def _hidden_words(pipeline: Any, asked: Sequence[str], plain: Sequence[Any], seed: int) -> Table:
    """Is a thing still drawn when its words are hidden from the picture?"""
    kinds = [list(mentions(text)) for text in asked]
    rows = []
    for what, methods in (
        ("nothing", ()),
        ("the words of the first thing", (Hide("thing 1"),)),
        ("the words of the second thing", (Hide("thing 2"),)),
    ):
        pictures = _drawn(pipeline, asked, methods, seed)[0] if methods else plain
        there = [{one.kind for one in check(picture)} for picture in pictures]
        counts = [
            sum(two[n] in some for two, some in zip(kinds, there, strict=True)) for n in (0, 1)
        ]
        rows.append((what, *(f"{count} of {len(asked)}" for count in counts)))
    return Table(
        ("hidden from attention", "the first is there", "the second is there"), tuple(rows)
    )
