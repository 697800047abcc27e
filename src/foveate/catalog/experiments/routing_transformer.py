"""The Routing Transformer's clusters on recall by groups, against windows of as many keys.

Sixteen groups of tokens hold a value each, said in the first half of a sequence and asked for in
the second. One layer with shared queries and keys, two heads: one local, one that routes. All arms
share the steps in which the second head sees everything, with the same parameters, and go on for
the same FLOPs: dense, in clusters found by online k-means, or in a window of as many keys as a
cluster holds. Beside it: how much of the dense head's attention falls within the clusters, against
random ones of the same size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...engine.attention import attention
from ...layers._projections import split_heads
from ...layers.routing import RoutingAttention
from ...layers.tiny import TinyModel
from ...patterns.clusters import members, on_sphere
from ...patterns.sequence import SlidingWindow
from ...tasks.recall import GroupRecall
from ._trained import Arm, against_windows, compare, entering
from ._trial import Trial

TASK = GroupRecall(length=128, groups=16, values=4)
DIM, HEADS, CLUSTERS, WINDOW = 64, 2, 4, 32
STEPS, MORE, RATE, ITEMS, SEED = 400, 200, 5e-3, 200, 0


class Windowed(RoutingAttention):
    """The same layer with a window in the place of clusters."""

    def _within(self, q: Tensor, k: Tensor | None, v: Tensor, window: int) -> Tensor:
        found = attention(
            q.to(v.dtype), q.to(v.dtype), v, causal=True, pattern=SlidingWindow(WINDOW)
        )
        return found.out


def layer(kind: type[RoutingAttention], clusters: int, window: int) -> RoutingAttention:
    """The same weights under three ways to attend."""
    return kind(DIM, HEADS, clusters, window, local_heads=1, local_window=WINDOW, decay=0.99)


ARMS = {  # pairs of a token, on average over both heads
    "dense": Arm(lambda: layer(RoutingAttention, 1, TASK.length), (WINDOW + TASK.length / 2) / 2),
    "routed": Arm(
        lambda: layer(RoutingAttention, CLUSTERS, WINDOW), (WINDOW + WINDOW / 2 + CLUSTERS) / 2
    ),
    "windows": Arm(lambda: layer(Windowed, CLUSTERS, WINDOW), WINDOW),
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
        progress=progress,
    )
    return against_windows(
        found,
        f"{CLUSTERS} clusters of {WINDOW} tokens",
        f"windows of {WINDOW} keys",
        SEED,
        {
            "attention kept by clusters": kept(found["routed"].model),
            "guessing": TASK.chance,
        },
    )


@torch.no_grad()
def kept(model: TinyModel) -> dict[str, float]:
    """Mass of full attention on tokens that share a cluster: learned clusters, and random ones."""
    tokens, _ = TASK.batch(32, torch.Generator().manual_seed(SEED + 2))
    attend: Any = model.attention[0]
    q = on_sphere(split_heads(attend.routed(entering(model, tokens)).chunk(2, -1)[0], 1))
    score = (q @ q.mT * q.shape[-1] ** -0.5).masked_fill(
        ~torch.ones(TASK.length, TASK.length, dtype=torch.bool).tril(-1), -torch.inf
    )
    p = score.softmax(-1).nan_to_num(0.0)  # the own key apart: every cluster keeps it
    near = q @ attend.centroids.mT
    shuffled = torch.randn(near.shape, generator=torch.Generator().manual_seed(SEED))
    found = {}
    for name, scores in {"learned": near, "random": shuffled}.items():
        inside = torch.zeros_like(near).scatter(-2, members(scores, WINDOW).mT, 1.0)
        together = (inside @ inside.mT > 0).to(p.dtype)
        found[name] = round(float((p * together).sum(-1)[:, :, 1:].mean()), 4)
    return found
