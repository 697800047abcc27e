"""ViCrop on shapes-vlm: small things in pictures of 128 pixels, of which the model sees 32.

Map, layers and the size of the crop are chosen by the answers about small things of one seed, and
reported on others. Beside it: a crop at a place drawn blindly, the crop in the picture's place,
large things, and whether the box is on the thing asked for, also where the answer was wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...find.where_to_look import Look, ViCrop, with_crop
from ...load import load
from ...prompt import Prompt
from ...statistics import mcnemar, paired_bootstrap
from ...tasks.answering import replies
from ...tasks.shapes import Scene, Thing, render
from ...tasks.shapes.scene import COLOURS, SHAPES
from ._trial import Trial

SIZE, SMALL, LARGE = 128, (10, 16), (32, 48)  # pixels
TUNED, REPORTED, BATCH, TOKENS = 96, 300, 32, 3
GENERAL = "describe the picture."  # in the words that the model knows
SIDES = (32, 48)
CHOICES: list[tuple[Any, int | None]] = [
    *(("rel_att", layers) for layers in (None, 2)),
    *(("grad_att", layers) for layers in (None, 1)),
    ("pure_grad", None),
]


@dataclass(frozen=True)
class Case:
    """A question about one of three things of one size."""

    scene: Scene
    thing: Thing
    question: str
    answer: str

    @property
    def chat(self) -> list[dict[str, Any]]:
        content = [
            {"type": "image", "image": render(self.scene)},
            {"type": "text", "text": self.question},
        ]
        return [{"role": "user", "content": content}]


def cases(n: int, seed: int, sizes: tuple[int, int]) -> list[Case]:
    """Colour and shape asked for in turns; things differ in both."""
    rng = random.Random(seed)
    made: list[Case] = []
    while len(made) < n:
        size = rng.randint(*sizes)
        low, high = size // 2 + 1, SIZE - size // 2 - 1
        places = [(rng.randint(low, high), rng.randint(low, high)) for _ in range(3)]
        if any(
            max(abs(a[0] - b[0]), abs(a[1] - b[1])) <= size + 2
            for i, a in enumerate(places)
            for b in places[:i]
        ):
            continue
        kinds = zip(rng.sample(SHAPES, 3), rng.sample(list(COLOURS), 3), places, strict=True)
        half = 0.5 * (size % 2)
        things = tuple(Thing(s, c, size, x + half, y + half) for s, c, (x, y) in kinds)
        asked = things[0]
        if len(made) % 2:
            text, answer = f"what colour is the {asked.shape}?", asked.colour
        else:
            text, answer = f"what shape is the {asked.colour} thing?", asked.shape
        made.append(Case(Scene(things, SIZE), asked, text, answer))
    return made


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    model, processor = load("shapes-vlm")
    held = cases(TUNED, 1, SMALL)
    curve: dict[tuple[Any, int | None, int], float] = {}
    for maps, layers in CHOICES:
        for side in SIDES:
            progress(f"{maps}, layers {layers}, side {side}")
            method = ViCrop(maps, GENERAL, layers, side, batch_size=BATCH)
            said = method.generate(model, processor, [case.chat for case in held], TOKENS)
            curve[maps, layers, side] = sum(rights(held, said)) / TUNED
    best = max(curve, key=lambda key: curve[key])
    method = ViCrop(best[0], GENERAL, best[1], best[2], batch_size=BATCH)

    details: dict[str, Any] = {}
    right: dict[str, dict[str, list[float]]] = {}
    for n, (name, sizes) in enumerate({"small": SMALL, "large": LARGE}.items()):
        progress(f"{REPORTED} questions about {name} things")
        asked = cases(REPORTED, 2 + n, sizes)
        chats = [case.chat for case in asked]
        looks = method.look(model, processor, chats)
        blindly = shuffled(looks, asked)
        told = {
            "base": chats,
            "crop beside": [with_crop(c, k.crop, True) for c, k in zip(chats, looks, strict=True)],
            "crop alone": [with_crop(c, k.crop, False) for c, k in zip(chats, looks, strict=True)],
            "blind crop beside": [
                with_crop(c, k, True) for c, k in zip(chats, blindly, strict=True)
            ],
        }
        right[name] = {how: rights(asked, answers(model, processor, t)) for how, t in told.items()}
        details[name] = {
            "accuracy": {how: round(sum(r) / REPORTED, 4) for how, r in right[name].items()},
            "beside less base": interval(right[name]["base"], right[name]["crop beside"]),
            "box": boxes(looks, asked, right[name]["base"]),
        }
    small = right["small"]
    return Trial(
        baseline=("accuracy on small things, the picture alone", small["base"]),
        method=(
            f"accuracy, {best[0]} with layers {best[1] if best[1] is not None else 'all'} and "
            f"crops from {best[2]} pixels beside the picture",
            small["crop beside"],
        ),
        better="higher",
        seeds=(1, 2, 3),
        details={
            "items": {"tuning": TUNED, "reported, of each size": REPORTED},
            **details,
            "against a crop drawn blindly": interval(
                small["blind crop beside"], small["crop beside"]
            ),
            "McNemar p": mcnemar(small["base"], small["crop beside"]),
            "accuracy while choosing": {
                f"{maps}, {layers}, {side}": round(value, 4)
                for (maps, layers, side), value in curve.items()
            },
        },
    )


def answers(model: Any, processor: Any, chats: Sequence[Any]) -> list[str]:
    found: list[str] = []
    for start in range(0, len(chats), BATCH):
        prompt = Prompt(processor, chats[start : start + BATCH], padding_side="left")
        with torch.no_grad():
            found += replies(model, prompt, TOKENS)
    return found


def rights(asked: Sequence[Case], told: Sequence[str]) -> list[float]:
    return [float(reply == case.answer) for case, reply in zip(asked, told, strict=True)]


def shuffled(looks: Sequence[Look], asked: Sequence[Case]) -> list[Any]:
    """Crops of the same sizes at the places of other items."""
    crops = []
    for look, case in zip([*looks[1:], looks[0]], asked, strict=True):
        x0, y0, x1, y1 = look.box
        crops.append(render(case.scene)[y0:y1, x0:x1])
    return crops


def boxes(looks: Sequence[Look], asked: Sequence[Case], right: Sequence[float]) -> dict[str, Any]:
    """Share of the thing that is in the box, and what a box put down blindly would have."""
    on = [inside(look.box, case.thing.box) for look, case in zip(looks, asked, strict=True)]
    off = [
        inside(look.box, case.thing.box)
        for look, case in zip([*looks[1:], looks[0]], asked, strict=True)
    ]
    wrong = [i for i, one in enumerate(right) if not one]
    area = [(k.box[2] - k.box[0]) * (k.box[3] - k.box[1]) / SIZE**2 for k in looks]
    return {
        "share of the picture": round(sum(area) / len(area), 4),
        "of the thing inside": interval(off, on),
        "where the answer was wrong": {
            "items": len(wrong),
            **(interval([off[i] for i in wrong], [on[i] for i in wrong]) if wrong else {}),
        },
    }


def inside(box: Sequence[int], thing: Sequence[int]) -> float:
    """Share of a thing's box that lies in another."""
    wide = min(box[2], thing[2]) - max(box[0], thing[0])
    high = min(box[3], thing[3]) - max(box[1], thing[1])
    return max(wide, 0) * max(high, 0) / ((thing[2] - thing[0]) * (thing[3] - thing[1]))


def interval(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    """Means of both, and what the second has more."""
    low, high = paired_bootstrap(list(a), list(b))
    means = [round(sum(x) / len(x), 4) for x in (a, b)]
    return {"without": means[0], "with": means[1], "interval": [round(low, 4), round(high, 4)]}
