"""The first story of ``foveate demo --vision``: a model describes pictures and makes things up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..attach import attach
from ..engine import measures as m
from ..methods.measure import Measure
from ..prompt import Prompt
from ..report.vision import Look, Side, Story
from ..tasks.shapes import (
    absent,
    answered,
    asking,
    caption,
    mentions,
    partner,
    questions,
    render,
)
from ..tasks.shapes.captions import NUMBERS, named
from ..tasks.shapes.scene import Kind, Scene
from .story import Remedy, case, counted
from .story_hidden import GRID, LONGEST, hidden_patches

__all__ = ["sees"]

_BATCH = 64


def sees(
    model: Any, processor: Any, remedy: Remedy, shown: Sequence[Scene], seed: int, name: str
) -> Story:
    """Captions of scenes, as they are and under a remedy: what is made up?

    Parameters
    ----------
    model, processor
        From ``fv.load("shapes-vlm")``.
    remedy : Remedy
    shown : sequence of Scene
    seed : int
        Of the questions, and of what is hidden for comparison.
    name : str
        The model's.
    """
    texts = [asking.DESCRIBE] * len(shown)
    plain = asking.replies(model, processor, shown, texts)
    turned = _replies(model, processor, shown, texts, remedy)
    at, chosen = case(
        [_mended(*one) for one in zip(shown, plain, turned, strict=True)],
        (
            "the caption makes up the usual partner of something there and, with the method, "
            "names just what is there",
            "the caption makes something up and, with the method, names just what is there",
            "the caption makes something up and, with the method, does not",
            "the caption makes something up",
        ),
    )
    scene = shown[at]
    before = _told(model, processor, scene, ())
    after = _turned(model, processor, scene, remedy, before)
    parting = _parting(before.ids, after.ids)
    words = [
        processor.decode(one.ids[parting : parting + 1], skip_special_tokens=True).strip()
        for one in (before, after)
    ]
    asked = [_asked(model, processor, shown, seed, one) for one in (Remedy(""), remedy)]

    def made_up(said: Sequence[str]) -> list[bool]:
        return [_made_up(*one) for one in zip(shown, said, strict=True)]

    def left_out(said: Sequence[str]) -> list[bool]:
        return [_left_out(*one) for one in zip(shown, said, strict=True)]

    return Story(
        title="A picture is described",
        model=name,
        method=remedy.written,
        task=f"“{asking.DESCRIBE}” There is: {caption(scene)}.",
        chosen=chosen,
        looked="Attention on each patch, mean of all layers and heads, of the token that chooses "
        "the first word in which the two captions part.",
        before=_seen("as it is", scene, before, parting, words[0]),
        after=_seen("with the method", scene, after, parting, words[1]),
        hidden=hidden_patches(model, processor, shown, plain, seed),
        counts=(
            counted("captions that make something up", *map(made_up, (plain, turned)), more=False),
            counted("captions that leave a thing out", *map(left_out, (plain, turned)), more=False),
            counted("answers to “is there …?” that are right", *asked),
        ),
    )


@dataclass(frozen=True, eq=False)
class _Told:
    text: str
    ids: list[int]
    looks: list[np.ndarray]  # by generated token: attention on the patches [rows, columns]
    blind: np.ndarray | None = None  # of AvisC: the patches that count less


def _replies(
    model: Any, processor: Any, shown: Sequence[Scene], texts: Sequence[str], remedy: Remedy
) -> list[str]:
    """What is said to one text about each scene under a remedy."""
    if remedy.decoder is None:
        return asking.replies(model, processor, shown, texts, remedy.methods)
    said: list[str] = []
    for start in range(0, len(shown), _BATCH):
        part = slice(start, start + _BATCH)
        prompt = Prompt(processor, list(map(_chat, shown[part], texts[part])))
        said += remedy.decoder.generate(model, processor, prompt, LONGEST)
    return said


def _chat(scene: Scene, text: str) -> list[dict[str, Any]]:
    picture = {"type": "image", "image": render(scene)}
    return [{"role": "user", "content": [picture, {"type": "text", "text": text}]}]


def _asked(
    model: Any, processor: Any, shown: Sequence[Scene], seed: int, remedy: Remedy
) -> list[bool]:
    """Whether each answer is right, of things that are there and of missing partners."""
    pairs = [
        (scene, one)
        for i, scene in enumerate(shown)
        if absent(scene, "adversarial")
        for one in questions(scene, seed + i, sorts=["existence"], negatives="adversarial")
    ]
    texts = [one.text for _, one in pairs]
    said = _replies(model, processor, [scene for scene, _ in pairs], texts, remedy)
    return [answered(one, reply) for (_, one), reply in zip(pairs, said, strict=True)]


def _told(model: Any, processor: Any, scene: Scene, methods: Sequence[Any]) -> _Told:
    """One caption, with the look that chose each of its tokens."""
    inputs = asking.inputs_of(processor, [scene], [asking.DESCRIBE])
    image = inputs["input_ids"] == model.config.image_token_id
    measure = Measure(m.rows([-1]))
    with torch.no_grad(), attach(model, *methods, measure, regions={"image": image}) as run:
        out = model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
    ids = out[0, image.shape[1] :].tolist()
    at = image[0].nonzero().flatten()
    rows = run.results["rows"]
    each = [rows.prefill[:, 0, :, -1]]  # [L, H, S]
    if rows.decode.numel():
        each += list(rows.decode[:, 0].unbind(2))
    looks = [one[..., at].mean((0, 1)).reshape(GRID, GRID).numpy() for one in each]
    return _Told(processor.decode(ids, skip_special_tokens=True), ids, looks)


def _turned(model: Any, processor: Any, scene: Scene, remedy: Remedy, before: _Told) -> _Told:
    """The caption under a remedy.

    A decoder lets the model look as it does: up to where the captions part, and there too, the
    looks are the same. What it counts against them is marked, where it tells.
    """
    if remedy.decoder is None:
        return _told(model, processor, scene, remedy.methods)
    prompt = Prompt(processor, [_chat(scene, asking.DESCRIBE)])
    ids = remedy.decoder.decode(model, prompt, LONGEST).ids[0].tolist()
    blind = None
    if hasattr(remedy.decoder, "blind"):
        found = remedy.decoder.blind(model, prompt)[prompt.regions["image"]]
        blind = found.reshape(GRID, GRID).cpu().numpy()
    text = processor.decode(ids, skip_special_tokens=True)
    return _Told(text, ids, before.looks[: _parting(before.ids, ids) + 1], blind)


def _seen(label: str, scene: Scene, told: _Told, at: int, word: str) -> Side:
    said, there = mentions(told.text), _there(scene)
    verdict = [(_judged(kind, n, there), n == there[kind]) for kind, n in said.items()]
    verdict += [
        (f"{named(kind, n)}: left out", False) for kind, n in there.items() if kind not in said
    ]
    when = f"when it chose “{word}”" if word else "as it stopped"
    title = f"share of its attention on the picture, {when}"
    looks = [Look(title, told.looks[at], float(told.looks[at].sum()))]
    if told.blind is not None:
        held = told.looks[at] * told.blind
        looks.append(
            Look("of its attention, on the patches told to count less", held, float(held.sum()))
        )
    return Side(label, render(scene), f"“{told.text}”", tuple(verdict), tuple(looks))


def _judged(kind: Kind, said: int, there: Counter[Kind]) -> str:
    """What the checker says of one kind that a caption names."""
    if there[kind]:
        number = "" if there[kind] == said else f", but {NUMBERS[there[kind]]}"
        return f"{named(kind, said)}: there{number}"
    usual = f", the usual partner of {named(partner(kind))}" if there[partner(kind)] else ""
    return f"{named(kind, said)}: made up{usual}"


def _there(scene: Scene) -> Counter[Kind]:
    return Counter(thing.kind for thing in scene.things)


def _mended(scene: Scene, plain: str, turned: str) -> int:
    """How much of a story a case is: 0 is the best, 4 none."""
    made_up = set(mentions(plain)) - scene.kinds
    if not made_up:
        return 4
    if mentions(turned) == _there(scene):
        return 0 if any(partner(kind) in scene.kinds for kind in made_up) else 1
    return 3 if _made_up(scene, turned) else 2


def _made_up(scene: Scene, text: str) -> bool:
    return bool(set(mentions(text)) - scene.kinds)


def _left_out(scene: Scene, text: str) -> bool:
    return bool(scene.kinds - set(mentions(text)))


def _parting(one: Sequence[int], other: Sequence[int]) -> int:
    """The first generated token in which two answers differ; 0 where none does."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
