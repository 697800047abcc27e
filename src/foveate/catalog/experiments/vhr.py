"""VHR on shapes-vlm: captions that make things up, and adversarial questions.

Factor and layers are chosen on captions of one seed and reported on another, beside the authors'
factor 2. Beside it: do heads of large VHD matter more to answers that need the picture, and does
VHR favour what is seen over what the bias says?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...find.divergence import head_outputs, vhd
from ...load import load
from ...methods.heads import Ablate
from ...methods.vision.vhr import VHR
from ...tasks.shapes import Question, Scene
from ...tasks.shapes.asking import inputs_of
from ._shown import Choose, asked_about, bare, difference, fair, logp, speaking, told, tuned
from ._trial import Trial

TUNED, ASKED, DESCRIBED, ABLATED = 96, 150, 400, 64  # scenes
FACTORS, LAYERS = (1.3, 2.0), ([1, 2, 3], [1], [2, 3])
AUTHORS = "VHR as the authors set it"
OTHER = {"yes": "no", "no": "yes"}


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    model, processor = load("shapes-vlm")
    held, asked, described = fair(TUNED, 40), fair(ASKED, 50), fair(DESCRIBED, 60)

    def reinforced(factor: float, layers: Any = None, kind: Any = VHR) -> Choose:
        def choose(inputs: dict[str, Any]) -> list[Any]:
            without = head_outputs(model, bare(model, inputs))
            return [kind(without, factor, layers=layers)]

        return choose

    settings = {
        f"factor {factor:g} in layers {layers}": (factor, layers)
        for layers in LAYERS
        for factor in FACTORS
    }
    chosen = {name: reinforced(*setting) for name, setting in settings.items()}
    options = {name: {"generate": speaking(model, choose)} for name, choose in chosen.items()}
    best, curve = tuned(model, processor, held, options, progress)
    variants = {
        "base": {},
        "VHR": options[best],
        "the other half of the heads": {
            "generate": speaking(model, reinforced(*settings[best], kind=_Others))
        },
        AUTHORS: {"generate": speaking(model, reinforced(2.0))},
    }
    false, right, figures = told(model, processor, described, asked, 0, variants, progress)
    progress("what is seen against what is usual")
    absent = [(s, q) for s, q in asked_about(asked, 0) if q.answer == "no"]
    margins = [
        logp(model, processor, absent, methods, other=OTHER).tolist()
        for methods in ((), chosen[best])
    ]
    return Trial(
        baseline=("made up of the kinds a caption names, unedited", false["base"]),
        method=(f"made up, VHR with {best}", false["VHR"]),
        better="lower",
        seeds=(40, 50, 60),
        details={
            "scenes": {"tuning": TUNED, "asked": ASKED, "described": DESCRIBED},
            "figures": figures,
            "accuracy on adversarial questions, VHR less base": difference(
                right["base"], right["VHR"]
            ),
            "made up a caption, less base": {
                name: difference(false["base"], found) for name, found in false.items()
            },
            "made up a caption, VHR less the other half": difference(
                false["the other half of the heads"], false["VHR"]
            ),
            "made up while choosing": curve,
            "log p(no) less log p(yes) of missing partners, VHR less base": difference(*margins),
            "VHD": _matters(model, processor, asked_about(held, 0, "colour")[:ABLATED], progress),
        },
    )


class _Others(VHR):
    """The control: the heads below the median instead."""

    def _select(self, out: Tensor, site: Any) -> Tensor:
        return ~super()._select(out, site)


def _matters(
    model: Any,
    processor: Any,
    pairs: Sequence[tuple[Scene, Question]],
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """VHD of each head beside what its ablation costs answers about colours."""
    inputs = inputs_of(processor, [s for s, _ in pairs], [q.text for _, q in pairs])
    scores = vhd(model, inputs, bare(model, inputs)).scores
    base = float(logp(model, processor, pairs).mean())
    lost = torch.zeros(scores.layers, scores.heads)
    for layer in range(scores.layers):
        progress(f"heads of layer {layer} ablated one by one")
        for head in range(scores.heads):
            left = logp(model, processor, pairs, [Ablate({layer: [head]})])
            lost[layer, head] = base - float(left.mean())
    later = slice(1, None)  # the first layer is never reinforced
    return {
        "by layer": [[round(x, 2) for x in row] for row in scores.values.tolist()],
        "log-probability of a colour lost by ablation": [
            [round(x, 3) for x in row] for row in lost.tolist()
        ],
        "rank correlation, all heads": round(_spearman(scores.values, lost), 3),
        "rank correlation, without the first layer": round(
            _spearman(scores.values[later], lost[later]), 3
        ),
    }


def _spearman(a: Tensor, b: Tensor) -> float:
    ranks = torch.stack([x.flatten().argsort().argsort().double() for x in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])
