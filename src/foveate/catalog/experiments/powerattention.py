"""PowerAttention: a passkey found at every depth, against patterns of equal size.

A small causal transformer of five layers that share their weights, trained from scratch under each
pattern to say at the last token which of 16 passkeys stood among the noise. Under each sparse
pattern a row sees at most eight blocks of four tokens: a window of three, a sink and the powers of
two from 4 to 32; a window of seven and a sink (the baseline); a window of four, a sink and the
slashes at distances 16, 32 and 48. Five layers reach all of the 64 blocks under the first, half
of them under the second. Lengths grow while training, as the authors do it. Training runs on a
dense mask (a simulation); what is reported runs on the executor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ...engine.attention import attention
from ...patterns import Causal, Pattern, PowerAttention, SlidingWindow
from ._trial import Trial

TOKENS, BLOCK, LAYERS, KEYS, NOISE = 256, 4, 5, 16, 32
STEPS, BATCH, ASKED, DEPTHS = 100, 16, 1024, 8


@dataclass(frozen=True)
class Slashes(Pattern):
    """The paper's Algorithm 3: a window, a sink, and blocks at multiples of a stride."""

    block: int
    window: int
    stride: int

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        back = q // self.block - k // self.block
        return (k <= q) & ((back < self.window) | (back % self.stride == 0) | (k < self.block))


PATTERNS: dict[str, Pattern] = {
    "powers of two": PowerAttention(BLOCK, window=3, sinks=1),
    "window": SlidingWindow(7 * BLOCK, sinks=BLOCK),
    "slashes": Slashes(BLOCK, window=4, stride=16),
    "dense": Causal(),
}
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Net(nn.Module):
    """A transformer without positions: all it can know of a place is who sees it."""

    def __init__(self, dim: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(KEYS + NOISE + 1, dim)
        self.first, self.second, self.last = (nn.LayerNorm(dim) for _ in range(3))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.out = nn.Linear(dim, KEYS)

    def forward(self, ids: Tensor, attend: Attend) -> Tensor:
        x = self.embed(ids)
        for _ in range(LAYERS):
            q, k, v = (
                self.qkv(self.first(x)).view(*ids.shape, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            )
            x = x + self.proj(attend(q, k, v).transpose(1, 2).flatten(2))
            x = x + self.mlp(self.second(x))
        return self.out(self.last(x[:, -1]))


def drawn(count: int, tokens: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noise with one passkey in it and a question at the end; the passkey and its place."""
    ids = torch.randint(KEYS, KEYS + NOISE, (count, tokens), generator=g)
    ids[:, -1] = KEYS + NOISE
    key = torch.randint(KEYS, (count,), generator=g)
    at = torch.randint(tokens - 1, (count,), generator=g)
    ids[torch.arange(count), at] = key
    return ids, key, at


def trained(pattern: Pattern, seed: int) -> Net:
    """Lengths of an eighth, a quarter, a half, the whole; as many tokens a step."""
    torch.manual_seed(seed)
    net, g = Net(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.0)
    for part in (8, 4, 2, 1):
        tokens, count = TOKENS // part, BATCH * max(1, part // 2)
        mask = pattern.mask(tokens)
        attend = partial(nn.functional.scaled_dot_product_attention, attn_mask=mask)
        for _ in range(STEPS):
            ids, key, _ = drawn(count, tokens, g)
            loss = nn.functional.cross_entropy(net(ids, attend), key)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
    return net.eval()


def reach(pattern: Pattern) -> float:
    """The share of tokens that the last output depends on."""
    mask, field = pattern.mask(TOKENS).float(), torch.zeros(TOKENS)
    field[-1] = 1
    for _ in range(LAYERS):
        field = ((field @ mask) > 0).float()
    return round(float(field.mean()), 3)


@torch.no_grad()
def answered(net: Net, pattern: Pattern, ids: Tensor, key: Tensor) -> Tensor:
    """Whether each passkey was found."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, causal=True, pattern=pattern).out

    parts = zip(ids.split(256), key.split(256), strict=True)
    return torch.cat([net(part, attend).argmax(-1) == wanted for part, wanted in parts]).float()


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    ids, key, at = drawn(ASKED, TOKENS, torch.Generator().manual_seed(99))
    right: dict[str, Tensor] = {}
    for name, pattern in PATTERNS.items():
        progress(f"training under {name}")
        right[name] = answered(trained(pattern, seed=0), pattern, ids, key)
    depth = at * DEPTHS // TOKENS
    return Trial(
        baseline=("passkeys found, a window of equal size", right["window"].tolist()),
        method=("passkeys found, powers of two", right["powers of two"].tolist()),
        better="higher",
        seeds=(0, 99),
        details={
            "tokens": TOKENS,
            "layers": LAYERS,
            "passkeys asked": ASKED,
            "by pattern": {
                name: {
                    "most keys of a row": int(pattern.mask(TOKENS).sum(-1).max()),
                    "share of tokens in reach": reach(pattern),
                    "found": round(float(right[name].mean()), 4),
                    "found by depth, first to last eighth": [
                        round(float(right[name][depth == place].mean()), 3)
                        for place in range(DEPTHS)
                    ],
                }
                for name, pattern in PATTERNS.items()
            },
        },
    )
