"""VAR on shapes-vlm: captions that make things up, and adversarial questions.

Layers, ``p`` and ``tau`` are chosen on captions of one seed and reported on another, beside the
authors' settings. Beside it: does hiding the sinks change less than hiding as many other patches,
and does the redistribution raise the attention on the patches of what is asked for?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...attach import attach
from ...engine.measures import mass
from ...find.visual_sinks import find_visual_sinks
from ...load import load
from ...methods.hide import Hide
from ...methods.measure import Measure
from ...methods.vision.var import VAR
from ...tasks.shapes import Question, Scene
from ...tasks.shapes.asking import inputs_of
from ...tasks.shapes.render import visible
from ._shown import asked_about, difference, fair, told, tuned
from ._trial import Trial

TUNED, ASKED, DESCRIBED, LOOKED = 96, 150, 400, 64  # scenes
LAYERS, KEPT = ([1], [2], [2, 3], [0, 1, 2, 3]), (0.6, 0.0)
RARE = 0.9  # the quantile of the patches beyond which a stricter tau has them
AUTHORS = "VAR as the authors set it"
SIDE = 8  # patches


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    model, processor = load("shapes-vlm")
    held, asked, described = fair(TUNED, 10), fair(ASKED, 20), fair(DESCRIBED, 30)
    inputs, image = _shown(model, processor, asked_about(held, 0)[:LOOKED])
    sinks = find_visual_sinks(model, inputs, regions={"image": image})
    strict = round(float(sinks.values[:, image].quantile(RARE)), 2)
    tried = {
        f"p={p:g}, tau={tau:.3g} in layers {layers}": VAR(sinks.dims, p, tau=tau, layers=layers)
        for tau in (sinks.tau, strict)
        for layers in LAYERS
        for p in KEPT
    }
    options = {name: {"methods": [method]} for name, method in tried.items()}
    best, curve = tuned(model, processor, held, options, progress)
    variants = {"base": {}, "VAR": options[best], AUTHORS: {"methods": [VAR(sinks.dims)]}}
    false, right, figures = told(model, processor, described, asked, 0, variants, progress)
    progress("sinks hidden, and as many other patches")
    report = asked_about(asked, 0)
    return Trial(
        baseline=("made up of the kinds a caption names, unedited", false["base"]),
        method=(f"made up, VAR with {best}", false["VAR"]),
        better="lower",
        seeds=(10, 20, 30),
        details={
            "scenes": {"tuning": TUNED, "asked": ASKED, "described": DESCRIBED},
            "figures": figures,
            "accuracy on adversarial questions, VAR less base": difference(
                right["base"], right["VAR"]
            ),
            "made up a caption, less base": {
                name: difference(false["base"], found) for name, found in false.items()
            },
            "made up while choosing": curve,
            "sinks": {
                "dimensions": list(sinks.dims),
                "share of the patches, by layer": _rounded(
                    (sinks.sinks & image).sum((1, 2)) / image.sum()
                ),
                "share of the attention to the picture, by layer": _rounded(
                    sinks.share.nanmean((1, 2))
                ),
            },
            "hidden": _hidden(model, processor, report[:256], sinks.dims),
            "attention on what is asked for": _attended(
                model, processor, report[: 2 * LOOKED], tried[best]
            ),
        },
    )


def _shown(
    model: Any, processor: Any, pairs: Sequence[tuple[Scene, Question]]
) -> tuple[dict[str, Any], Tensor]:
    inputs = inputs_of(processor, [s for s, _ in pairs], [q.text for _, q in pairs])
    return inputs, inputs["input_ids"] == model.config.image_token_id


@torch.no_grad()
def _hidden(
    model: Any, processor: Any, pairs: Sequence[tuple[Scene, Question]], dims: Sequence[int]
) -> dict[str, Any]:
    """Accuracy with the sinks hidden, and with as many patches drawn blindly."""
    token = processor.tokenizer.convert_tokens_to_ids
    generator = torch.Generator().manual_seed(0)
    right: dict[str, list[float]] = {}
    shares = []
    for start in range(0, len(pairs), LOOKED):
        part = pairs[start : start + LOOKED]
        inputs, image = _shown(model, processor, part)
        found = find_visual_sinks(model, inputs, regions={"image": image}, dims=dims).sinks[2]
        shares.append(float(found.sum() / image.sum()))
        luck = torch.rand(image.shape, generator=generator).masked_fill(~image, -1.0)
        order = luck.argsort(-1, descending=True).argsort(-1)
        regions = {"sinks": found, "as many": order < found.sum(-1, keepdim=True)}
        answers = torch.tensor([token(q.answer) for _, q in part])
        behind = {"behind": torch.arange(image.shape[1]) > int(image.nonzero()[:, 1].max())}
        for name in ("nothing", *regions):
            methods = [] if name == "nothing" else [Hide(name, queries="behind")]
            with attach(model, *methods, regions=regions | behind):
                said = model(**inputs).logits[:, -1].argmax(-1)
            right.setdefault(name, []).extend((said == answers).float().tolist())
    return {
        "share of the patches": round(sum(shares) / len(shares), 3),
        "accuracy": {name: round(sum(r) / len(r), 4) for name, r in right.items()},
        "sinks less as many": difference(right["as many"], right["sinks"]),
    }


@torch.no_grad()
def _attended(
    model: Any, processor: Any, pairs: Sequence[tuple[Scene, Question]], method: VAR
) -> dict[str, Any]:
    """Mass of the last token on the patches of the thing asked for, in the method's layers."""
    there = [(s, q) for s, q in pairs if q.answer == "yes"]
    inputs, image = _shown(model, processor, there)
    thing = torch.zeros_like(image)
    for row, (scene, question) in enumerate(there):
        thing[row, image[row]] = _patches(scene, question)
    seen = []
    for methods in ([], [method]):
        look = Measure(mass("thing"), layers=method.scope.layers)
        with attach(model, *methods, look, regions={"image": image, "thing": thing}) as run:
            model(**inputs)
        seen.append(run.results["mass:thing"].prefill[..., -1].mean((0, 2)).tolist())
    means = [round(sum(x) / len(x), 4) for x in seen]
    return {"unedited": means[0], "VAR": means[1], "interval": difference(*seen)["interval"]}


def _patches(scene: Scene, question: Question) -> Tensor:
    """Patches with a pixel of the thing asked for, bool ``[64]``."""
    size = scene.size // SIDE
    found = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    for thing, (seen, _) in zip(scene.things, visible(scene.things, scene.size), strict=True):
        if thing.kind in question.about:
            found |= torch.from_numpy(seen.reshape(SIDE, size, SIDE, size).any((1, 3)))
    return found.flatten()


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 3) for value in values.tolist()]
