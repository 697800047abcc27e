"""The first story of ``foveate demo --vision``: a model describes pictures and makes things up."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..attach import attach
from ..engine import measures as m
from ..methods.hide import Hide
from ..methods.measure import Measure
from ..report.vision import Count, Look, Side, Story, Table
from ..tasks.shapes import asking, caption, check, mentions, partner, render
from ..tasks.shapes.captions import NUMBERS, named
from ..tasks.shapes.scene import Kind, Scene
from .story import Remedy, case, floats

__all__ = ["sees"]

_GRID = 8  # patches a side
_LONGEST = 40  # tokens of a caption


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
    turned = asking.replies(model, processor, shown, texts, remedy.methods)
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
    after = _told(model, processor, scene, remedy.methods)
    parting = _parting(before.ids, after.ids)
    words = [
        processor.decode(one.ids[parting : parting + 1], skip_special_tokens=True).strip()
        for one in (before, after)
    ]
    asked = [
        asking.pope(model, processor, shown, methods, seed=seed).right
        for methods in ((), remedy.methods)
    ]
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
        hidden=_hidden_patches(model, processor, shown, plain, seed),
        counts=(
            Count(
                "captions that make something up", *_share(_made_up, shown, plain, turned), False
            ),
            Count(
                "captions that leave a thing out", *_share(_left_out, shown, plain, turned), False
            ),
            Count("answers to “is there …?” that are right", *map(floats, asked)),
        ),
    )


@dataclass(frozen=True, eq=False)
class _Told:
    text: str
    ids: list[int]
    looks: list[np.ndarray]  # by generated token: attention on the patches [rows, columns]


def _told(model: Any, processor: Any, scene: Scene, methods: Sequence[Any]) -> _Told:
    """One caption, with the look that chose each of its tokens."""
    inputs = asking.inputs_of(processor, [scene], [asking.DESCRIBE])
    image = inputs["input_ids"] == model.config.image_token_id
    measure = Measure(m.rows([-1]))
    with torch.no_grad(), attach(model, *methods, measure, regions={"image": image}) as run:
        out = model.generate(**inputs, max_new_tokens=_LONGEST, do_sample=False)
    ids = out[0, image.shape[1] :].tolist()
    at = image[0].nonzero().flatten()
    rows = run.results["rows"]
    each = [rows.prefill[:, 0, :, -1]]  # [L, H, S]
    if rows.decode.numel():
        each += list(rows.decode[:, 0].unbind(2))
    looks = [one[..., at].mean((0, 1)).reshape(_GRID, _GRID).numpy() for one in each]
    return _Told(processor.decode(ids, skip_special_tokens=True), ids, looks)


def _seen(label: str, scene: Scene, told: _Told, at: int, word: str) -> Side:
    said, there = mentions(told.text), _there(scene)
    verdict = [(_judged(kind, n, there), n == there[kind]) for kind, n in said.items()]
    verdict += [
        (f"{named(kind, n)}: left out", False) for kind, n in there.items() if kind not in said
    ]
    title = f"where it looked for “{word}”" if word else "where it looked as it stopped"
    looks = (Look(title, told.looks[at], float(told.looks[at].sum())),)
    return Side(label, render(scene), f"“{told.text}”", tuple(verdict), looks)


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


def _hidden_patches(
    model: Any, processor: Any, shown: Sequence[Scene], plain: Sequence[str], seed: int
) -> Table:
    """Is a thing still named when the patches on which it stands are hidden?"""
    rng = random.Random(seed)
    kept = [(scene, kind) for scene, text in zip(shown, plain, strict=True)
            for kind in sorted(set(mentions(text)) & scene.kinds)[:1]]  # fmt: skip
    if not kept:
        return Table(("hidden", "named"), (("nothing was named", "–"),))
    scenes = [scene for scene, _ in kept]
    own, others = [], []
    for scene, kind in kept:
        there = check(render(scene))
        own.append(_patches([one.mask for one in there if one.kind == kind]))
        free = np.flatnonzero(~_patches([one.mask for one in there])).tolist()
        others.append(np.zeros_like(own[-1]))
        others[-1][rng.sample(free, min(int(own[-1].sum()), len(free)))] = True
    rows = [("nothing", f"{len(kept)} of {len(kept)}")]
    for what, patches in (("the patches on which it stands", own), ("as many empty ones", others)):
        told = _blind(model, processor, scenes, np.stack(patches))
        still = sum(kind in mentions(text) for (_, kind), text in zip(kept, told, strict=True))
        rows.append((what, f"{still} of {len(kept)}"))
    return Table(("hidden from attention", "the thing is still named"), tuple(rows))


def _patches(masks: Sequence[np.ndarray]) -> np.ndarray:
    """bool [patches]: those that hold any pixel of the masks."""
    size = masks[0].shape[0] // _GRID
    whole = np.logical_or.reduce(masks)
    return whole.reshape(_GRID, size, _GRID, size).any((1, 3)).reshape(-1)


def _blind(model: Any, processor: Any, shown: Sequence[Scene], patches: np.ndarray) -> list[str]:
    """Captions while patches, bool [scenes, patches], are hidden in the decoder."""
    inputs = asking.inputs_of(processor, shown, [asking.DESCRIBE] * len(shown))
    image = inputs["input_ids"] == model.config.image_token_id
    away = torch.zeros_like(image)
    away[image] = torch.from_numpy(patches).reshape(-1)
    with torch.no_grad(), attach(model, Hide("away"), regions={"away": away}):
        out = model.generate(**inputs, max_new_tokens=_LONGEST, do_sample=False)
    return processor.batch_decode(out[:, image.shape[1] :], skip_special_tokens=True)


def _parting(one: Sequence[int], other: Sequence[int]) -> int:
    """The first generated token in which two answers differ; 0 where none does."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)


def _share(
    judged: Callable[[Scene, str], bool],
    shown: Sequence[Scene],
    *replies: Sequence[str],
) -> tuple[tuple[float, ...], ...]:
    return tuple(floats(map(judged, shown, said)) for said in replies)
