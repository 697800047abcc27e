"""BiFormer's routing on images of matching patches, against windows of as many tokens.

Every shape of an image stands twice, in colour in the upper half and in grey in the lower, where
its colour is asked for. One layer on 8 × 8 tokens; shapes and regions are 2 × 2, and 4 regions are
seen, against windows of 4 × 4. All arms share the steps in which every region is seen, with the
same parameters, and go on for the same FLOPs. Beside it: how often the regions that a grey shape's
region chose held its match.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...layers._projections import split_heads
from ...layers.biformer import BiLevelRouting
from ...layers.tiny import TinyModel
from ...patterns.bilevel import BiLevel
from ...patterns.grid import Windows
from ...tasks.recall import MatchingShapes
from ._trained import Arm, against_windows, compare, entering
from ._trial import Trial

TASK = MatchingShapes(side=8, cell=2, shapes=8, kinds=8, colours=4)
GRID, REGIONS, TOP, WINDOW = (8, 8), 4, 4, 4
DIM, HEADS, ITEMS, SEED = 64, 2, 200, 0
STEPS, MORE, RATE = 400, 150, 5e-3


def layer(top: int, window: bool = False) -> BiLevelRouting:
    """The same weights: seeing ``top`` regions (all of them: dense), or a window."""
    made = BiLevelRouting(DIM, HEADS, GRID, REGIONS, top, kernel=3)
    if window:
        made.pattern = Windows(GRID, WINDOW)
    return made


ARMS = {
    "dense": Arm(lambda: layer(REGIONS**2), 64),
    "routed": Arm(lambda: layer(TOP), TOP * 4 + REGIONS**2 / 4),  # and regions by regions
    "windows": Arm(lambda: layer(TOP, window=True), WINDOW**2),
}


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    found = compare(
        ARMS,
        TASK,
        first=(STEPS, ARMS["dense"]),
        dim=DIM,
        layers=1,
        steps=MORE,
        lr=RATE,
        items=ITEMS,
        seed=SEED,
        grid=GRID,
        progress=progress,
    )
    return against_windows(
        found,
        f"{TOP} of {REGIONS**2} regions of 2 × 2",
        f"windows of {WINDOW} × {WINDOW}",
        SEED,
        {
            "share of tokens seen": TOP / REGIONS**2,
            "the match among the chosen regions": round(chosen(found["routed"].model), 4),
            "the same by chance": TOP / REGIONS**2,
            "guessing": TASK.chance,
        },
    )


@torch.no_grad()
def chosen(model: TinyModel) -> float:
    """How often a grey shape's region chose the region of its match."""
    tokens, targets = TASK.batch(64, torch.Generator().manual_seed(SEED + 2))
    attend: Any = model.attention[0]
    assert isinstance(attend.pattern, BiLevel)
    q, k = (split_heads(t, HEADS) for t in attend.qkv(entering(model, tokens)).chunk(3, -1)[:2])
    shown = attend.pattern.route(q, k, causal=False, q_offset=0, scale=1.0).matrix()[:, 0]
    item, place = (targets >= 0).nonzero(as_tuple=True)
    kind = (tokens - 1) // (1 + TASK.colours)
    alike = (kind[item] == kind[item, place][:, None]) & (targets[item] < 0) & (tokens[item] > 0)
    return float(shown[item, place][alike].float().mean())
