"""DHSA: attention held by content-aligned chunks against fixed blocks of the same mean length.

Prompts of 1,536 tokens with a needle; queries from position 768 on; four layers. The boundary
predictor is trained on other texts, and how far boundaries stand apart is chosen on two more.
Beside it training-free boundaries, and how much of the needle the question can see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...find.boundaries import fit_boundaries
from ...load import load
from ...patterns import DHSA
from ...prompt import Prompt
from ...tasks._task import Item
from ...tasks.needle import Needle
from ._retained import attended, captured, keys_seen, seen_by, share
from ._trial import Trial

TEXTS, LENGTH, START, TRAINED, TUNED, SEED = 8, 1536, 768, 6, 2, 21
APART = (8, 4, 2)
SIZES: dict[str, Any] = {
    "budget": 256, "chunk": 16, "block_q": 64, "last": 0, "window": 64, "sinks": 16
}  # fmt: skip
WHAT = ("attention held", "share of the needle that the question sees", "keys a query sees")


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    model, tokenizer = load("smollm2")
    depth = model.config.num_hidden_layers
    others = Needle(n=TRAINED, length=768, needles=2, seed=SEED + 1).items(tokenizer)
    predictor = fit_boundaries(
        model,
        tokenizer,
        [str(item.content) for item in others],
        layers=range(2, depth, 7),
        epochs=3,
        progress=lambda done, of: progress(f"boundary predictor: text {done} of {of}"),
    )
    kinds: dict[str, Any] = {"learned": predictor, "similarity": "similarity"}
    tried = {
        (name, apart): DHSA(**SIZES, apart=apart, boundaries=kind)
        for name, kind in kinds.items()
        for apart in APART
    }
    layers = range(3, depth, 7)
    tuning = Needle(n=TUNED, length=LENGTH, seed=SEED + 2).items(tokenizer)
    found = _held(model, tokenizer, tuning, layers, tried, progress)
    mean = {way: sum(x[0] for x in rows) / TUNED for way, rows in found.items()}
    best = {name: max((mean[name, a], a) for a in APART)[1] for name in kinds}

    ways: dict[Any, DHSA] = {name: tried[name, best[name]] for name in kinds}
    ways["fixed"] = DHSA(**SIZES, boundaries="fixed")
    asked = Needle(n=TEXTS, length=LENGTH, seed=SEED).items(tokenizer)
    shown = _held(model, tokenizer, asked, layers, ways, progress)
    return Trial(
        baseline=("attention held by 256 keys, fixed blocks of 16", [x[0] for x in shown["fixed"]]),
        method=("attention held by 256 keys, learned boundaries", [x[0] for x in shown["learned"]]),
        better="higher",
        seeds=(SEED, SEED + 1, SEED + 2),
        details={
            "prompts": {"training": TRAINED, "tuning": TUNED, "report": TEXTS},
            "tokens": LENGTH,
            "apart": best,
            "tuning": {f"{name}, apart={a}": round(x, 4) for (name, a), x in mean.items()},
            **{
                what: {
                    str(w): round(sum(x[n] for x in rows) / TEXTS, 4) for w, rows in shown.items()
                }
                for n, what in enumerate(WHAT)
            },
        },
    )


def _held(
    model: Any, tokenizer: Any, items: Sequence[Item], layers: Sequence[int],
    ways: Mapping[Any, DHSA], progress: Callable[[str], None],
) -> dict[Any, list[list[float]]]:  # fmt: skip
    """Of each way and item, what :data:`WHAT` names, mean over the layers."""
    found: dict[Any, list[list[float]]] = {name: [] for name in ways}
    for i, item in enumerate(items):
        progress(f"prompt {i + 1} of {len(items)}, {len(ways)} ways")
        prompt = Prompt(tokenizer, item.content)
        for name in ("evidence", "question"):
            prompt.mark(name, str(item.marks[name]))
        needle, asks = (prompt.regions[name].reshape(-1) for name in ("evidence", "question"))
        sums = {name: torch.zeros(3, dtype=torch.float64) for name in ways}
        for q, k in captured(model, prompt, layers):
            p = attended(q, k, START)
            for name, way in ways.items():
                seen = seen_by(way, q, k, START)
                hit = float(seen[:, :, asks[START:]][..., needle].float().mean())
                sums[name] += torch.tensor([share(p, seen), hit, keys_seen(seen)])
        for name in ways:
            found[name].append((sums[name] / len(layers)).tolist())
    return found
