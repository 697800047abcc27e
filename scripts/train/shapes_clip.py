"""Train shapes-clip: a CLIP pair of 0.5 M parameters for pictures of shapes and their captions.

    python scripts/train/shapes_clip.py               # trains; run again to resume
    python scripts/train/shapes_clip.py --export --evaluate    # into the package

Its vision tower starts as that of shapes-vlm (--tower, a checkpoint of that script), if there.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from _common import SHIPPED, arguments, export, fit, note, parameters, pictures
from _vlm import processor_of, tokenizer_of_the_world
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from foveate.load import home, load
from foveate.tasks.shapes import KINDS, Scene, caption, rate, scenes
from foveate.tasks.shapes.captions import named

WORLD: dict[str, Any] = {"objects": (1, 2), "size": 32, "texture": "any", "repeats": 0.0}
HELD_OUT = 1_000_000_000  # seeds from here on are never trained on
NAME = SHIPPED / "shapes-clip"
CARD = """
A CLIP pair (CLIPModel) for pictures of 32 × 32 pixels of the world of shapes (docs/shapes.md) and
their captions, of one or two things. Loaded by `fv.load("shapes-clip")`, made by
`scripts/train/shapes_clip.py`. Its vision tower began as that of shapes-vlm, which had learnt what
lies under each patch.

It can name one thing and find a caption. Whether it knows whose colour is whose is among the
figures: captions in which two things exchange their colours. It knows no other words.
"""


def processor() -> CLIPProcessor:
    """The VLM's words and pictures; a caption is wrapped in <s> and </s>, padded on the right."""
    tokenizer = tokenizer_of_the_world()
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", start), ("</s>", end)]
    )
    tokenizer.padding_side, tokenizer.model_max_length = "right", 32
    return CLIPProcessor(processor_of(tokenizer).image_processor, tokenizer)


def build(tokenizer: Any, tower: Path) -> CLIPModel:
    """The model, untrained but for its vision tower, if that is at hand."""
    torch.manual_seed(0)
    layers = {"num_hidden_layers": 3, "num_attention_heads": 6}
    config = CLIPConfig(
        vision_config={
            "hidden_size": 96,
            "intermediate_size": 192,
            "image_size": 32,
            "patch_size": 4,
            **layers,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 96,
            "intermediate_size": 192,
            "max_position_embeddings": 32,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            **layers,
        },
        projection_dim=64,
    )
    model = CLIPModel(config)
    if tower.exists():
        learnt = torch.load(tower, weights_only=True)["model"]
        own = {k.removeprefix("tower."): v for k, v in learnt.items() if k.startswith("tower.")}
        names = {k.removeprefix("vision_model."): v for k, v in own.items()}
        model.vision_model.load_state_dict(names)
        print(f"vision tower from {tower}", flush=True)
    return model


def main() -> None:
    parser = arguments("shapes-clip", __doc__, steps=1500, batch=96)
    tower = home() / "training" / "shapes-vlm" / "tower.pt"
    parser.add_argument("--tower", type=Path, default=tower)
    options = parser.parse_args()
    both = processor()
    model = build(both.tokenizer, options.tower)
    file = options.folder / "model.pt"
    if not (options.export or options.evaluate):
        print(f"{parameters(model):,} parameters, checkpoints in {options.folder}", flush=True)

        def compare(step: int) -> dict[str, Tensor]:
            drawn = scenes(options.batch, step, **WORLD)
            texts = [caption(scene, seed=step, style="any") for scene in drawn]
            words = both.tokenizer(texts, padding=True, return_tensors="pt")
            out = model(**words, pixel_values=pictures(drawn), return_loss=True)
            here = torch.arange(len(drawn))
            right = (out.logits_per_image.argmax(-1) == here).float().mean().detach()
            return {"loss": out.loss, "right": right}

        minutes = options.minutes
        done = fit(model, compare, steps=options.steps, rate=1e-3, file=file, minutes=minutes)
        print("done" if done else "stopped; run it again to resume", flush=True)
    if options.export:
        export(model, file, NAME, both, CARD, **{"pictures a step": options.batch})
    if options.evaluate:
        figures = measured(*load("shapes-clip"))
        note(NAME, CARD, held_out=figures)
        print(json.dumps(figures, indent=1), flush=True)


def scored(model: Any, both: Any, drawn: list[Scene], texts: list[str]) -> Tensor:
    """Similarity of each scene's picture to each text, ``[scenes, texts]``."""
    words = both.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**words, pixel_values=pictures(drawn)).logits_per_image


def measured(model: Any, both: Any) -> dict[str, Any]:
    """Naming one thing among forty, finding a caption among 100, and whose colour is whose."""
    one = scenes(1000, HELD_OUT, objects=(1, 1), texture="any")
    names = scored(model, both, one, [named(kind) for kind in KINDS]).argmax(-1).tolist()
    right = [KINDS[i] == s.things[0].kind for i, s in zip(names, one, strict=True)]
    found = []
    for start in range(10):
        some = scenes(100, HELD_OUT + 1 + start, **WORLD)
        texts = [caption(scene) for scene in some]
        best = scored(model, both, some, texts).argmax(-1).tolist()
        found += [texts[i] == texts[j] for j, i in enumerate(best)]
    two = [s for s in scenes(2000, HELD_OUT + 20, **(WORLD | {"objects": (2, 2)}))]
    two = [s for s in two if len({t.colour for t in s.things} | {t.shape for t in s.things}) == 4]
    bound = []
    for scene in two[:500]:
        a, b = scene.things
        said = f"{named(a.kind)} and {named(b.kind)}"
        turned = f"{named((a.shape, b.colour))} and {named((b.shape, a.colour))}"
        own, other = scored(model, both, [scene], [said, turned])[0].tolist()
        bound.append(own > other)
    return {
        "one thing named among forty": asdict(rate(right)),
        "caption found among 100": asdict(rate(found)),
        "colours not exchanged between two things": asdict(rate(bound)),
    }


if __name__ == "__main__":
    main()
