"""Did it matter? What a model still names when patches are hidden from its decoder."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..attach import attach
from ..methods.hide import Hide
from ..report.vision import Table
from ..tasks.shapes import asking, check, mentions, render
from ..tasks.shapes.scene import Scene

__all__ = ["GRID", "LONGEST", "hidden_patches", "patches"]

GRID = 8  # patches a side
LONGEST = 40  # tokens of a caption


def hidden_patches(
    model: Any, processor: Any, shown: Sequence[Scene], plain: Sequence[str], seed: int
) -> Table:
    """Is a thing still named when the patches on which it stands are hidden?

    Parameters
    ----------
    model, processor
        From ``fv.load("shapes-vlm")``.
    shown : sequence of Scene
    plain : sequence of str
        Their captions as it is; of each the first kind is taken that is named and there.
    seed : int
        Of the empty patches that are hidden for comparison.
    """
    rng = random.Random(seed)
    kept = [(scene, kind) for scene, text in zip(shown, plain, strict=True)
            for kind in sorted(set(mentions(text)) & scene.kinds)[:1]]  # fmt: skip
    if not kept:
        return Table(("hidden", "named"), (("nothing was named", "–"),))
    scenes = [scene for scene, _ in kept]
    own, others = [], []
    for scene, kind in kept:
        there = check(render(scene))
        own.append(patches([one.mask for one in there if one.kind == kind]))
        free = np.flatnonzero(~patches([one.mask for one in there])).tolist()
        others.append(np.zeros_like(own[-1]))
        others[-1][rng.sample(free, min(int(own[-1].sum()), len(free)))] = True
    rows = [("nothing", f"{len(kept)} of {len(kept)}")]
    for what, away in (("the patches on which it stands", own), ("as many empty ones", others)):
        told = _blind(model, processor, scenes, np.stack(away))
        still = sum(kind in mentions(text) for (_, kind), text in zip(kept, told, strict=True))
        rows.append((what, f"{still} of {len(kept)}"))
    return Table(("hidden from attention", "the thing is still named"), tuple(rows))


def patches(masks: Sequence[np.ndarray]) -> np.ndarray:
    """bool [patches]: those that hold any pixel of the masks."""
    size = masks[0].shape[0] // GRID
    whole = np.logical_or.reduce(masks)
    return whole.reshape(GRID, size, GRID, size).any((1, 3)).reshape(-1)


def _blind(model: Any, processor: Any, shown: Sequence[Scene], patches: np.ndarray) -> list[str]:
    """Captions while patches, bool [scenes, patches], are hidden in the decoder."""
    inputs = asking.inputs_of(processor, shown, [asking.DESCRIBE] * len(shown))
    image = inputs["input_ids"] == model.config.image_token_id
    away = torch.zeros_like(image)
    away[image] = torch.from_numpy(patches).reshape(-1)
    with torch.no_grad(), attach(model, Hide("away"), regions={"away": away}):
        out = model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
    return processor.batch_decode(out[:, image.shape[1] :], skip_special_tokens=True)
