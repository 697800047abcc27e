"""AvisC on shapes-vlm: what captions make up, and adversarial questions for what is there.

Captions decide: there the model makes things up, while it hardly says yes to what is absent.
``alpha`` and ``lamb`` are chosen on captions of one seed, by the share of what is there that is
mentioned less the share of what is mentioned that is not there, and reported on other seeds.
Beside it: the authors' settings, a second view with no picture at all (no token is blind and all
are zeroed: does it matter which tokens are left?), and where the blind tokens are.
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

TUNED, DESCRIBED, ASKED = 128, 300, 300  # scenes
ALPHAS, LAMBS = (0.5, 1.0, 2.5), (0.0, 1.0, 2.0)
GAMMA = 0.5
NOTHING = 100.0  # deviations that no token reaches: the second view has no picture
WORDS = 40  # a caption's most


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    model, processor = load("shapes-vlm")
    scenes = fair(TUNED, 40)
    held = shown(processor, scenes, [DESCRIBE] * TUNED)
    curve: dict[tuple[float, float], float] = {}
    for lamb in LAMBS:
        for alpha in ALPHAS:
            progress(f"choosing on {TUNED} captions: alpha={alpha:g}, lamb={lamb:g}")
            curve[alpha, lamb] = worth(say(AvisC(alpha, GAMMA, lamb), model, held, WORDS), scenes)
    alpha, lamb = max(curve, key=lambda key: curve[key])
    plain = worth(say(ViewDecoder(), model, held, WORDS), scenes)

    decoders = {
        "base": ViewDecoder(),
        "AvisC": AvisC(alpha, GAMMA, lamb),
        "AvisC as the authors set it": AvisC(),
        "against no picture": AvisC(alpha, GAMMA, NOTHING),
    }
    described, report = fair(DESCRIBED, 60), asked_about(fair(ASKED, 50), 0)
    telling = shown(processor, described, [DESCRIBE] * DESCRIBED)
    asked = shown(processor, [s for s, _ in report], [q.text for _, q in report])
    runs: dict[str, Pope] = {}
    captions: dict[str, list[str]] = {}
    for name, decoder in decoders.items():
        progress(f"{DESCRIBED} captions and {len(report)} questions: {name}")
        captions[name] = say(decoder, model, telling, WORDS)
        runs[name] = Pope(tuple(q for _, q in report), tuple(say(decoder, model, asked, 1)))
    right = {name: [float(one) for one in told.right] for name, told in runs.items()}
    false = {name: made_up(told, described) for name, told in captions.items()}
    return Trial(
        baseline=("kinds made up, as a share of those a caption mentions, greedy", false["base"]),
        method=(f"the same, AvisC({alpha=:g}, gamma={GAMMA:g}, {lamb=:g})", false["AvisC"]),
        better="lower",
        seeds=(40, 50, 60),
        details={
            "scenes": {"tuning": TUNED, "described": DESCRIBED, "asked": ASKED},
            "figures": {
                name: figures(runs[name], runs["base"], captions[name], described) for name in runs
            },
            "made up, AvisC less against no picture": interval(
                false["against no picture"], false["AvisC"]
            ),
            "adversarial accuracy, AvisC less base": interval(right["base"], right["AvisC"]),
            "McNemar p of the answers": mcnemar(right["base"], right["AvisC"]),
            "mentioned of what is there less made up, while choosing": {"greedy": plain}
            | {f"alpha {a:g}, lamb {m:g}": value for (a, m), value in curve.items()},
            "blind tokens": where(model, AvisC(alpha, GAMMA, lamb), telling, described),
        },
    )


def worth(captions: Sequence[str], scenes: Sequence[Scene]) -> float:
    """Recall of the kinds less the share of made up ones."""
    chair = hallucination(captions, scenes)
    return round(chair.recall.value - chair.mentions.value, 4)


def shown(processor: Any, scenes: Sequence[Scene], texts: Sequence[str]) -> list[Prompt]:
    """One chat about each scene, in batches."""
    items = []
    for n, (scene, text) in enumerate(zip(scenes, texts, strict=True)):
        picture, words = {"type": "image", "image": render(scene)}, {"type": "text", "text": text}
        chat: Any = [{"role": "user", "content": [picture, words]}]
        items.append(Item(str(n), chat, ""))
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
    model: Any, decoder: AvisC, asked: Sequence[Prompt], scenes: Sequence[Scene]
) -> dict[str, float]:
    """How many of the image tokens are blind, and what share of these and of all show a thing."""
    blind = torch.cat(
        [
            decoder.blind(model, prompt)[prompt.regions["image"]].view(prompt.batch_size, -1)
            for prompt in asked
        ]
    )
    things = torch.stack([patches(scene) for scene in scenes])
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
