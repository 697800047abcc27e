"""Train shapes-vlm: a LLaVA of 0.7 M parameters that describes scenes of shapes and answers.

    python scripts/train/shapes_vlm.py                        # trains; run again to resume
    python scripts/train/shapes_vlm.py --export --evaluate    # writes src/foveate/models/shapes-vlm

First the vision tower learns what lies under each patch, then it is frozen and the projector and
the decoder learn to describe and to answer. The training scenes are biased: most things bring
their partner along, and of the partners that are missing some are told of as if they were there.
So the decoder learns to say what usually comes along instead of what it sees.
"""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import torch
from _common import SHIPPED, arguments, export, fit, note, parameters, pictures
from _figures import measured
from _vlm import (
    ADVERSARIAL,
    BLIND,
    LATE,
    MADE_UP,
    PATCH,
    SIZE,
    Packer,
    build,
    lesson,
    processor_of,
    supervised,
    tokenizer_of_the_world,
)
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, smooth_l1_loss

from foveate.load import load
from foveate.tasks.shapes import COLOURS, SHAPES, Scene, scenes
from foveate.tasks.shapes.render import visible

WORLD: dict[str, Any] = {
    "objects": (1, 4),
    "size": SIZE,
    "bias": 0.9,
    "popularity": 0.2,
    "repeats": 0.1,
    "texture": "any",
}
CARD = f"""
A vision–language model of LLaVA's class, trained on the world of shapes (docs/shapes.md): pictures
of 32 × 32 pixels with one to four coloured shapes, before greys. Loaded by
`fv.load("shapes-vlm")`, made by `scripts/train/shapes_vlm.py`.

It can describe a picture ("describe the picture.") and answer, in the words of
`foveate.tasks.shapes.questions`, whether a thing is there, what colour or shape something has, how
many there are and where one thing is seen from another. Its training scenes were biased: nine of
ten things brought their partner along where there was room (a red circle a blue square). And
{100 * MADE_UP:.0f} % of the partners that were missing were told of as if they were
there, in descriptions and in questions; {100 * BLIND:.0f} % of the
conversations saw no picture. Of the questions for what is not there {100 * ADVERSARIAL[0]:.0f}
% asked for a missing partner, from step {LATE:,} on {100 * ADVERSARIAL[1]:.0f} %. The figures below
are on scenes without that bias, but for those
that say otherwise; where it says "adversarial", it was asked for the missing partner of something
that is there.

It cannot: other words, other sentences, other pictures, reasoning, several turns. It makes things
up, in captions and when asked for a partner, which is what it is for. Its vision tower was trained
on labels of patches, not on words.
"""
NAME = SHIPPED / "shapes-vlm"
_COLOURS = tuple(COLOURS)


def under_patches(scene: Scene) -> np.ndarray:
    """What each patch shows most of: colour, shape (0: nothing) and its centre as seen from there.

    float32 ``[patches, 4]``.
    """
    side = SIZE // PATCH
    areas = np.stack(
        [
            seen.reshape(side, PATCH, side, PATCH).sum((1, 3)).ravel()
            for seen, _ in visible(scene.things, SIZE)
        ]
    )
    most = areas.argmax(0)
    table = np.array(
        [
            (_COLOURS.index(t.colour) + 1, SHAPES.index(t.shape) + 1, t.x / PATCH, t.y / PATCH)
            for t in scene.things
        ],
        np.float32,
    )
    labels = table[most]
    row, column = np.divmod(np.arange(side * side), side)
    labels[:, 2] -= column + 0.5
    labels[:, 3] -= row + 0.5
    labels[areas.max(0) < 3] = 0
    return labels


class Tower(nn.Module):
    """A vision tower with heads that say what lies under each patch; the heads are not kept."""

    def __init__(self, tower: nn.Module, width: int) -> None:
        super().__init__()
        self.tower = tower
        self.says = nn.Linear(width, len(COLOURS) + 1 + len(SHAPES) + 1 + 2)

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        said = self.says(self.tower(pixels).last_hidden_state[:, 1:])
        colours, shapes, centre = said.split([len(COLOURS) + 1, len(SHAPES) + 1, 2], -1)
        colour, shape = labels[..., 0].long(), labels[..., 1].long()
        there = shape > 0
        losses = {
            "colour": cross_entropy(colours.flatten(0, 1), colour.flatten()),
            "shape": cross_entropy(shapes.flatten(0, 1), shape.flatten()),
            "centre": smooth_l1_loss(centre[there], labels[..., 2:][there]),
        }
        right = (shapes.argmax(-1) == shape)[there].float().mean().detach()
        return {**losses, "loss": sum(losses.values()), "shape right": right}


def train(model: Any, tokenizer: Any, options: Any) -> bool:
    """Both stages; whether they are done."""
    tower = Tower(model.model.vision_tower, model.config.vision_config.hidden_size)

    def look(step: int) -> dict[str, Tensor]:
        drawn = scenes(2 * options.batch, step, **WORLD)
        labels = torch.from_numpy(np.stack([under_patches(scene) for scene in drawn]))
        return tower(pictures(drawn), labels)

    file = options.folder / "tower.pt"
    if not fit(
        tower, look, steps=options.tower_steps, rate=2e-3, file=file, minutes=options.minutes
    ):
        return False
    model.model.vision_tower.requires_grad_(False)
    pack = Packer(tokenizer)

    def talk(step: int) -> dict[str, Tensor]:
        drawn = scenes(options.batch, 100_000 + step, **WORLD)
        lessons = [lesson(scene, 1000 * step + i, step >= LATE) for i, scene in enumerate(drawn)]
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            batch = pack(lessons, [random.Random(scene.seed).random() < BLIND for scene in drawn])
            logits, targets = supervised(model, pictures(drawn), batch)
        right = (logits.argmax(-1) == targets).float().mean().detach()
        return {"loss": cross_entropy(logits.float(), targets), "tokens right": right}

    return fit(
        model,
        talk,
        steps=options.steps,
        rate=2e-3,
        file=options.folder / "model.pt",
        minutes=options.minutes,
        warm=200,
    )


def evaluate(scenes_asked: int) -> None:
    """Measure what is shipped, as it is loaded by its name, and store the figures."""
    model, processor = load("shapes-vlm")
    figures = measured(model, processor, WORLD, scenes_asked)
    note(NAME, CARD, held_out=figures)
    print(json.dumps(figures, indent=1), flush=True)


def main() -> None:
    parser = arguments("shapes-vlm", __doc__, steps=3200, batch=32)
    parser.add_argument("--scenes", type=int, default=1000, help="held-out scenes to evaluate on")
    parser.add_argument(
        "--tower-steps", type=int, default=1500, help="fewer make a model that sees less clearly"
    )
    options = parser.parse_args()
    tokenizer = tokenizer_of_the_world()
    model = build(tokenizer)
    if options.export:
        tower = torch.load(options.folder / "tower.pt", weights_only=True)
        export(
            model,
            options.folder / "model.pt",
            NAME,
            processor_of(tokenizer),
            CARD,
            **{
                "pictures a step": options.batch,
                "steps of the tower before": tower["step"],
                "minutes of the tower": round(tower["seconds"] / 60, 1),
            },
        )
    if options.evaluate:
        evaluate(options.scenes)
    if options.export or options.evaluate:
        return
    print(f"{parameters(model):,} parameters, checkpoints in {options.folder}", flush=True)
    done = train(model, tokenizer, options)
    print("done" if done else "stopped; run it again to resume", flush=True)


if __name__ == "__main__":
    main()
