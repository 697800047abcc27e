"""DiNAT: digits told by blocks of local attention, and by local and dilated ones in turn.

Two blocks with a window of 3 x 3 on 8 x 8 tokens, a position bias and no other positions. Nothing
but the dilation of the second block differs: same weights at the start, same batches. Beside it:
the share of a larger grid that an output token depends on, by the number of blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch

from ...layers import DiNAT, NeighborhoodAttention
from ._digits import SIDE, digits, right, trained
from ._trial import Trial

SEEDS, TRAIN, EPOCHS = (0, 1, 2), 900, 10
DIM, HEADS, WINDOW = 24, 3, 3
KINDS: dict[str, list[int]] = {"local": [1, 1], "dilated": [1, 2]}


def blocks(dilations: list[int]) -> Callable[[], list[NeighborhoodAttention]]:
    """Attention layers, one for each dilation."""
    return lambda: [
        NeighborhoodAttention(DIM, HEADS, (SIDE, SIDE), WINDOW, dilation=d) for d in dilations
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
    found: dict[str, list[list[float]]] = {name: [] for name in KINDS}
    for seed in SEEDS:
        x, y, test_x, test_y = digits(TRAIN, seed)
        for name, dilations in KINDS.items():
            progress(f"training: {name}, seed {seed}")
            network = trained(blocks(dilations), DIM, x, y, epochs=EPOCHS, seed=seed)
            found[name].append(right(network, test_x, test_y))
    progress("receptive fields")
    fields = {
        str(depth): [
            reach([1] * depth),
            reach([8 if block % 2 else 1 for block in range(depth)]),
        ]
        for depth in (1, 2, 3, 4, 6)
    }
    return Trial(
        baseline=("accuracy on digits, local blocks", [*chain(*found["local"])]),
        method=("accuracy on digits, local and dilated blocks", [*chain(*found["dilated"])]),
        better="higher",
        seeds=SEEDS,
        details={
            "images": {"train": TRAIN, "held out": len(found["local"][0])},
            "dilations": KINDS,
            "accuracy by seed": {
                name: [round(sum(one) / len(one), 4) for one in each]
                for name, each in found.items()
            },
            "share of 24 x 24 tokens reached by blocks, local and alternating (1, 8)": fields,
        },
    )
