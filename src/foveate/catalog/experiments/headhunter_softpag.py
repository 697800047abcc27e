"""SoftPAG at hunted heads: what a model draws without classifier-free guidance, as scales grow.

Prompts for one thing and for two, drawn by shapes-dit without classifier-free guidance, and read by
the checker: the F1 of the things in a picture against those asked for. Heads are hunted, and scale
and strength chosen, on prompts and noise of one seed and reported on those of another. Beside it:
the curve over the scale, where the paper's pictures get better and then are over-driven; the layer
that was best as a whole; heads drawn blindly, as many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from ...find.hunting import head_hunter
from ...load import load
from ...methods.diffusion.pag import PAG
from ...statistics import paired_bootstrap
from ...tasks.shapes.drawing import drawn, judged, prompts
from ...tasks.shapes.scores import Binding
from ._trial import Trial

TUNING, REPORT, CURVE = 16, 96, 32
STEPS, SCALE = 10, 3.0
HEADS, ROUNDS = 2, 2
STRENGTHS = (1.0, 0.5)
SCALES = (1.0, 3.0, 6.0, 12.0, 24.0)


def quality(told: Binding) -> float:
    """F1 of the things that are there against those asked for."""
    asked = told.right + told.leaked + told.neglected
    there = told.right + told.leaked + told.extra
    return 2 * told.right / (asked + there)


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    pipe, _ = load("shapes-dit")
    pipe.set_progress_bar_config(disable=True)

    def scores(
        texts: Sequence[str], *methods: Any, seed: int, guidance: float = 1.0
    ) -> list[float]:
        pictures = drawn(pipe, texts, methods, steps=STEPS, guidance=guidance, seed=seed)
        return [quality(told) for told in judged(texts, pictures)]

    tuning, report = asked(TUNING, 1), asked(REPORT, 2)
    hunt = head_hunter(
        pipe,
        tuning,
        lambda texts, pictures: [quality(told) for told in judged(texts, pictures)],
        rounds=ROUNDS,
        per_round=HEADS,
        guide={"scale": SCALE},
        seed=1000,
        progress=progress,
        num_inference_steps=STEPS,
        guidance_scale=1.0,
    )
    depth, heads = hunt.scores.layers, hunt.heads
    progress("scale and strength on the prompts of the hunt")
    tried = {
        (scale, strength): mean(
            scores(tuning, hunt.method(scale=scale, strength=strength), seed=1500)
        )
        for scale in SCALES[:3]
        for strength in STRENGTHS
    }
    scale, strength = max(tried, key=lambda pair: tried[pair])
    layers = {
        n: mean(scores(tuning, PAG(scale, strength, layers=n), seed=1500)) for n in range(depth)
    }
    layer = max(layers, key=lambda n: layers[n])
    progress(f"{REPORT} pictures: scale {scale:g}, strength {strength:g}")
    base = scores(report, seed=2000)
    method = scores(report, hunt.method(scale=scale, strength=strength), seed=2000)
    some = report[:CURVE]
    curve = {by: scores(some, hunt.method(scale=by, strength=strength), seed=2000) for by in SCALES}
    progress("controls")
    blind = [hunt.scores.random(len(heads), seed=n, exclude=heads) for n in range(2)]
    others = {
        f"layer {layer} as a whole": scores(report, PAG(scale, strength, layers=layer), seed=2000),
        **{
            f"heads drawn blindly ({n})": scores(
                report, PAG(scale, strength, heads=some), seed=2000
            )
            for n, some in enumerate(blind, start=1)
        },
        "classifier-free guidance, scale 4": scores(report, seed=2000, guidance=4.0),
    }
    over = paired_bootstrap(curve[scale], curve[SCALES[-1]])
    return Trial(
        baseline=("F1 of the things drawn, no guidance", base),
        method=(f"F1, scale {scale:g}, strength {strength:g}, {len(heads)} heads", method),
        better="higher",
        seeds=(1, 1000, 1500, 2, 2000),
        details={
            "items": {"tuning": len(tuning), "report": len(report)},
            "heads hunted": [list(head) for head in heads],
            "F1 while hunting, by round": [round(value, 4) for value in hunt.curve],
            "F1 by scale and strength on the tuning prompts": {
                f"{by:g}, {u:g}": round(value, 4) for (by, u), value in tried.items()
            },
            f"F1 by scale, of {CURVE}": {
                "0": mean(base[:CURVE]),
                **{f"{by:g}": mean(v) for by, v in curve.items()},
            },
            f"scale {SCALES[-1]:g} less scale {scale:g}, interval": [round(x, 4) for x in over],
            "F1 of controls": {name: mean(values) for name, values in others.items()},
            "hunted heads less the best layer, interval": [
                round(x, 4) for x in paired_bootstrap(next(iter(others.values())), method)
            ],
        },
    )


def asked(n: int, seed: int) -> list[str]:
    """Prompts for one thing and for two, by turns."""
    pairs = zip(prompts(1, n // 2, seed), prompts(2, n // 2, seed), strict=True)
    return list(chain.from_iterable(pairs))


def mean(values: Sequence[float]) -> float:
    """Rounded."""
    return round(sum(values) / len(values), 4)
