"""Half precision: error against float64, beside SDPA given the same program as a dense mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import foveate as fv

from .harness import Timing, write


def main(tokens: int = 2048) -> None:
    """Measure and write ``results/precision.json`` (the ratio column is the ratio of errors)."""
    rows = []
    for dtype in (torch.float16, torch.bfloat16):
        for what, first, limit in (("flash", 0, 1.1), ("merged", tokens // 3, 1.5)):
            g = torch.Generator().manual_seed(0)
            q, k, v = (torch.randn(1, 9, tokens, 64, generator=g).to(dtype) for _ in range(3))
            q = q[:, :, first:]
            regions = {"a": torch.arange(tokens) % 5 == 0}
            bias = regions["a"] * torch.tensor(7.0).log()
            later = torch.arange(tokens)[None] > torch.arange(first, tokens)[:, None]
            mask = bias.expand_as(later).masked_fill(later, -torch.inf).to(dtype)
            want = F.scaled_dot_product_attention(
                *(q.double(), k.double(), v.double()),
                attn_mask=bias.double().expand_as(later).masked_fill(later, -torch.inf),
            )
            got = fv.attention(q, k, v, causal=True, regions=regions, gains={"a": 7.0}).out
            peer = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            ours, theirs = ((t.double() - want).pow(2).mean().sqrt().item() for t in (got, peer))
            row = Timing(f"{what}, {str(dtype).removeprefix('torch.')}: error", 0.0, 0.0)
            row.ratio, row.note = ours / theirs, f"rms {ours:.2e} against {theirs:.2e}"
            row.target, row.met = f"≤ {limit:g} ×", ours / theirs <= limit
            rows.append(row)
    write("precision", "Error of half precision against SDPA with the program as a mask", rows)
