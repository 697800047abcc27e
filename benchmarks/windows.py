"""Attention in Swin's windows: recomputed, written out, and by SDPA with the bias as a mask.

Forth alone and forth and back, on q, k, v of a projection, float32. torch's SDPA has no flash
kernel for a mask that needs a gradient, and so writes the scores out there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.layers import flash_window_attention

from .harness import Timing, interleave, write

# name, images, windows, heads, tokens of a window, head size
CASES = (
    ("Swin-T stage 1, 224", 4, 64, 3, 49, 32),
    ("Swin-T stage 3, 224", 4, 4, 12, 49, 32),
    ("Swin-B stage 1, 384", 1, 64, 4, 144, 32),
    ("Swin-B stage 3, 384", 1, 4, 16, 144, 32),
)


def written_out(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Scores and probabilities as tensors, as Swin's code and timm's path without SDPA."""
    return ((q * q.shape[-1] ** -0.5) @ k.mT + bias).softmax(-1) @ v  # type: ignore[no-any-return]


def sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """torch's operator, as timm's path with SDPA."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])


WAYS: dict[str, Callable[..., Tensor]] = {
    "written out": written_out,
    "SDPA": sdpa,
    "recomputed": flash_window_attention,
}


def forth(way: Callable[..., Tensor], qkv: Tensor, bias: Tensor) -> Any:
    """Without gradients."""
    with torch.no_grad():
        return way(*qkv.permute(2, 0, 3, 1, 4), bias)


def both(way: Callable[..., Tensor], qkv: Tensor, bias: Tensor) -> Any:
    """With the gradients of q, k, v and the bias."""
    out = way(*qkv.permute(2, 0, 3, 1, 4), bias)
    return torch.autograd.grad(out, [qkv, bias], torch.ones_like(out))


def main() -> None:
    """Measure and write ``results/windows.json``."""
    torch.set_num_threads(2)
    rows: list[Timing] = []
    for name, images, windows, heads, tokens, size in CASES:
        torch.manual_seed(0)
        qkv = torch.randn(images * windows, tokens, 3, heads, size, requires_grad=True)
        bias = torch.randn(heads, tokens, tokens, requires_grad=True)
        for what, run in (("forth", forth), ("forth and back", both)):
            candidates = {
                f"{name}, {what}: {way}": partial(run, fn, qkv, bias) for way, fn in WAYS.items()
            }
            rows += interleave(candidates, rounds=15, warmup=3).values()
    write("windows", "Attention in Swin's windows, against the scores written out", rows)


if __name__ == "__main__":
    main()
