"""Train shapes-vit: a ViT of 0.2 M parameters that names the one thing in a picture.

    python scripts/train/shapes_vit.py                        # trains; run again to resume
    python scripts/train/shapes_vit.py --export --evaluate    # writes src/foveate/models/shapes-vit

Forty classes, shape × colour. The norms of its tokens are recorded with the figures: whether some
patches stand out as they do in large vision transformers.

References
----------
Darcet et al., "Vision Transformers Need Registers", 2023, section 2.1: outliers among the norms of
output tokens, of ViT-L and larger, after a third of the training.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from _common import SHIPPED, arguments, export, fit, note, parameters, pictures
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from foveate.load import load
from foveate.tasks.shapes import KINDS, Scene, rate, scenes

WORLD: dict[str, Any] = {"objects": (1, 1), "size": 32, "texture": "any"}
HELD_OUT = 1_000_000_000  # seeds from here on are never trained on
NAME = SHIPPED / "shapes-vit"
CARD = """
A vision transformer (ViTForImageClassification) that names the one thing in a picture of 32 × 32
pixels of the world of shapes (docs/shapes.md): forty classes, colour and shape. Loaded by
`fv.load("shapes-vit")`, made by `scripts/train/shapes_vit.py`.

It cannot tell several things apart, or that there is none. The norms of its tokens are among the
figures: "largest over median" far above 1 would be the outliers that large vision transformers
have.
"""
CLASSES = [f"{colour} {shape}" for shape, colour in KINDS]


def build() -> ViTForImageClassification:
    """The model, untrained."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=32,
        patch_size=4,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_labels=len(CLASSES),
        id2label=dict(enumerate(CLASSES)),
        label2id={name: index for index, name in enumerate(CLASSES)},
    )
    return ViTForImageClassification(config)


def classes(drawn: list[Scene]) -> Tensor:
    """The class of each scene's one thing."""
    return torch.tensor([KINDS.index(scene.things[0].kind) for scene in drawn])


def norms(model: Any, pixels: Tensor) -> dict[str, float]:
    """How far the norms of the last layer's patch tokens lie apart."""
    with torch.no_grad():
        out = model.vit(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
    sizes = out.norm(dim=-1).numpy()
    middle = float(np.median(sizes))
    return {
        "median": round(middle, 2),
        "largest over median": round(float(sizes.max()) / middle, 2),
        "share above twice the median": round(float((sizes > 2 * middle).mean()), 4),
        "share above five times the median": round(float((sizes > 5 * middle).mean()), 4),
    }


def main() -> None:
    parser = arguments("shapes-vit", __doc__, steps=1500, batch=64)
    options = parser.parse_args()
    model = build()
    file = options.folder / "model.pt"
    if not (options.export or options.evaluate):
        print(f"{parameters(model):,} parameters, checkpoints in {options.folder}", flush=True)

        def look(step: int) -> dict[str, Tensor]:
            drawn = scenes(options.batch, step, **WORLD)
            labels = classes(drawn)
            logits = model(pixel_values=pictures(drawn)).logits
            right = (logits.argmax(-1) == labels).float().mean().detach()
            return {"loss": cross_entropy(logits, labels), "right": right}

        seen = pictures(scenes(500, HELD_OUT, **WORLD))

        def watch(step: int) -> None:
            if step % 500 == 0:
                with file.with_name("norms.jsonl").open("a", encoding="utf-8") as curve:
                    print(json.dumps({"step": step} | norms(model, seen)), file=curve)

        done = fit(
            model,
            look,
            steps=options.steps,
            rate=1e-3,
            file=file,
            minutes=options.minutes,
            also=watch,
        )
        print("done" if done else "stopped; run it again to resume", flush=True)
    if options.export:
        images = ViTImageProcessorPil(
            size={"height": 32, "width": 32}, resample=0, image_mean=[0.5] * 3, image_std=[0.5] * 3
        )
        export(model, file, NAME, images, CARD, **{"pictures a step": options.batch})
    if options.evaluate:
        figures = measured(load("shapes-vit")[0])
        curve = options.folder / "norms.jsonl"
        figures["largest norm over median, by step of the training"] = {
            str(line["step"]): line["largest over median"]
            for line in map(json.loads, curve.read_text(encoding="utf-8").splitlines())
        }
        note(NAME, CARD, held_out=figures)
        print(json.dumps(figures, indent=1), flush=True)


def measured(model: nn.Module) -> dict[str, Any]:
    """Accuracy on scenes it was not trained on, and the norms of its tokens."""
    drawn = scenes(2000, HELD_OUT, **WORLD)
    with torch.no_grad():
        said = model(pixel_values=pictures(drawn)).logits.argmax(-1).tolist()
    kinds = [scene.things[0].kind for scene in drawn]
    named = [KINDS[index] for index in said]
    pairs = list(zip(named, kinds, strict=True))
    return {
        "right": asdict(rate([a == b for a, b in pairs])),
        "shape right": asdict(rate([a[0] == b[0] for a, b in pairs])),
        "colour right": asdict(rate([a[1] == b[1] for a, b in pairs])),
        "norms of the last layer's patch tokens": norms(model, pictures(drawn[:500])),
    }


if __name__ == "__main__":
    main()
