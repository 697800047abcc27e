"""Prefill of SmolLM2 at 8,192 tokens: a window with sinks, with and without delta correction.

Against the model's own SDPA, end to end, in turns; and how many facts of a document are still
found. Documents are read, and questions asked and answered, under the methods (see
:mod:`benchmarks.sparse_world`); of the delta correction the last rows are full, and so are the
questions and the answers. ``python -m benchmarks sparse_prefill``, about five minutes on two cores.
"""

from __future__ import annotations

import time
from typing import Any

import torch

import foveate as fv
from foveate.methods.sparse import DeltaCorrection

from .harness import Timing, interleave, write
from .sparse_world import ask, document

TOKENS, FACTS, DOCUMENTS, ROUNDS = 8192, 8, 3, 2
WINDOW = fv.SlidingWindow(256, sinks=4)
METHODS: dict[str, list[Any] | None] = {
    "dense (its own SDPA)": None,
    "window 256 + 4 sinks": [WINDOW],
    "window 256 + 4 sinks, delta every 64": [WINDOW, DeltaCorrection(every=64)],
}


def main(tokens: int = TOKENS, documents: int = DOCUMENTS, rounds: int = ROUNDS) -> None:
    """Measure and write ``results/sparse_prefill.json``."""
    torch.set_num_threads(2)
    model, tokenizer = fv.load("smollm2")
    texts = [document(tokenizer, tokens, seed, FACTS) for seed in range(documents)]
    ids = torch.tensor([texts[0].ids])

    def prefill(methods: list[Any] | None) -> None:
        with torch.no_grad():
            if methods is None:
                model(input_ids=ids, use_cache=True, logits_to_keep=1)
                return
            with fv.attach(model, *methods):
                model(input_ids=ids, use_cache=True, logits_to_keep=1)

    # the answers first: they warm everything up
    found: dict[str, dict[str, list[bool]]] = {}
    for name, methods in METHODS.items():
        start = time.perf_counter()
        rows = [ask(model, text, methods, everything=True) for text in texts]
        found[name] = {
            kind: [one for row in rows for one in row["right"][kind]]
            for kind in ("needle", "multi-key")
        }
        print(name, {k: f"{sum(v)}/{len(v)}" for k, v in found[name].items()}, flush=True)
        print(f"  {time.perf_counter() - start:.0f} s", flush=True)
    candidates = {
        name: lambda methods=methods: prefill(methods) for name, methods in METHODS.items()
    }
    timings = interleave(candidates, rounds=rounds, warmup=0)

    names = list(METHODS)
    rows = []
    base = found[names[0]]
    for name in names:
        timing = timings[name]
        assert timing.ratio is not None
        timing.ratio = 1 / timing.ratio
        parts = [f"{kind} {sum(row)} of {len(row)}" for kind, row in found[name].items()]
        timing.note = ", ".join(parts)
        rows.append(timing)
    timings[names[2]].target = "≥ 1.5 × faster"
    timings[names[2]].met = timings[names[2]].ratio >= 1.5
    rows += [_of_dense(name, found[name], base) for name in names[1:]]
    rows[-1].target, rows[-1].met = "≥ 0.85 × dense", rows[-1].ratio >= 0.85
    rows[-2].target, rows[-2].met = "< 0.5 × dense", rows[-2].ratio < 0.5
    title = f"Prefill of SmolLM2-135M, {tokens:,} tokens (how much faster), and what is still found"
    write("sparse_prefill", title, rows)


def _of_dense(name: str, mine: dict[str, list[bool]], base: dict[str, list[bool]]) -> Timing:
    """Right answers as a part of dense attention's, of both kinds."""
    kept, known = (sum(sum(row) for row in one.values()) for one in (mine, base))
    note = f"{kept} right, dense attention {known}, of {sum(map(len, base.values()))}"
    return Timing(f"accuracy: {name}", 0.0, 0.0, kept / max(1, known), note=note)


if __name__ == "__main__":
    main()
