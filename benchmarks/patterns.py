"""Patterns against dense SDPA, H = 9, D = 64, float32, two threads; selection included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import foveate as fv
from foveate.methods.sparse import HyperAttention
from foveate.patterns import DHSA, HiP, MoBA, Neighborhood, PowerAttention, SlidingWindow

from .harness import Timing, interleave, write

HEADS, WIDTH = 9, 64


@dataclass(frozen=True)
class Case:
    """One pattern at one length; ``faster`` than dense at least, or ``share`` of what it could."""

    name: str
    what: Any
    faster: float | None = None
    share: float | None = None
    causal: bool = True


@dataclass(frozen=True)
class Length:
    """Cases that are compared with one dense call."""

    tokens: int
    cases: tuple[Case, ...]
    rounds: int = 3


WINDOW = SlidingWindow(256, sinks=4)
LENGTHS = (
    Length(8192, (Case("causal window 256 + 4 sinks", WINDOW, faster=4),), rounds=5),
    Length(
        16384,
        (
            Case("HiP, 512 keys, blocks of 128", HiP(512, block_q=128, stride_q=16, block_k=8), 2),
            Case("HiP, the authors' constants", HiP()),
            Case("DHSA", DHSA(), 2),
            Case("DHSA, 768 keys", DHSA(budget=768, window=128, sinks=16)),
            Case("HyperAttention", HyperAttention(), 2),
        ),
    ),
    Length(
        32768,
        (
            Case("causal window 256 + 4 sinks", WINDOW, faster=14),
            Case("PowerAttention, blocks of 128", PowerAttention(128, 2, 1), share=0.6),
            Case("MoBA, block 128, top 8", MoBA(128, 8), share=0.6),
        ),
    ),
    Length(
        16384,
        (Case("neighbourhood 13×13 on 128×128", Neighborhood((128, 128), 13), 6, causal=False),),
    ),
)


def call(case: Case, q: Tensor, k: Tensor, v: Tensor) -> Callable[[], Any]:
    """What runs the case; planned and cut beforehand, chosen by content every time."""
    program = fv.Program(causal=case.causal)
    operator = getattr(case.what, "operator", None)
    program = program.evolve(
        **({"pattern": case.what} if operator is None else {"operators": (operator,)})
    )
    return partial(fv.plan(program, fv.Shapes.of(q, k, v)).run, q, k, v)


def allowed(case: Case, q: Tensor, k: Tensor) -> float | None:
    """How much faster than dense a pattern is if time goes by the pairs that are seen."""
    pattern = case.what
    if not isinstance(pattern, fv.patterns.Pattern):
        return None
    n = q.shape[2]
    if pattern.routed:
        density = pattern.route(q, k, causal=case.causal, q_offset=0, scale=WIDTH**-0.5).density(n)
    else:
        density = (pattern & fv.patterns.Causal() if case.causal else pattern).density(n)
    return ((n + 1) / (2 * n) if case.causal else 1) / density


def main() -> None:
    """Measure and write ``results/patterns.json``."""
    torch.set_num_threads(2)
    rows = []
    for length in LENGTHS:
        torch.manual_seed(0)
        q, k, v = (torch.randn(1, HEADS, length.tokens, WIDTH) for _ in range(3))
        causal = length.cases[0].causal
        calls: dict[str, Callable[[], Any]] = {
            "dense": partial(F.scaled_dot_product_attention, q, k, v, is_causal=causal)
        }
        calls |= {case.name: call(case, q, k, v) for case in length.cases}
        found = interleave(calls, rounds=length.rounds)
        size = f"{length.tokens:,} tokens"
        dense = found["dense"]
        rows.append(Timing(f"dense SDPA, {size}", dense.seconds_min, dense.seconds_median))
        for case in length.cases:
            timing = found[case.name]
            assert timing.ratio is not None
            timing.name, timing.ratio = f"{case.name}, {size}", 1 / timing.ratio
            could = allowed(case, q, k)
            if could is not None:
                timing.note = f"its pairs alone would allow {could:.1f} ×"
            wanted = case.faster
            if case.share is not None and could is not None:
                timing.target, wanted = f"≥ {case.share:.0%} of that", case.share * could
            elif wanted is not None:
                timing.target = f"≥ {wanted:g} × faster"
            timing.met = None if wanted is None else timing.ratio >= wanted
            rows.append(timing)
    write("patterns", "Patterns against dense SDPA (how much faster, selection included)", rows)


if __name__ == "__main__":
    main()
