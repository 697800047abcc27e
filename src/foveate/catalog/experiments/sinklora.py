"""SF-Attn against S²-Attn: a small language model taken from 128 tokens to 512.

Every document has its own 96 words and its own rule of which follows which, broken now and then:
the longer the context, the better it can be told what comes next. A transformer of two layers
learns this on 128 tokens, after short documents of few words; its positions are then squeezed by
four (as in LongLoRA) and it is fine-tuned on 512 tokens under each mask, twice. What is reported is
the loss of held-out documents of 512 tokens with dense attention. Masks are dense here: only what
they teach is tried.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ...patterns import ShiftedGroups
from ._trial import Trial

VOCAB, SHORT, LONG, HEADS, DOCUMENTS = 129, 128, 512, 4, 64
EASY, BEFORE, AFTER, SEEDS = 600, 80, 40, (1, 2)
COPIES = 2.3  # nats; below it the model copies what followed, it does not only count words
MASKS = {
    "dense": None,
    "S²-Attn": ShiftedGroups(LONG // 4, HEADS),
    "SF-Attn": ShiftedGroups(LONG // 4, HEADS, shifted=1, sinks=4),
}


def turned(x: Tensor, position: Tensor) -> Tensor:
    """Rotary positions on the first half of a head's channels."""
    turning, still = x.chunk(2, -1)
    a, b = turning.chunk(2, -1)
    angle = position[:, None] * 1000.0 ** (-torch.arange(a.shape[-1]) / a.shape[-1])
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos, still], -1)


class Layer(nn.Module):
    """A transformer block."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, mask: Tensor | None, position: Tensor) -> Tensor:
        qkv = self.qkv(self.first(x)).view(*x.shape[:2], 3, HEADS, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        out = nn.functional.scaled_dot_product_attention(
            turned(q, position), turned(k, position), v, attn_mask=mask, is_causal=mask is None
        )
        x = x + self.proj(out.transpose(1, 2).flatten(2))
        return x + self.mlp(self.second(x))


class Net(nn.Module):
    """Two blocks; a token also carries the one before it, so that one block can match and copy."""

    def __init__(self, dim: int = 128) -> None:
        super().__init__()
        self.embed, self.before = nn.Embedding(VOCAB, dim), nn.Embedding(VOCAB, dim)
        for table in (self.embed, self.before):
            nn.init.normal_(table.weight, std=0.2)
        self.layers = nn.ModuleList(Layer(dim) for _ in range(2))
        self.last = nn.LayerNorm(dim)

    def forward(self, ids: Tensor, mask: Tensor | None, squeeze: int) -> Tensor:
        x = self.embed(ids) + nn.functional.pad(self.before(ids[:, :-1]), (0, 0, 1, 0))
        position = torch.arange(ids.shape[1]) / squeeze
        for layer in self.layers:
            x = layer(x, mask, position)
        return self.last(x) @ self.embed.weight.T


def documents(count: int, tokens: int, g: torch.Generator, least: int, most: int) -> Tensor:
    """Ids ``[count, tokens]``; each document goes round its words, and jumps at one in five."""
    names = torch.rand(count, VOCAB - 1, generator=g).argsort(1)
    many = torch.randint(least, most + 1, (count,), generator=g)
    jumps = torch.rand(count, tokens, generator=g) < 0.2
    anywhere = (torch.rand(count, tokens, generator=g) * many[:, None]).long()
    word, found = torch.zeros(count, dtype=torch.long), []
    for i in range(tokens):
        found.append(word)
        word = torch.where(jumps[:, i], anywhere[:, i], (word + 1) % many)
    ids = names.gather(1, torch.stack(found, 1))
    ids[:, 0] = VOCAB - 1  # begins the text
    return ids


def losses(net: Net, ids: Tensor, mask: Tensor | None, squeeze: int) -> Tensor:
    """Negative log-probability of every next token, in nats ``[count, tokens - 1]``."""
    short = None if mask is None else mask[..., :-1, :-1]
    logits = net(ids[:, :-1], short, squeeze)
    return nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")


def fitted(
    net: Net,
    draw: Callable[[], Tensor],
    steps: int,
    rate: float,
    mask: Tensor | None = None,
    squeeze: int = 1,
    until: float = 0.0,
) -> Net:
    """Train in place, for some steps or until the loss of the last ten is low."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    last: list[float] = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 20)
        loss = losses(net, draw(), mask, squeeze).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        last.append(float(loss.detach()))
        if step >= 10 and sum(last[-10:]) / 10 < until:
            break
    return net


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    progress(f"a model of {SHORT} tokens")
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    base = fitted(Net(), lambda: documents(32, SHORT // 2, g, 4, 24), EASY, 3e-3, until=COPIES)
    fitted(base, lambda: documents(32, SHORT, g, 8, 96), BEFORE, 2e-3)
    held = documents(DOCUMENTS, LONG, torch.Generator().manual_seed(7), 96, 96)

    @torch.no_grad()
    def evaluated(net: Net, squeeze: int = LONG // SHORT) -> Tensor:
        return torch.cat([losses(net, part, None, squeeze) for part in held.split(16)])

    before = evaluated(base)
    progress(f"loss before fine-tuning {float(before.mean()):.3f}")
    found: dict[str, Tensor] = {}
    for name, pattern in MASKS.items():
        mask, seen = None if pattern is None else pattern.mask(LONG), []
        for seed in SEEDS:
            progress(f"fine-tuned on {LONG} tokens: {name}, seed {seed}")
            g = torch.Generator().manual_seed(seed)
            net = copy.deepcopy(base)
            draw = partial(documents, 8, LONG, g, 96, 96)
            seen.append(evaluated(fitted(net, draw, AFTER, 1e-3, mask, LONG // SHORT)))
        found[name] = torch.stack(seen).mean(0)
    gain = {name: float((before - loss).mean()) for name, loss in found.items()}
    eighths = {name: loss.tensor_split(8, 1) for name, loss in found.items()}
    return Trial(
        baseline=("loss of a document, dense, after S²-Attn", found["S²-Attn"].mean(1).tolist()),
        method=("loss of a document, dense, after SF-Attn", found["SF-Attn"].mean(1).tolist()),
        better="lower",
        seeds=(0, 7, *SEEDS),
        details={
            "documents": DOCUMENTS,
            "loss before fine-tuning": {
                "positions squeezed": round(float(before.mean()), 4),
                "positions as they are": round(float(evaluated(base, 1).mean()), 4),
            },
            "loss by mask": {name: round(float(x.mean()), 4) for name, x in found.items()},
            "share of dense fine-tuning's gain": {
                name: round(value / gain["dense"], 3) for name, value in gain.items()
            },
            "loss by place, first to last eighth": {
                name: [round(float(part.mean()), 3) for part in parts]
                for name, parts in eighths.items()
            },
        },
    )
