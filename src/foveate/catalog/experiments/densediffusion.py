"""DenseDiffusion: are things drawn where a layout wants them?

Captions of two things with a box for each, drawn by shapes-dit and read by the checker: the mean
intersection over union of the boxes, 0 for a thing that is not there. How long it acts and the
weight among image tokens are chosen on layouts and noise of one seed and reported on those of
another. Beside it: the IoU of things that are there alone, and what it costs in
things that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...load import load
from ...methods.diffusion import DenseDiffusion
from ...tasks.shapes import check, layout, layout_iou, mentions, scenes
from ...tasks.shapes.drawing import DRAWN, drawn, judged
from ...tasks.shapes.layouts import Layout
from ._trial import Trial

TUNING, REPORT = 40, 128
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "the paper's": {},
    "all steps, 0.6 among the image": {"until": 1.0, "on_image": 0.6},
    "all steps, 1 among the image": {"until": 1.0, "on_image": 1.0},
    "all steps, 0.6 among the image, background": {
        "until": 1.0, "on_image": 0.6, "background": True,
    },
}  # fmt: skip


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    pipe, _ = load("shapes-dit")
    tuning, report = layouts(TUNING, 21), layouts(REPORT, 22)
    tried = {}
    for name, setting in SETTINGS.items():
        progress(f"{TUNING} pictures: {name}")
        method = DenseDiffusion(segments(tuning), **setting)
        tried[name] = _figures(tuning, _draw(pipe, tuning, 100, method))
    plain = _figures(tuning, _draw(pipe, tuning, 100))
    best = max(tried, key=lambda name: tried[name]["IoU"])
    progress(f"{REPORT} pictures, plain")
    base = _draw(pipe, report, 200)
    progress(f"{REPORT} pictures: {best}")
    dense = _draw(pipe, report, 200, DenseDiffusion(segments(report), **SETTINGS[best]))
    return Trial(
        baseline=("IoU with the layout, plain", overlap(report, base)),
        method=(f"IoU with the layout, DenseDiffusion ({best})", overlap(report, dense)),
        better="higher",
        seeds=(21, 22),
        details={
            "layouts": {"tuning": TUNING, "report": REPORT},
            "tuning": {"plain": plain, **tried},
            "report": {"plain": _figures(report, base), "dense": _figures(report, dense)},
        },
    )


def layouts(n: int, seed: int) -> list[Layout]:
    """Layouts of two things of kinds that the model knows."""
    made = scenes(40 * n, seed, objects=(2, 2), repeats=0.0)
    known = [s for s in made if len(s.kinds) == 2 and s.kinds <= set(DRAWN)]
    return [layout(scene) for scene in known[:n]]


def segments(asked: Sequence[Layout]) -> dict[str, np.ndarray]:
    """The box of the first and of the second thing of each caption, bool ``[N, H, W]``."""
    found: dict[str, list[np.ndarray]] = {"thing 1": [], "thing 2": []}
    for one in asked:
        for number, kind in enumerate(mentions(one.caption), start=1):
            region = next(region for region in one.regions if region.kind == kind)
            height, width = region.mask.shape
            x0, y0, x1, y1 = region.box
            box = np.zeros_like(region.mask)
            box[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)] = 1
            found[f"thing {number}"].append(box)
    return {name: np.stack(boxes) for name, boxes in found.items()}


def overlap(asked: Sequence[Layout], pictures: Sequence[Any]) -> list[float]:
    """The IoU of each picture's boxes with its layout's."""
    return [layout_iou(check(picture), one) for one, picture in zip(asked, pictures, strict=True)]


def _draw(pipe: Any, asked: Sequence[Layout], seed: int, *methods: Any) -> list[Any]:
    texts = [one.caption for one in asked]
    return drawn(pipe, texts, methods, seed=seed, batch=len(texts))


def _figures(asked: Sequence[Layout], pictures: Sequence[Any]) -> dict[str, float]:
    told = judged([one.caption for one in asked], pictures)
    there = [
        layout_iou([thing], Layout(one.caption, (region,)))
        for one, picture in zip(asked, pictures, strict=True)
        for region in one.regions
        for thing in check(picture)
        if thing.kind == region.kind
    ]
    return {
        "IoU": round(float(np.mean(overlap(asked, pictures))), 4),
        "IoU of things that are there": round(float(np.mean(there)), 4) if there else 0.0,
        "things right": round(sum(one.right for one in told) / (2 * len(told)), 4),
        "both there": round(sum(one.right == 2 for one in told) / len(told), 4),
        "others a picture": round(sum(one.extra for one in told) / len(told), 4),
    }
