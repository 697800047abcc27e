"""HyperAttention: what hashing adds to sampling, and what it costs a language model.

Each query points to one key among many: such pairs hold about half of the attention. The error of
the output with sorted blocks and samples stands against that of samples alone, as many keys a query
in both. Beside it: how the error on random inputs falls with the samples, the loss of a language
model with the estimate in more and more layers, and the seconds of a long causal call.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...attach import attach
from ...engine.attention import attention
from ...load import load
from ...methods.sparse import HyperAttention
from ._prose import PROSE
from ._trial import Trial

ITEMS, TOKENS, BUDGET = 30, 1024, 256
LONG = 8192


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    sampled, hashed = [], []
    for seed in range(ITEMS):
        progress(f"planted pairs: {seed + 1} of {ITEMS}")
        q, k, v = _planted(seed)
        dense = attention(q, k, v).out
        sampled.append(_error(_sampled(q, k, v, BUDGET, seed), dense))
        half = BUDGET // 2
        hyper = HyperAttention(half, half, least=1, seed=seed)
        hashed.append(_error(attention(q, k, v, operators=[hyper]).out, dense))
    progress("errors by the number of samples")
    errors = _by_samples()
    slope = _slope(errors)
    return Trial(
        baseline=(f"relative error of the output, {BUDGET} sampled keys a query", sampled),
        method=("relative error, half of them in sorted blocks", hashed),
        better="lower",
        seeds=(0,),
        details={
            "items": ITEMS,
            "tokens": TOKENS,
            "relative error on random inputs by samples (blocks of 32)": errors,
            "its slope in logarithms (-0.5: one over the root)": slope,
            "loss a token by layers that estimate": _losses(progress),
            f"seconds of a causal call of {LONG} tokens, 9 heads of 64": _seconds(progress),
        },
    )


def _planted(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """``[1, 2, n, 32]``: each query is near one and a half times a key of its own."""
    g = torch.Generator().manual_seed(seed)
    k, v, noise = torch.randn(3, 1, 2, TOKENS, 32, generator=g)
    order = torch.randperm(TOKENS, generator=g)
    return 1.5 * k[:, :, order] + 0.3 * noise, k, v


def _sampled(q: Tensor, k: Tensor, v: Tensor, count: int, seed: int) -> Tensor:
    """Attention to ``count`` keys drawn evenly; what each stands for cancels in the softmax."""
    some = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(seed))[:count]
    return attention(q, k[:, :, some], v[:, :, some]).out


def _error(got: Tensor, dense: Tensor) -> float:
    return float((got - dense).norm() / dense.norm())


def _by_samples() -> dict[int, float]:
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 4, TOKENS, 32, generator=g)
    dense = attention(q, k, v).out
    found = {}
    for samples in (16, 32, 64, 128, 256):
        hyper = HyperAttention(32, samples, least=1)
        found[samples] = round(_error(attention(q, k, v, operators=[hyper]).out, dense), 4)
    return found


def _slope(errors: dict[int, float]) -> float:
    x = [math.log(n) for n in errors]
    y = [math.log(e) for e in errors.values()]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    top = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return round(top / sum((a - mx) ** 2 for a in x), 3)


@torch.no_grad()
def _losses(progress: Callable[[str], None]) -> dict[str, float]:
    model, tokenizer = load("smollm2")
    ids = tokenizer(" ".join(PROSE), return_tensors="pt")["input_ids"][:, :TOKENS]
    depth = model.config.num_hidden_layers
    found = {}
    for count in (0, depth // 3, 2 * depth // 3, depth):
        progress(f"loss with the estimate in the last {count} layers")
        layers: Any = range(depth - count, depth)
        hyper = [HyperAttention(64, 64, least=256, layers=layers)] if count else []
        with attach(model, *hyper):
            logits = model(ids).logits[0, :-1].float()
        found[str(count)] = round(float(torch.nn.functional.cross_entropy(logits, ids[0, 1:])), 4)
    return found


@torch.no_grad()
def _seconds(progress: Callable[[str], None]) -> dict[str, float]:
    progress(f"a causal call of {LONG} tokens")
    q, k, v = torch.randn(3, 1, 9, LONG, 64, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, operators in (("dense", []), ("HyperAttention", [HyperAttention(least=2048)])):
        times = []
        for _ in range(2):
            start = time.perf_counter()
            attention(q, k, v, causal=True, operators=operators)
            times.append(time.perf_counter() - start)
        found[name] = round(min(times), 3)
    return found
