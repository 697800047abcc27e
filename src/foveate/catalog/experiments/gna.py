"""GNA: how much of what a window allows is gained, sliding and hopping by whole tiles.

The same windows with stride 1 and with a stride that makes them fall on tiles. What they allow is
pairs of all tokens over pairs seen; what is gained is seconds of dense attention over seconds under
the pattern, taken in turns. Beside it: the bound that counting tiles gives for each, with the tiles
of the executor (queries as it takes them together, single keys).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from ...engine.attention import attention
from ...patterns import Neighborhood, tiles_touched
from ._trial import Trial

HEADS, SIZE, ROUNDS = 2, 64, 3
# grid, window, stride that makes it fall on tiles
SETTINGS: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...] = (
    ((8192,), (512,), (512,)),
    ((8192,), (1024,), (256,)),
    ((64, 128), (16, 16), (16, 16)),
    ((64, 128), (16, 16), (8, 16)),
    ((64, 128), (24, 24), (8, 8)),
    ((64, 128), (32, 32), (16, 16)),
    ((64, 128), (32, 16), (16, 16)),
    ((16, 16, 32), (4, 8, 8), (4, 8, 8)),
    ((16, 16, 32), (8, 8, 16), (8, 4, 8)),
    ((16, 16, 32), (8, 8, 8), (4, 8, 8)),
)


@torch.no_grad()
def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    g = torch.Generator().manual_seed(0)
    sliding, hopping = [], []
    details: list[dict[str, Any]] = []
    for grid, window, stride in SETTINGS:
        progress(f"grid {grid}, window {window}, stride {stride}")
        tokens = math.prod(grid)
        q, k, v = torch.randn(3, 1, HEADS, tokens, SIZE, generator=g)
        patterns = [None, Neighborhood(grid, window), Neighborhood(grid, window, stride)]
        taken: list[list[float]] = [[] for _ in patterns]
        for turn in range(ROUNDS + 1):
            for pattern, seconds in zip(patterns, taken, strict=True):
                start = time.perf_counter()
                attention(q, k, v, pattern=pattern)
                if turn:  # the first cuts the pattern
                    seconds.append(time.perf_counter() - start)
        dense, *ours = (min(seconds) for seconds in taken)
        allowed = tokens / math.prod(window)
        sliding.append(dense / ours[0] / allowed)
        hopping.append(dense / ours[1] / allowed)
        details.append(
            {
                "grid": list(grid),
                "window": list(window),
                "stride": list(stride),
                "speed-up allowed": round(allowed, 2),
                "speed-up by tiles, sliding and hopping": [_bound(p) for p in patterns[1:]],
                "speed-up seen, sliding and hopping": [round(dense / t, 2) for t in ours],
            }
        )
    return Trial(
        baseline=("share of the allowed speed-up, stride 1", sliding),
        method=("share of the allowed speed-up, windows that fall on tiles", hopping),
        better="higher",
        details={
            "items": f"{len(SETTINGS)} settings of 8,192 tokens, {HEADS} heads of {SIZE}, float32",
            "threads": torch.get_num_threads(),
            "settings": details,
        },
    )


def _bound(pattern: Neighborhood | None) -> float:
    assert pattern is not None
    single = (1,) * len(pattern.grid)
    return round(tiles_touched(pattern, pattern.tile_sides(), single).speedup, 2)
