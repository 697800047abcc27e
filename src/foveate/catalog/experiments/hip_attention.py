"""HiP: how much of the attention its keys hold, against as many sinks and recent keys.

Texts of 2,048 tokens with a needle; queries from position 1,024, every sixth layer but the first
three (which the authors leave dense). Beside it what as many random keys hold on average, the best
keys of every query, and the perplexity of the second half of the text as ``k`` grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...load import load
from ...methods.select import Select
from ...patterns import HiP, SlidingWindow
from ...prompt import Prompt
from ...tasks.needle import Needle
from ._retained import attended, captured, keys_seen, loss, seen_by, share
from ._trial import Trial

TEXTS, LENGTH, START, SEED = 6, 2048, 1024, 11
DENSE = 3  # first layers, as in the authors' code
NEAR = {"window": 64, "sinks": 16}


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    model, tokenizer = load("smollm2")
    depth = model.config.num_hidden_layers
    texts = [
        Prompt(tokenizer, item.content)
        for item in Needle(n=TEXTS, length=LENGTH, seed=SEED).items(tokenizer)
    ]
    kept: dict[str, list[float]] = {name: [] for name in ("hip", "window", "random", "best")}
    hip, keys = HiP(k=256, **NEAR), []
    for i, prompt in enumerate(texts):
        progress(f"attention held by the keys: text {i + 1} of {TEXTS}")
        sums = torch.zeros(len(kept), dtype=torch.float64)
        layers = range(DENSE, depth, 6)
        for q, k in captured(model, prompt, layers):
            p = attended(q, k, START)
            seen = seen_by(hip, q, k, START)
            keys.append(keys_seen(seen))
            count = round(keys[-1])
            best = p[:, :, ::8].topk(count).values.sum(-1)
            given = share(p, seen), share(p, _recent(count, q)), _random(p, count)
            sums += torch.tensor([*given, float(best.mean())])
        for name, value in zip(kept, (sums / len(layers)).tolist(), strict=True):
            kept[name].append(value)
    some = {"dense": [], **{f"k={k}": [_on(HiP(k=k, **NEAR), depth)] for k in (64, 256, 1024)}}
    some["sinks and window"] = [_on(SlidingWindow(round(sum(keys) / len(keys)), sinks=16), depth)]
    losses = {}
    for name, methods in some.items():
        progress(f"loss of two texts: {name}")
        found = [loss(model, prompt, START, *methods) for prompt in texts[:2]]
        losses[name] = round(math.exp(sum(found) / len(found)), 3)
    return Trial(
        baseline=("attention held by sinks and recent keys", kept["window"]),
        method=("attention held by HiP's keys, k=256", kept["hip"]),
        better="higher",
        seeds=(SEED,),
        details={
            "texts": TEXTS,
            "tokens": LENGTH,
            "keys a query sees": round(sum(keys) / len(keys), 1),
            "attention held by random keys": round(sum(kept["random"]) / TEXTS, 4),
            "attention held by each query's best keys": round(sum(kept["best"]) / TEXTS, 4),
            "perplexity of the second half": losses,
        },
    )


def _on(pattern: HiP | SlidingWindow, depth: int) -> Select:
    return Select(pattern, layers=range(DENSE, depth))


def _recent(count: int, q: Tensor) -> Tensor:
    """The first 16 keys and as many recent ones as make ``count``."""
    seen = SlidingWindow(count - 16, sinks=16).mask(q.shape[2])
    return seen[None, None, START:]


def _random(p: Tensor, count: int) -> float:
    """What the same window and sinks hold, with keys at random up to ``count``: the mean."""
    S = p.shape[-1]
    keys, rows = torch.arange(S), torch.arange(START, S)[:, None]
    near = (keys <= rows) & ((rows - keys < NEAR["window"]) | (keys < NEAR["sinks"]))
    held = (p * near).sum(-1)
    others = count - near.sum(-1)
    return float((held + (1 - held) * others / (rows[:, 0] + 1 - near.sum(-1))).mean())
