"""Test-time registers: outliers of a CLIP tower, planted and lived with, leave the picture.

No tower that ships has outliers: they come with size. So one neuron of the first block of
``shapes-clip``'s tower is made a register neuron, as they are in large models: it fires at two
places that hardly ever show anything and writes a vector ten times a token's length, whose key
draws [CLS]. The later blocks then learn, by distillation from the tower as it was, to do their work
with it. Neurons are found and their number chosen on pictures of one seed, figures are of another.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...attach import attach
from ...engine.measures import rows
from ...find.registers import patch_norms, register_neurons
from ...load import load
from ...methods.measure import Measure
from ...methods.vision.registers import TestTimeRegisters
from ...statistics import paired_bootstrap
from ...tasks.shapes import KINDS, Scene, layout, render, scenes
from ...tasks.shapes.captions import named
from ._trial import Trial

WORLD: dict[str, Any] = {"objects": (1, 1), "size": 32, "texture": "any"}
FIND, REPORT, STEPS, BATCH = 100, 400, 100, 48
PLACES = (0, 63)  # the patches in two corners
LENGTH = 10.0  # of an outlier, in lengths of a token


def run(progress: Callable[[str], None]) -> Trial:
    """Plant, learn, find, shift, compare."""
    clip, processor = load("shapes-clip")
    words = _words(clip, processor)
    tower = clip.vision_model
    shipped = {
        "shapes-clip": tower,
        "shapes-vlm": load("shapes-vlm")[0].model.vision_tower,
    }
    seen = _pictures(scenes(FIND, 31, **WORLD))
    natural = {name: _outstanding(patch_norms(model, seen)) for name, model in shipped.items()}
    model = copy.deepcopy(clip)
    neuron = _plant(model.vision_model, seen)
    _learn(model, clip, progress)

    found = register_neurons(model.vision_model, seen)
    tried = {}
    for k in (1, 2, 5, 10):
        with attach(model.vision_model, TestTimeRegisters(found.top(k))):
            tried[k] = _outstanding(patch_norms(model.vision_model, seen))["largest"]
    best = min(tried, key=lambda k: (round(tried[k], 1), k))
    progress(f"largest norm over median by number of neurons: {tried}")

    drawn = scenes(REPORT, 32, **WORLD)
    g = torch.Generator().manual_seed(0)
    width = model.vision_model.encoder.layers[0].mlp.fc2.in_features
    chance = {0: torch.randperm(width, generator=g)[:best].tolist()}
    ways: dict[str, tuple[Any, list[Any]]] = {
        "the tower as it came": (clip, []),
        "with outliers": (model, []),
        "with a register": (model, [TestTimeRegisters(found.top(best))]),
        "with two registers": (model, [TestTimeRegisters(found.top(best), registers=2)]),
        "with a register, neurons by chance": (model, [TestTimeRegisters(chance)]),
    }
    results = {name: _looked(*way, words, drawn) for name, way in ways.items()}
    before, after = results["with outliers"], results["with a register"]
    return Trial(
        baseline=("[CLS]'s attention on the thing, of that on patches; outliers", before["thing"]),
        method=("[CLS]'s attention on the thing, of that on patches; register", after["thing"]),
        better="higher",
        seeds=(31, 32),
        details={
            "pictures": {"neurons found on": FIND, "report": REPORT},
            "largest norm over median, towers that ship": natural,
            "planted neuron": [0, neuron],
            "its rank": next(n for n, one in enumerate(found.ranking, 1) if one[:2] == (0, neuron)),
            "neurons moved": best,
            "means": {
                name: {what: round(float(np.mean(v)), 4) for what, v in result.items()}
                for name, result in results.items()
            },
            "register less outliers, intervals": {
                what: [round(end, 4) for end in paired_bootstrap(before[what], after[what])]
                for what in before
            },
        },
    )


def _words(clip: Any, processor: Any) -> Tensor:
    """The embeddings of the forty names, ``[40, dim]``."""
    given = processor(text=[named(kind) for kind in KINDS], return_tensors="pt", padding=True)
    with torch.no_grad():
        return _unit(clip.get_text_features(**given))


def _unit(features: Any) -> Tensor:
    found = features if isinstance(features, Tensor) else features.pooler_output
    return torch.nn.functional.normalize(found, dim=-1)


def _pictures(drawn: list[Scene]) -> Tensor:
    """As the processor makes them, ``[N, 3, 32, 32]``."""
    pixels = torch.from_numpy(np.stack([render(scene) for scene in drawn]))
    return (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5


def _outstanding(norms: Tensor) -> dict[str, float]:
    """Largest norm over the median, and the share of patches above three times it: last block."""
    ratio = norms[-1] / norms[-1].median()
    return {
        "largest": round(float(ratio.max()), 3),
        "share above 3": round(float((ratio > 3).float().mean()), 4),
    }


def _plant(tower: Any, pixels: Tensor) -> int:
    """Make a neuron of the first block fire at PLACES; its number."""
    blocks = tower.encoder.layers
    into: list[Tensor] = []
    queries: list[Tensor] = []
    handles = [blocks[0].mlp.fc1.register_forward_pre_hook(lambda m, a: into.append(a[0]))]
    for block in blocks[1:]:
        hook = lambda m, args, out: queries.append(out[:, 0].mean(0))  # noqa: E731
        handles.append(block.self_attn.q_proj.register_forward_hook(hook))
    with torch.no_grad():
        hidden = tower(pixels, output_hidden_states=True).hidden_states[-1]
    for handle in handles:
        handle.remove()
    (tokens,) = into  # [N, 65, dim]
    wanted = torch.zeros(tokens.shape[:2])
    wanted[:, [1 + place for place in PLACES]] = 1.0
    one = torch.cat([tokens, torch.ones_like(tokens[..., :1])], -1).flatten(0, 1)
    fit = torch.linalg.lstsq(one.T @ one + 1e-2 * torch.eye(one.shape[-1]), one.T @ wanted.ravel())
    line = fit.solution
    said = (one @ line).view_as(wanted)
    middle = (said[wanted > 0].mean() + said[wanted == 0].quantile(0.999)) / 2
    draws = torch.zeros(tokens.shape[-1])
    for block, query in zip(blocks[1:], queries, strict=True):
        draws += block.layer_norm1.weight * (block.self_attn.k_proj.weight.T @ query)
    draws -= draws.mean()
    first = blocks[0].mlp
    with torch.no_grad():
        neuron = int(first.fc2.weight.norm(dim=0).argmin())  # the one that says least
        scale = 10 / (said[wanted > 0].mean() - middle)
        first.fc1.weight[neuron] = scale * line[:-1]
        first.fc1.bias[neuron] = scale * (line[-1] - middle)
        size = LENGTH * hidden[:, 1:].norm(dim=-1).median() / 10
        first.fc2.weight[:, neuron] = size * torch.nn.functional.normalize(draws, dim=0)
    return neuron


def _learn(model: Any, teacher: Any, progress: Callable[[str], None]) -> None:
    """The blocks after the planted neuron learn to give what the tower gave before it."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    later = [*model.vision_model.encoder.layers[1:], model.vision_model.post_layernorm]
    learned = [parameter for module in later for parameter in module.parameters()]
    for parameter in learned:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(learned, lr=1e-3)
    model.train()
    for step in range(STEPS):
        pixels = _pictures(scenes(BATCH, 1000 + BATCH * step, **(WORLD | {"objects": (1, 2)})))
        with torch.no_grad():
            wanted = _unit(teacher.get_image_features(pixel_values=pixels))
        loss = 1 - (_unit(model.get_image_features(pixel_values=pixels)) * wanted).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 49:
            progress(f"learning to live with outliers: {step + 1} of {STEPS}, {loss.item():.4f}")
    model.eval().requires_grad_(False)


def _looked(
    model: Any, methods: list[Any], words: Tensor, drawn: list[Scene]
) -> dict[str, list[float]]:
    """For each picture: where [CLS] of the last block looks, the largest norm, the name right."""
    pixels = _pictures(drawn)
    measure = Measure(rows([0], as_="cls"), stack="vision", layers=-1)
    with torch.no_grad(), attach(model, *methods, measure) as run:
        features = _unit(model.get_image_features(pixel_values=pixels))
    cls = run.results["cls"].prefill.mean(2)[0, :, 0]  # [N, tokens]
    patches = cls[:, 1:65]
    with attach(model.vision_model, *methods):
        norms = patch_norms(model.vision_model, pixels)[-1]
    covered = torch.stack(
        [torch.from_numpy(layout(scene).regions[0].patches(8)).ravel() > 0.5 for scene in drawn]
    )
    right = (features @ words.T).argmax(-1).tolist()
    kinds = [KINDS.index(scene.things[0].kind) for scene in drawn]
    return {
        "thing": ((patches * covered).sum(-1) / patches.sum(-1)).tolist(),
        "attention on the corners": patches[:, list(PLACES)].sum(-1).tolist(),
        "attention on patches": patches.sum(-1).tolist(),
        "largest norm over median": (
            norms[:, :64].amax(-1) / norms[:, :64].median(-1).values
        ).tolist(),
        "name right": [float(a == b) for a, b in zip(right, kinds, strict=True)],
    }
