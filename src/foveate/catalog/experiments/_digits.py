"""Handwritten digits of 8 × 8 pixels, and a small network around attention on their 64 pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...errors import FoveateError

SIDE = 8
Layers = Callable[[], Sequence[nn.Module]]


def digits(train: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(x, y, test x, test y)``: images ``[n, 1, 8, 8]`` of 0 … 1, and what they show."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise FoveateError(
            "The digits come with scikit-learn, which is not installed: pip install scikit-learn."
        ) from error
    found = load_digits()
    x = torch.tensor(found.data, dtype=torch.float32).view(-1, 1, SIDE, SIDE) / 16
    y = torch.tensor(found.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    first, rest = order[:train], order[train:]
    return x[first], y[first], x[rest], y[rest]


class Network(nn.Module):
    """A 3 × 3 convolution, residual blocks of a given layer and a perceptron, the mean, a class.

    (Without the first one's batch norm a few hundred steps are too few for all of the layers.)

    Each layer takes tokens ``[B, S, dim]``; one that returns fewer (a strided one) has none added.
    """

    def __init__(self, dim: int, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem: nn.Module = nn.Sequential(
            nn.Conv2d(1, dim, 3, padding=1), nn.BatchNorm2d(dim), nn.GELU()
        )
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in layers)
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
            )
            for _ in layers
        )
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 10))

    def tokens(self, x: Tensor) -> Tensor:
        """After the last block: images ``[B, 1, 8, 8] -> [B, S, dim]``."""
        x = self.stem(x).flatten(2).mT
        for norm, layer, mlp in zip(self.norms, self.layers, self.mlps, strict=True):
            seen = layer(norm(x))
            x = x + seen if seen.shape == x.shape else seen
            x = x + mlp(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, 1, 8, 8]`` to logits ``[B, 10]``."""
        out: Tensor = self.head(self.tokens(x).mean(1))
        return out


def trained(
    layers: Layers, dim: int, x: Tensor, y: Tensor, *, epochs: int, seed: int, rate: float = 3e-3
) -> Network:
    """A network trained on ``x, y``; its weights and the order of the images follow ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(dim, layers())
    shuffle = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(x) // 64)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        for part in torch.randperm(len(x), generator=shuffle).split(64):
            loss = nn.functional.cross_entropy(network(x[part]), y[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def right(network: Network, x: Tensor, y: Tensor) -> list[float]:
    """1 for an image recognised, 0 for another."""
    return (network(x).argmax(-1) == y).float().tolist()


def weights(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(p.numel() for p in module.parameters())


TRAIN, EPOCHS, SEEDS, RATES = 600, 12, (1, 2), (3e-3, 1e-2)


def compare(
    kinds: Mapping[str, Layers],
    dim: int,
    progress: Callable[[str], None],
    *,
    rate_of: Mapping[str, str],
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """What each kind of network recognises, an image a number, and its learning rate.

    The rate is the one of two that does best on 200 images held out, of another seed; kinds named
    in ``rate_of`` take another kind's, listed before.
    """
    found: dict[str, list[float]] = {}
    rates: dict[str, float] = {}
    for name, layers in kinds.items():
        progress(name)
        rates[name] = rates[rate_of[name]] if name in rate_of else _best_rate(layers, dim)
        found[name] = []
        for seed in SEEDS:
            x, y, test_x, test_y = digits(TRAIN, seed)
            network = trained(layers, dim, x, y, epochs=EPOCHS, seed=seed, rate=rates[name])
            found[name] += right(network, test_x, test_y)
    return found, rates


def _best_rate(layers: Layers, dim: int) -> float:
    x, y, _, _ = digits(TRAIN, seed=0)
    held = TRAIN // 3
    scores = {}
    for rate in RATES:
        network = trained(layers, dim, x[held:], y[held:], epochs=EPOCHS, seed=0, rate=rate)
        scores[rate] = sum(right(network, x[:held], y[:held]))
    return max(scores, key=lambda rate: scores[rate])
