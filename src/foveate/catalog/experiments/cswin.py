"""CSWin: stripes against Swin's shifted windows with as many keys a query, on 8 × 8 digits.

Two layers each; a query sees 16 of 64 keys in a stripe of width 2 and in a window of 4 × 4. The
paper's claim is accuracy above Swin's at like cost. Beside it: how many of the 64 pixels move a
token after two layers (by gradient), and stripes as wide as the image (global attention). Rates
are tuned on other images than reported, each for itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ...layers import CrossShapedWindowAttention, WindowAttention
from ...statistics import paired_bootstrap
from ._digits import SEEDS, SIDE, TRAIN, Layers, Network, compare, weights
from ._trial import Trial

GRID = (SIDE, SIDE)
DIM, HEADS = 32, 4


def stripes(width: int) -> Layers:
    """Two layers of stripes."""
    return lambda: [CrossShapedWindowAttention(DIM, HEADS, width, grid=GRID) for _ in range(2)]


KINDS: dict[str, Layers] = {
    "windows": lambda: [WindowAttention(DIM, HEADS, 4, shift, grid=GRID) for shift in (0, 2)],
    "stripes": stripes(2),
    "stripes of 1": stripes(1),
    "global": stripes(SIDE),
}


RATE_OF = {"stripes of 1": "stripes", "global": "stripes"}


def reach(layers: Layers, depth: int) -> float:
    """Share of tokens that a token depends on after ``depth`` layers, over all tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(DIM, list(layers())[:depth])
    network.stem = nn.Identity()  # tokens are given: no neighbours yet
    tokens = SIDE**2
    x = torch.randn(1, DIM, *GRID, generator=torch.Generator().manual_seed(0))
    each = x.expand(tokens, -1, -1, -1).clone().requires_grad_()  # an image for each token
    at = torch.arange(tokens)
    (seen,) = torch.autograd.grad(network.tokens(each)[at, at].sum(), each)
    return float((seen != 0).any(1).double().mean())


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    found, rates = compare(KINDS, DIM, progress, rate_of=RATE_OF)
    near = [round(float(end), 4) for end in paired_bootstrap(found["global"], found["stripes"])]
    return Trial(
        baseline=("accuracy, shifted windows of 4 × 4", found["windows"]),
        method=("accuracy, stripes of width 2", found["stripes"]),
        better="higher",
        seeds=(0, *SEEDS),
        details={
            "accuracy": {name: round(sum(a) / len(a), 4) for name, a in found.items()},
            "keys a query sees": {"windows": 16, "stripes": 16, "stripes of 1": 8, "global": 64},
            "tokens that move a token, share": {
                name: {f"{n} layers": round(reach(layers, n), 4) for n in (1, 2)}
                for name, layers in KINDS.items()
            },
            "weights of the two layers": {
                name: sum(weights(layer) for layer in layers()) for name, layers in KINDS.items()
            },
            "learning rate": rates,
            "stripes minus global attention, interval": near,
            "images": {"train": TRAIN, "test, each seed": len(found["stripes"]) // len(SEEDS)},
        },
    )
