"""Patterns on the operator against dense SDPA, H = 9, D = 64, float32; cutting a pattern apart."""

from __future__ import annotations

import time
from functools import partial

import torch
import torch.nn.functional as F

import foveate as fv
from foveate.patterns import Neighborhood, Pattern, SlidingWindow

from .harness import Timing, interleave, write

# name, tokens, pattern, causal, at least so many times faster than dense
CASES: tuple[tuple[str, int, Pattern, bool, float], ...] = (
    ("causal window 256 + 4 sinks, 8,192 tokens", 8192, SlidingWindow(256, sinks=4), True, 4.0),
    ("neighbourhood 13×13 on 128×128", 16384, Neighborhood((128, 128), 13), False, 6.0),
)


def main() -> None:
    """Measure and write ``results/patterns.json``."""
    torch.set_num_threads(2)
    rows = []
    for name, tokens, pattern, causal, wanted in CASES:
        torch.manual_seed(0)
        q, k, v = (torch.randn(1, 9, tokens, 64) for _ in range(3))
        start = time.perf_counter()
        plan = fv.plan(fv.Program(pattern=pattern, causal=causal), fv.Shapes.of(q, k, v))
        assert plan.cut is not None
        cutting = time.perf_counter() - start
        dense = partial(F.scaled_dot_product_attention, q, k, v, is_causal=causal)
        found = interleave({"dense": dense, name: partial(plan.run, q, k, v)}, rounds=3)
        timing = found[name]
        assert timing.ratio is not None
        timing.ratio = 1 / timing.ratio
        timing.target, timing.met = f"≥ {wanted:g} × faster", timing.ratio >= wanted
        share = plan.cut.pairs / tokens**2
        timing.note = f"{share:.1%} of the pairs; cut once, {cutting:.2g} s"
        rows += [
            Timing(f"dense SDPA, {tokens:,} tokens", found["dense"].seconds_min,
                   found["dense"].seconds_median),
            timing,
        ]  # fmt: skip
    write("patterns", "Patterns on flash kernels, against dense SDPA (how much faster)", rows)


if __name__ == "__main__":
    main()
