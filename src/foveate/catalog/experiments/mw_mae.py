"""MW-MHA in the decoder of a masked autoencoder, against plain multi-head attention.

Signals of 240 samples in 60 tokens: a long period through the whole, and a short one that is
another every twelve tokens. Six tenths of the tokens are hidden; a small encoder sees the others,
a decoder of two blocks restores what is missing. The decoders differ in their windows alone (2, 4,
10, 20, all, all against all six times) and the few biases that come with them; a third has such
biases without windows. Each is trained twice. Beside the loss: how far heads look, in mean tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ...engine.attention import attention
from ...engine.measures import distance
from ...layers.multi_window import MultiWindowAttention
from ...patterns import MultiWindow
from ._trial import Trial

TOKENS, SAMPLES, DIM, HEADS, SEGMENT = 60, 4, 48, 6, 12
STEPS, BATCH, ASKED, SEEDS = 300, 32, 256, (0, 1)
WINDOWS = {
    "multi-window": [2, 4, 10, 20, 0, 0],
    "plain": [0] * HEADS,
    "plain with position biases": [TOKENS] * HEADS,
}


class Block(nn.Module):
    """A transformer block."""

    def __init__(self, windows: list[int]) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.attention = MultiWindowAttention(DIM, windows)
        self.mlp = nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, DIM))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.mlp(self.second(x))


class Autoencoder(nn.Module):
    """The encoder sees some tokens; the decoder gets them in place, and a mask token elsewhere."""

    def __init__(self, windows: list[int]) -> None:
        super().__init__()
        angle = torch.arange(TOKENS)[:, None] * 10000 ** (-torch.arange(DIM // 2) / (DIM / 2))
        self.place = torch.cat([angle.sin(), angle.cos()], -1)
        self.embed, self.between = nn.Linear(SAMPLES, DIM), nn.Linear(DIM, DIM)
        self.hidden = nn.Parameter(torch.randn(DIM) * 0.02)
        self.encoder = nn.Sequential(*(Block([0] * HEADS) for _ in range(2)), nn.LayerNorm(DIM))
        self.decoder = nn.Sequential(*(Block(windows) for _ in range(2)), nn.LayerNorm(DIM))
        self.out = nn.Linear(DIM, SAMPLES)

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        at = kept[..., None].expand(-1, -1, DIM)
        seen = self.between(self.encoder((self.embed(x) + self.place).gather(1, at)))
        whole = self.hidden.expand(len(x), TOKENS, DIM).scatter(1, at, seen)
        return self.out(self.decoder(whole + self.place))


def drawn(count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Signals ``[count, tokens, samples]``; the places of the tokens that are shown."""
    time = torch.arange(TOKENS * SAMPLES).float()

    def wave(least: float, most: float, pieces: int) -> Tensor:
        period, phase = torch.rand(2, count, pieces, 1, generator=g)
        period = least + (most - least) * period
        return torch.sin(2 * torch.pi * (time.view(pieces, -1) / period + phase)).flatten(1)

    signal = wave(60, 120, 1) + wave(6, 15, TOKENS // SEGMENT)
    kept = torch.rand(count, TOKENS, generator=g).argsort(1)[:, : TOKENS * 2 // 5]
    return signal.view(count, TOKENS, SAMPLES), kept


def errors(net: Autoencoder, x: Tensor, kept: Tensor) -> Tensor:
    """The mean squared error of the hidden tokens, one number a signal."""
    hidden = torch.ones(x.shape[:2]).scatter(1, kept, 0.0)
    wrong = (net(x, kept) - x).square().mean(-1)
    return (wrong * hidden).sum(1) / hidden.sum(1)


def trained(windows: list[int], seed: int) -> Autoencoder:
    """From scratch."""
    torch.manual_seed(seed)
    net, g = Autoencoder(windows), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 50) * (1 - step / STEPS)
        loss = errors(net, *drawn(BATCH, g)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return net.eval()


@torch.no_grad()
def distances(net: Autoencoder, x: Tensor, kept: Tensor) -> dict[str, list[float]]:
    """How far each head looks on average, in tokens (the encoder's: places among those it sees).

    Position biases are left out: what content alone looks at, within the head's window.
    """
    found: dict[str, list[Tensor]] = {"encoder": [], "decoder": []}

    def look(room: str) -> Callable[[Any, Any], None]:
        def hook(layer: MultiWindowAttention, given: tuple[Tensor]) -> None:
            (x,) = given
            q, k, v = layer.qkv(x).view(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
            pattern = MultiWindow([w or x.shape[1] for w in layer.windows])
            measured = attention(q, k, v, pattern=pattern, measures=[distance()]).measures
            found[room].append(measured["distance"].mean((0, 2)))

        return hook

    hooks = [
        block.attention.register_forward_pre_hook(look(room))
        for room in found
        for block in getattr(net, room)
        if isinstance(block, Block)
    ]
    net(x, kept)
    for handle in hooks:
        handle.remove()
    means = {room: torch.stack(of).mean(0) for room, of in found.items()}
    return {room: [round(float(d), 2) for d in mean] for room, mean in means.items()}


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    x, kept = drawn(ASKED, torch.Generator().manual_seed(99))
    error: dict[str, Tensor] = {}
    details: dict[str, Any] = {}
    for name, windows in WINDOWS.items():
        seen = []
        for seed in SEEDS:
            progress(f"training: {name}, seed {seed}")
            net = trained(windows, seed)
            with torch.no_grad():
                seen.append(errors(net, x, kept))
        error[name] = torch.stack(seen).mean(0)
        details[name] = {
            "error": round(float(error[name].mean()), 4),
            "error by seed": [round(float(one.mean()), 4) for one in seen],
            "parameters": sum(p.numel() for p in net.parameters()),
            "mean distance by head": distances(net, x[:64], kept[:64]),
        }
    far = details["multi-window"]["mean distance by head"]["decoder"]
    return Trial(
        baseline=("error of hidden tokens, plain attention", error["plain"].tolist()),
        method=("error of hidden tokens, multi-window", error["multi-window"].tolist()),
        better="lower",
        seeds=(*SEEDS, 99),
        details={
            "signals": ASKED,
            "windows": WINDOWS["multi-window"],
            "decoder heads look farther with their window": all(
                a < b for a, b in pairwise(far[:5])
            ),
            **details,
        },
    )
