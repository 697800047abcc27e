"""``fv.attention`` against plain SDPA: H=9, D=64, 4,096 tokens, causal, float32, 2 threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

import foveate as fv

from .harness import Timing, at_most, interleave, write


def main(rounds: int = 9, tokens: int = 4096) -> None:
    """Measure and write ``results/operator.json``."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    q, k, v = (torch.randn(1, 9, tokens, 64) for _ in range(3))
    step = tokens // 8
    regions = {f"r{n}": torch.zeros(tokens, dtype=torch.bool) for n in range(8)}
    for n, region in enumerate(regions.values()):
        region[n * step : n * step + step // 2] = True
    gains = {name: 0.5 + n for n, name in enumerate(regions)}
    masses = [fv.mass(name) for name in regions]

    def call(**options: Any) -> Callable[[], Any]:
        return lambda: fv.attention(q, k, v, causal=True, **options)

    inside = torch.stack(list(regions.values())).float()
    weights = torch.tensor(list(gains.values())).log() @ inside  # log g on every key

    def dense_mask() -> torch.Tensor:
        # What pastalib does: the log gains and the triangle as one [1, H, S, S] mask.
        later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        mask = weights.expand(tokens, tokens).masked_fill(later, -torch.inf)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.expand(1, 9, -1, -1))

    few = list(range(tokens - 16, tokens))

    def recompute_rows() -> torch.Tensor:
        # What AT2 and SnapKV do: the flash kernel for the output, a few rows of P again by hand.
        F.scaled_dot_product_attention(q, k, v, is_causal=True)
        scores = q[:, :, few] @ k.mT * 64**-0.5
        later = torch.arange(tokens)[None] > torch.tensor(few)[:, None]
        return scores.masked_fill(later, -torch.inf).softmax(-1)

    def eager() -> tuple[torch.Tensor, torch.Tensor]:
        scores = q @ k.mT * 64**-0.5
        later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        p = scores.masked_fill_(later, -torch.inf).softmax(-1)
        return p @ v, p

    found = interleave(
        {
            "plain SDPA": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
            "eight gains on eight regions": call(regions=regions, gains=gains),
            "8 masses and distance": call(regions=regions, measures=[*masses, fv.distance()]),
            "entropy": call(measures=fv.entropy()),
            "received": call(measures=fv.received()),
            "8 gains, 8 masses, distance, entropy, received, block map": call(
                regions=regions,
                gains=gains,
                measures=[*masses, fv.distance(), fv.entropy(), fv.received(), fv.block_map(32)],
            ),
            "a gain that varies along the queries (one column)": call(
                regions=regions, gains={"r0": torch.rand(1, 9, tokens) + 0.5}
            ),
            "chunked: last half of the queries (2 pieces merged)": lambda: fv.attention(
                q[:, :, tokens // 2 :], k, v, causal=True
            ),
            "16 rows of P": call(measures=fv.rows(few)),
            "16 rows of P, recomputed beside SDPA (AT2, SnapKV)": recompute_rows,
        },
        rounds,
    )
    # Those that make matrices in a round of their own: what they leave of the caches and of the
    # allocator is not the next candidate's to pay.
    matrices = interleave(
        {
            "plain SDPA": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
            "the eight gains as a dense mask on SDPA (pastalib)": dense_mask,
            "the same chunk, SDPA with a dense mask": lambda: F.scaled_dot_product_attention(
                q[:, :, tokens // 2 :],
                k,
                v,
                attn_mask=torch.ones(tokens // 2, tokens, dtype=torch.bool).tril(tokens // 2),
            ),
            "eager: the whole matrix": eager,
        },
        rounds,
    )
    del matrices["plain SDPA"]
    targets = {
        "eight gains on eight regions": 1.06,
        "8 masses and distance": 1.25,
        "entropy": 1.8,
        "received": 3.0,
    }
    rows: list[Timing] = [
        at_most(t, targets[t.name]) if t.name in targets else t for t in (found | matrices).values()
    ]
    write("operator", f"One call, causal, H=9, D=64, {tokens} tokens, float32, 2 threads", rows)
