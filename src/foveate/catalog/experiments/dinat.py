"""DiNAT: digits told by blocks of local attention, and by local and dilated ones in turn.

Two blocks with a window of 3 x 3, a position bias and no other positions, on digits of 8 x 8 tokens
and on the same of 16 x 16 (each pixel four times): on the small ones two local blocks and the
convolution before them see nearly all; the paper's grids are eight windows wide. Nothing but the
dilation of the second block differs: same weights at the start, same batches. The larger grid
decides. Beside it: the share of a grid that an output token depends on, by the number of blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch

from ...layers import DiNAT, NeighborhoodAttention
from ._digits import digits, right, trained
from ._trial import Trial

SEEDS, TRAIN, EPOCHS = (0, 1), 900, 8
DIM, HEADS, WINDOW = 24, 3, 3
KINDS = ("local", "dilated")


def blocks(side: int, kind: str) -> Callable[[], list[NeighborhoodAttention]]:
    """Two attention layers; dilated means that the second is, as far as the grid goes."""
    dilations = (1, side // WINDOW if kind == "dilated" else 1)
    return lambda: [
        NeighborhoodAttention(DIM, HEADS, (side, side), WINDOW, dilation=d) for d in dilations
    ]


def reach(dilations: list[int], side: int = 24) -> float:
    """Share of a grid that the gradient of an output token reaches, mean over its diagonal."""
    torch.manual_seed(0)
    stage = DiNAT(8, 2, (side, side), WINDOW, dilations=dilations)
    x = torch.randn(1, side * side, 8, requires_grad=True)
    out = stage(x)[0]
    shares = []
    for at in range(0, side, 4):
        (grad,) = torch.autograd.grad(out[at * side + at].sum(), x, retain_graph=True)
        shares.append(float((grad[0].abs().sum(-1) > 0).float().mean()))
    return round(sum(shares) / len(shares), 4)


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    found: dict[int, dict[str, list[list[float]]]] = {}
    for side in (8, 16):
        found[side] = {kind: [] for kind in KINDS}
        for seed in SEEDS:
            x, y, test_x, test_y = digits(TRAIN, seed)
            x, test_x = (
                one.repeat_interleave(side // 8, 2).repeat_interleave(side // 8, 3)
                for one in (x, test_x)
            )
            for kind in KINDS:
                progress(f"training on {side} x {side} tokens: {kind}, seed {seed}")
                network = trained(blocks(side, kind), DIM, x, y, epochs=EPOCHS, seed=seed)
                found[side][kind].append(right(network, test_x, test_y))
    progress("receptive fields")
    fields = {
        str(depth): [
            reach([1] * depth),
            reach([8 if block % 2 else 1 for block in range(depth)]),
        ]
        for depth in (1, 2, 3, 4, 6)
    }
    large = found[16]
    details: dict[str, Any] = {
        f"accuracy by seed, {side} x {side}": {
            kind: [round(sum(one) / len(one), 4) for one in each] for kind, each in kinds.items()
        }
        for side, kinds in found.items()
    }
    return Trial(
        baseline=("accuracy on digits of 16 x 16, local blocks", [*chain(*large["local"])]),
        method=("accuracy on digits of 16 x 16, local and dilated", [*chain(*large["dilated"])]),
        better="higher",
        seeds=SEEDS,
        details={
            "images": {"train": TRAIN, "held out": len(large["local"][0])},
            **details,
            "share of 24 x 24 tokens reached by blocks, local and alternating (1, 8)": fields,
        },
    )
