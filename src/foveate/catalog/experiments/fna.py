"""FNA: peak memory of neighbourhood attention, fused and not, by the size of the window.

Not fused is what the paper's naive kernels do: the weights of all queries on all places of their
window are written out (``n x window``), normalised, and read again; keys and values are taken one
place of the window at a time. Fused is ``fv.attention`` under the pattern. Beside it: seconds of
both, and by how much they differ.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ...engine.attention import attention
from ...patterns import Neighborhood
from ._peak import peak_mb
from ._trial import Trial

SIDE, HEADS, SIZE = 64, 4, 32
WINDOWS = (7, 11, 15, 19, 23, 27, 31, 35, 39, 43, 47, 51)


def places(pattern: Neighborhood) -> list[Tensor]:
    """For each place of the window the key that each query sees there, int64 ``[tokens]``."""
    keys = torch.zeros(1, pattern.tokens, dtype=torch.long)
    at = pattern.coordinates(torch.arange(pattern.tokens))
    for axis, (side, w, d) in enumerate(
        zip(pattern.grid, pattern.window, pattern.dilation, strict=True)
    ):
        first, _ = pattern.span(axis, at[axis])
        seen = first + torch.arange(w)[:, None] * d
        keys = (keys[:, None] * side + seen).flatten(0, 1)
    return list(keys)


def unfused(q: Tensor, k: Tensor, v: Tensor, keys: list[Tensor]) -> Tensor:
    """Weights written out: ``q, k, v [B,H,S,D] -> [B,H,S,D]``."""
    weights = q.new_empty(*q.shape[:-1], len(keys))
    for n, index in enumerate(keys):
        torch.sum(q * k.index_select(2, index), -1, out=weights[..., n])
    weights.mul_(1 / math.sqrt(q.shape[-1]))
    weights = weights.softmax(-1)
    out = torch.zeros_like(v)
    for n, index in enumerate(keys):
        out += weights[..., n, None] * v.index_select(2, index)
    return out


@torch.no_grad()
def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, HEADS, SIDE * SIDE, SIZE, generator=g)
    naive, fused, furthest = [], [], 0.0
    seconds: dict[str, list[float]] = {}
    for window in WINDOWS:
        progress(f"window {window} x {window} of {SIDE} x {SIDE} tokens")
        pattern = Neighborhood((SIDE, SIDE), window)
        keys = places(pattern)
        out = attention(q, k, v, pattern=pattern).out  # cuts the pattern, once and for all
        furthest = max(furthest, float((out - unfused(q, k, v, keys)).abs().max()))
        fused.append(peak_mb(lambda: attention(q, k, v, pattern=pattern)))  # noqa: B023
        naive.append(peak_mb(lambda: unfused(q, k, v, keys)))  # noqa: B023
        taken = []
        for call in (lambda: unfused(q, k, v, keys), lambda: attention(q, k, v, pattern=pattern)):  # noqa: B023
            start = time.perf_counter()
            call()
            taken.append(round(time.perf_counter() - start, 3))
        seconds[str(window)] = taken
    return Trial(
        baseline=("peak extra memory in MB, weights written out", naive),
        method=("peak extra memory in MB, fused over tiles", fused),
        better="lower",
        details={
            "items": f"{len(WINDOWS)} windows on {SIDE} x {SIDE} tokens, {HEADS} heads of {SIZE}, "
            "float32",
            "MB by window, written out and fused": {
                str(w): [round(a, 1), round(b, 1)]
                for w, a, b in zip(WINDOWS, naive, fused, strict=True)
            },
            "seconds by window, written out and fused": seconds,
            "largest difference of the outputs": furthest,
        },
    )
