"""Decode, per token, with 4,096 tokens in the cache: under ``attach`` against the model's own."""

from __future__ import annotations

import statistics
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

import foveate as fv

from .harness import Timing, at_most, write
from .prefill import TOKENS, long_prompt


def main(rounds: int = 7, steps: int = 12) -> None:
    """Measure and write ``results/decode.json``."""
    torch.set_num_threads(2)
    model, tokenizer = fv.load("smollm2")
    prompt = long_prompt(tokenizer, TOKENS)
    ids = prompt.inputs["input_ids"]
    with torch.no_grad():
        cache = model(ids, logits_to_keep=1).past_key_values
    token = ids[:, :1]

    def block(manager: AbstractContextManager[Any]) -> float:
        with torch.no_grad(), manager:
            model(token, past_key_values=cache)
            start = time.perf_counter()
            for _ in range(steps):
                model(token, past_key_values=cache)
            taken = (time.perf_counter() - start) / steps
        cache.crop(-(steps + 1))
        return taken

    kinds: dict[str, Any] = {
        "the model's own SDPA": nullcontext,
        "attach(Emphasize)": lambda: fv.attach(
            model, fv.Emphasize("evidence", gain=5.0), prompt=prompt
        ),
        "attach(Emphasize on three heads of each layer)": lambda: fv.attach(
            model, fv.Emphasize("evidence", gain=5.0, heads=[0, 3, 7]), prompt=prompt
        ),
        "attach(Measure(mass, entropy))": lambda: fv.attach(
            model, fv.Measure(fv.mass("evidence"), fv.entropy()), prompt=prompt
        ),
        "attach(): passthrough": lambda: fv.attach(model),
    }
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for n in range(rounds + 1):
        for name, make in kinds.items():
            seconds = block(make())
            if n:
                taken[name].append(seconds)
    base = taken["the model's own SDPA"]
    rows = [
        Timing(
            name,
            min(ts),
            statistics.median(ts),
            statistics.median(t / b for t, b in zip(ts, base, strict=True)),
        )
        for name, ts in taken.items()
    ]
    at_most(rows[1], 1.05)
    title = f"SmolLM2-135M, per token with {TOKENS} tokens of cache, float32, 2 threads"
    write("decode", title, rows)
