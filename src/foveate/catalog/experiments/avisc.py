"""AvisC on shapes-vlm: adversarial questions for what is there, and captions.

``alpha``, ``gamma`` and ``lamb`` are chosen by the answers on scenes of one seed and reported on
another. Beside it: the authors' settings, a second view with no picture at all (no token is blind
and all are zeroed: does it matter which tokens are left?), and where the blind tokens are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...decoding.avisc import AvisC
from ...decoding.views import ViewDecoder
from ...load import load
from ...prompt import Prompt
from ...statistics import mcnemar, paired_bootstrap
from ...tasks._task import Item, prompts
from ...tasks.answering import text_of
from ...tasks.shapes import Scene, hallucination, render
from ...tasks.shapes.asking import DESCRIBE, Pope, f1_gain, made_up
from ...tasks.shapes.render import visible
from ._shown import BATCH, asked_about, fair
from ._trial import Trial

TUNED, ASKED, DESCRIBED = 100, 400, 200  # scenes
ALPHAS, GAMMAS, LAMBS = (0.5, 1.0, 2.5), (0.0, 0.5, 1.0), (0.0, 1.0, 2.0)
NOTHING = 100.0  # deviations that no token reaches: the second view has no picture


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    model, processor = load("shapes-vlm")
    pairs = asked_about(fair(TUNED, 40), 0)
    held = shown(processor, [s for s, _ in pairs], [q.text for _, q in pairs])
    wanted = [q.answer for _, q in pairs]
    curve: dict[tuple[float, float, float], float] = {}
    for gamma in GAMMAS:
        for lamb in LAMBS:
            progress(f"gamma={gamma:g}, lamb={lamb:g}")
            for alpha in ALPHAS:
                said = say(AvisC(alpha, gamma, lamb), model, held, 1)
                right = [a == b for a, b in zip(said, wanted, strict=True)]
                curve[alpha, gamma, lamb] = sum(right) / len(right)
    alpha, gamma, lamb = max(curve, key=lambda key: curve[key])
    plain = [a == b for a, b in zip(say(ViewDecoder(), model, held, 1), wanted, strict=True)]

    decoders = {
        "base": ViewDecoder(),
        "AvisC": AvisC(alpha, gamma, lamb),
        "AvisC as the authors set it": AvisC(),
        "against no picture": AvisC(alpha, gamma, NOTHING),
    }
    report, described = asked_about(fair(ASKED, 50), 0), fair(DESCRIBED, 60)
    asked = shown(processor, [s for s, _ in report], [q.text for _, q in report])
    telling = shown(processor, described, [DESCRIBE] * len(described))
    runs: dict[str, Pope] = {}
    captions: dict[str, list[str]] = {}
    for name, decoder in decoders.items():
        progress(f"{len(report)} questions and {DESCRIBED} captions: {name}")
        runs[name] = Pope(tuple(q for _, q in report), tuple(say(decoder, model, asked, 1)))
        captions[name] = say(decoder, model, telling, 40)
    right = {name: [float(one) for one in told.right] for name, told in runs.items()}
    false = {name: made_up(told, described) for name, told in captions.items()}
    return Trial(
        baseline=("accuracy on adversarial questions, greedy", right["base"]),
        method=(f"accuracy, AvisC({alpha=:g}, {gamma=:g}, {lamb=:g})", right["AvisC"]),
        better="higher",
        seeds=(40, 50, 60),
        details={
            "scenes": {"tuning": TUNED, "asked": ASKED, "described": DESCRIBED},
            "figures": {
                name: figures(runs[name], runs["base"], captions[name], described) for name in runs
            },
            "McNemar p": mcnemar(right["base"], right["AvisC"]),
            "AvisC less against no picture": interval(right["against no picture"], right["AvisC"]),
            "made up a caption, AvisC less base": interval(false["base"], false["AvisC"]),
            "accuracy while choosing": {"greedy": round(sum(plain) / len(plain), 4)}
            | {f"{a:g}, {g:g}, {m:g}": round(value, 4) for (a, g, m), value in curve.items()},
            "blind tokens": where(model, AvisC(alpha, gamma, lamb), asked, report),
        },
    )


def shown(processor: Any, scenes: Sequence[Scene], texts: Sequence[str]) -> list[Prompt]:
    """One chat about each scene, in batches."""
    items = [
        Item(
            str(n),
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": render(scene)},
                        {"type": "text", "text": text},
                    ],
                }
            ],
            "",
        )
        for n, (scene, text) in enumerate(zip(scenes, texts, strict=True))
    ]
    return [prompt for _, prompt in prompts(items, processor, BATCH)]


def say(decoder: ViewDecoder, model: Any, asked: Sequence[Prompt], tokens: int) -> list[str]:
    """Replies, one a row."""
    return [
        text_of(prompt.tokenizer, row)
        for prompt in asked
        for row in decoder.decode(model, prompt, tokens).ids
    ]


def figures(
    run: Pope, base: Pope, captions: Sequence[str], scenes: Sequence[Scene]
) -> dict[str, Any]:
    """As POPE and CHAIR count them."""
    chair, score = hallucination(captions, scenes), run.score
    return {
        "adversarial accuracy": str(score.accuracy),
        "adversarial F1": str(score.f1),
        "share of yes": str(score.yes),
        "F1 against the base": [round(value, 4) for value in f1_gain(base, run)],
        "made up, of the kinds mentioned": str(chair.mentions),
        "captions with something made up": str(chair.captions),
        "kinds mentioned, of those there": str(chair.recall),
    }


def where(
    model: Any, decoder: AvisC, asked: Sequence[Prompt], pairs: Sequence[tuple[Scene, Any]]
) -> dict[str, float]:
    """How many of the image tokens are blind, and what share of these and of all show a thing."""
    blind = torch.cat(
        [
            decoder.blind(model, prompt)[prompt.regions["image"]].view(prompt.batch_size, -1)
            for prompt in asked
        ]
    )
    things = torch.stack([patches(scene) for scene, _ in pairs])
    return {
        "share of the image tokens": round(float(blind.float().mean()), 4),
        "share that shows a thing": round(float(things[blind].float().mean()), 4),
        "of all image tokens": round(float(things.float().mean()), 4),
    }


def patches(scene: Scene, side: int = 8) -> torch.Tensor:
    """Patches with a pixel of a thing, bool ``[side * side]``."""
    size = scene.size // side
    found = torch.zeros(side, side, dtype=torch.bool)
    for seen, _ in visible(scene.things, scene.size):
        found |= torch.from_numpy(seen.reshape(side, size, side, size).any((1, 3)))
    return found.flatten()


def interval(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    low, high = paired_bootstrap(list(a), list(b))
    mean = sum(y - x for x, y in zip(a, b, strict=True)) / len(a)
    return {"difference": round(mean, 4), "interval": [round(low, 4), round(high, 4)]}
