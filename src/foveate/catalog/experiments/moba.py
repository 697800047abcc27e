"""MoBA on multi-query associative recall: does it keep what dense attention recalls?

One layer, 128 tokens, 24 pairs. As its authors ask of a model that is to change to MoBA, it is
trained further: all arms share 400 steps of dense training, then each goes on for as many FLOPs as
200 dense steps take, dense, with MoBA (blocks of 8, 4 of them: a quarter of the keys at most), or
with a window of as many keys. Beside it: the same with MoBA switched on and not trained, and how
often the blocks that a question's query chose held its answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...layers._projections import split_heads
from ...layers.moba import MoBA
from ...layers.tiny import TinyModel
from ...patterns.sequence import SlidingWindow
from ...statistics import paired_bootstrap
from ...tasks.recall import MQAR
from ...tasks.training import accuracy
from ._trained import Arm, compare, entering
from ._trial import Trial

TASK = MQAR(length=128, pairs=24, vocab=64)
DIM, HEADS, BLOCK, TOP = 64, 2, 8, 4
BUDGET, ITEMS, SEED = BLOCK * TOP, 200, 0


def layer(how: str) -> MoBA:
    """The same weights under three ways to attend."""
    made = MoBA(DIM, HEADS, BLOCK, TOP, dense=how == "dense")
    if how == "window":
        made.pattern = SlidingWindow(BUDGET)
    return made


ARMS = {
    "dense": Arm(lambda: layer("dense"), TASK.length / 2),
    # the own block, the others, and a product with each block's mean
    "moba": Arm(lambda: layer("moba"), BLOCK * (TOP - 0.5) + TASK.length / BLOCK / 2),
    "window": Arm(lambda: layer("window"), BUDGET),
}


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    found = compare(
        ARMS,
        TASK,
        first=(400, ARMS["dense"]),
        dim=DIM,
        layers=1,
        steps=200,
        items=ITEMS,
        seed=SEED,
        progress=progress,
    )
    dense, moba, window = (found[name] for name in ("dense", "moba", "window"))
    switched = dense.model
    switched.attention[0].dense = False  # type: ignore[assignment]
    untrained = accuracy(switched, TASK, n=ITEMS, seed=SEED + 2)
    return Trial(
        baseline=(f"accuracy, window of {BUDGET} keys", window.accuracy),
        method=(f"accuracy, MoBA block {BLOCK} top {TOP}", moba.accuracy),
        better="higher",
        seeds=(SEED, SEED + 1, SEED + 2),
        details={
            "items": ITEMS,
            "trained": {name: outcome.figures() for name, outcome in found.items()},
            "dense weights with MoBA, not trained on": round(sum(untrained) / ITEMS, 4),
            "moba minus dense, interval": paired_bootstrap(dense.accuracy, moba.accuracy),
            "share of keys read at most": BUDGET / TASK.length,
            "the answer's block among the chosen": {
                name: round(chosen(outcome.model), 4)
                for name, outcome in {"trained on": moba, "not trained on": dense}.items()
            },
            "guessing": TASK.chance,
        },
    )


@torch.no_grad()
def chosen(model: TinyModel) -> float:
    """How often a question's query sees the block of its answer, over heads and questions."""
    tokens, targets = TASK.batch(32, torch.Generator().manual_seed(SEED + 2))
    attend: Any = model.attention[0]
    x = entering(model, tokens)
    q = split_heads(attend.q(x), HEADS)
    k = split_heads(attend.kv(x).chunk(2, -1)[0], HEADS)
    shown = attend.pattern.route(q, k, causal=True, q_offset=0, scale=1.0).matrix()
    item, place = (targets >= 0).nonzero(as_tuple=True)
    pairs = tokens[item, : 2 * TASK.pairs]
    answer = (pairs[:, ::2] == tokens[item, place][:, None]).int().argmax(-1) * 2 + 1
    return float(shown[item, :, place, answer].float().mean())
