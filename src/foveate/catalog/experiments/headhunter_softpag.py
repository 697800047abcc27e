"""SoftPAG at hunted heads: what a model draws without classifier-free guidance, as scales grow.

Prompts for one thing, drawn by shapes-dit without classifier-free guidance and read by the checker:
the F1 of the things in a picture against those asked for. Heads are hunted, and scale and strength
chosen, on prompts and noise of one seed and reported on those of another. Beside it: the curve over
the scale, where the paper's pictures get better and are then over-driven; prompts for two things,
where what is wrong is more often which things there are than how they are drawn; the layer that was
best as a whole; heads drawn blindly, as many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...find.hunting import head_hunter
from ...load import load
from ...methods.diffusion.pag import PAG
from ...statistics import paired_bootstrap
from ...tasks.shapes.drawing import drawn, judged, prompts
from ...tasks.shapes.scores import Binding
from ._trial import Trial

HUNTED, TUNING, REPORT, PAIRS, SOME = 16, 32, 128, 32, 32
STEPS, SCALE = 8, 3.0
HEADS, ROUNDS = 2, 2
STRENGTHS = (1.0, 0.5)
SCALES = (0.5, 1.0, 2.0, 4.0, 8.0)


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
        texts: Sequence[str], *methods: Any, seed: int = 2000, guidance: float = 1.0
    ) -> list[float]:
        pictures = drawn(pipe, texts, methods, steps=STEPS, guidance=guidance, seed=seed)
        return [quality(told) for told in judged(texts, pictures)]

    hunt = head_hunter(
        pipe,
        prompts(1, HUNTED, seed=1),
        lambda texts, pictures: [quality(told) for told in judged(texts, pictures)],
        rounds=ROUNDS,
        per_round=HEADS,
        guide={"scale": SCALE},
        seed=1000,
        progress=progress,
        num_inference_steps=STEPS,
        guidance_scale=1.0,
    )
    progress("scale and strength, and the best layer, on other noise")
    tuning = prompts(1, TUNING, seed=1)

    def tuned(*methods: Any) -> float:
        return mean(scores(tuning, *methods, seed=1500))

    tried = {
        (scale, strength): tuned(hunt.method(scale=scale, strength=strength))
        for scale in SCALES[:3]
        for strength in STRENGTHS
    }
    scale, strength = max(tried, key=lambda pair: tried[pair])
    how: dict[str, Any] = {"scale": scale, "strength": strength}
    layers = {n: tuned(PAG(**how, layers=n)) for n in range(hunt.scores.layers)}
    layer = max(layers, key=lambda n: layers[n])

    progress(f"{REPORT} pictures: scale {scale:g}, strength {strength:g}")
    one, two = prompts(1, REPORT, seed=2), prompts(2, PAIRS, seed=2)
    base, method = scores(one), scores(one, hunt.method(**how))
    pairs = scores(two), scores(two, hunt.method(**how))
    progress("the curve over the scale")
    curve = {
        by: scores(one[:SOME], hunt.method(scale=by, strength=strength))
        for by in SCALES
        if by != scale
    }
    curve = dict(sorted({0.0: base[:SOME], scale: method[:SOME], **curve}.items()))
    progress("controls")
    blind = [hunt.scores.random(len(hunt.heads), seed=n, exclude=hunt.heads) for n in range(2)]
    controls = {
        f"layer {layer} as a whole": scores(one[:SOME], PAG(**how, layers=layer)),
        "heads drawn blindly": scores(one[:SOME], PAG(**how, heads=blind[0])),
        "others drawn blindly": scores(one[:SOME], PAG(**how, heads=blind[1])),
        "classifier-free guidance, scale 4": scores(one[:SOME], guidance=4.0),
    }
    return Trial(
        baseline=("F1 of the thing drawn, no guidance", base),
        method=(f"F1, scale {scale:g}, strength {strength:g}, {len(hunt.heads)} heads", method),
        better="higher",
        seeds=(1, 1000, 1500, 2, 2000),
        details={
            "items": {
                "hunt": HUNTED,
                "tuning": TUNING,
                "report": REPORT,
                "pairs": PAIRS,
                "curve": SOME,
            },
            "heads hunted": [list(head) for head in hunt.heads],
            "F1 while hunting, by round": [round(value, 4) for value in hunt.curve],
            "F1 by scale and strength while tuning": {
                f"{by:g}, {u:g}": value for (by, u), value in tried.items()
            },
            "F1 by scale": {f"{by:g}": mean(values) for by, values in curve.items()},
            f"scale {SCALES[-1]:g} less scale {scale:g}": apart(method[:SOME], curve[SCALES[-1]]),
            "F1 of two things": {"unguided": mean(pairs[0]), "guided": mean(pairs[1])},
            "guided less unguided, two things": apart(*pairs),
            "F1 of controls": {name: mean(values) for name, values in controls.items()},
            "hunted heads less controls": {
                name: apart(values, method[:SOME]) for name, values in controls.items()
            },
        },
    )


def apart(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Interval of ``other - one``, item by item."""
    return [round(float(end), 4) for end in paired_bootstrap(list(one), list(other))]


def mean(values: Sequence[float]) -> float:
    """Rounded."""
    return round(sum(values) / len(values), 4)
