"""HaloNet: blocked local attention in the place of 3 × 3 convolutions, on 8 × 8 digits.

The paper's claim is accuracy per parameter. As there, the spatial layer stands in a bottleneck of a
residual network: attention of 2 × 2 blocks with a halo of 1 (16 of 64 keys are scored), or a 3 × 3
convolution, with as many weights. Rates are tuned on other images than reported, each for itself.
Beside it: a convolution first and attention second, attention with one block over the image (global
attention), and with strided queries.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ...layers import HaloAttention
from ...patterns import Halo
from ...statistics import paired_bootstrap
from ._digits import SEEDS, SIDE, TRAIN, Layers, compare, weights
from ._trial import Trial

GRID = (SIDE, SIDE)
DIM = 32


class Bottleneck(nn.Module):
    """A spatial layer between two 1 × 1 convolutions, on tokens ``[B, 64, DIM]``."""

    def __init__(self, width: int, spatial: nn.Module) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(DIM, width), nn.Linear(width, DIM)
        self.before, self.after = nn.BatchNorm1d(width), nn.BatchNorm1d(width)
        self.spatial = spatial

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 64, DIM] -> [B, 64 or fewer, DIM]``."""
        x = nn.functional.gelu(self.before(self.into(x).mT))
        x = self.spatial(x) if isinstance(self.spatial, nn.Conv2d) else self.spatial(x.mT).mT
        out: Tensor = self.out(nn.functional.gelu(self.after(x)).mT)
        return out


class Convolution(nn.Conv2d):
    """3 × 3, on ``[B, C, 64]``."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, 64] -> [B, C, 64]``."""
        return super().forward(x.unflatten(-1, GRID)).flatten(2)


def convolution() -> nn.Module:
    """A bottleneck of 16 channels around a convolution."""
    return Bottleneck(16, Convolution(16, 16, 3, padding=1))


def attention(block: int = 2, halo: int = 1, stride: int = 1) -> nn.Module:
    """A bottleneck of 24 channels, as many weights as the other, around attention."""
    return Bottleneck(24, HaloAttention(24, 4, block, halo, stride=stride, grid=GRID, proj=False))


KINDS: dict[str, Layers] = {
    "convolution": lambda: [convolution(), convolution()],
    "halo": lambda: [attention(), attention()],
    "convolution, then halo": lambda: [convolution(), attention()],
    "global": lambda: [attention(SIDE, 0), attention(SIDE, 0)],
    "halo, strided": lambda: [attention(), attention(stride=2)],
}


RATE_OF = {"convolution, then halo": "halo", "global": "halo", "halo, strided": "halo"}


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    found, rates = compare(KINDS, DIM, progress, rate_of=RATE_OF)
    against = {
        "halo minus global": paired_bootstrap(found["global"], found["halo"]),
        "mixed minus convolution": paired_bootstrap(
            found["convolution"], found["convolution, then halo"]
        ),
    }
    return Trial(
        baseline=("accuracy, 3 × 3 convolutions", found["convolution"]),
        method=("accuracy, blocked local attention", found["halo"]),
        better="higher",
        seeds=(0, *SEEDS),
        details={
            "accuracy": {name: round(sum(a) / len(a), 4) for name, a in found.items()},
            "weights of the two layers": {
                name: sum(weights(layer) for layer in layers()) for name, layers in KINDS.items()
            },
            "learning rate": rates,
            "intervals": {
                name: [round(float(end), 4) for end in ends] for name, ends in against.items()
            },
            "share of pairs scored": {
                "halo, with what lies outside the image": 16 / SIDE**2,
                "halo, seen": round(Halo(GRID, 2, 1).density(SIDE**2), 4),
            },
            "images": {"train": TRAIN, "test, each seed": len(found["halo"]) // len(SEEDS)},
        },
    )
