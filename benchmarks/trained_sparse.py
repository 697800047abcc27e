"""Trained sparse attention: recall and copy, against dense attention at equal compute.

``python -m benchmarks.trained_sparse [--scale 1.0] [--only TASK]`` trains every arm on the FLOPs
that dense attention takes for a number of steps, from scratch and from weights trained densely (for
routing: in one cluster), and writes ``results/trained_sparse.json``. One model takes at most five
minutes on a core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from torch import nn

from foveate.catalog.experiments._trained import Arm, compare
from foveate.layers import MoBA, RoutingAttention
from foveate.patterns import SlidingWindow
from foveate.tasks import MQAR, CopyTokens, GroupRecall

from .harness import RESULTS, Timing, write

DIM, HEADS, BLOCK, TOP, TOKENS = 64, 2, 8, 4, 128
KEYS = BLOCK * TOP
TASKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "MQAR": (MQAR(TOKENS, pairs=24, vocab=64), {}),
    "groups": (GroupRecall(TOKENS, groups=16, values=4), {}),
    "copy": (CopyTokens(TOKENS // 2, vocab=32), {"length": TOKENS}),
}
SCRATCH, FIRST, AFTER = 800, 400, 200  # dense steps


def blocks(*, dense: bool = False, window: bool = False) -> Callable[[], nn.Module]:
    """MoBA's layer; the same weights attend densely or in a window too."""

    def make() -> nn.Module:
        layer = MoBA(DIM, HEADS, BLOCK, TOP, dense=dense)
        if window:
            layer.pattern = SlidingWindow(KEYS)
        return layer

    return make


def clusters(window: int = KEYS) -> Callable[[], nn.Module]:
    """One head routes, one has a window; one cluster of all tokens is dense."""

    def make() -> nn.Module:
        count = TOKENS // window
        return RoutingAttention(
            DIM, HEADS, count, window, local_window=KEYS, see_self=False, decay=0.99
        )

    return make


ARMS = {
    "dense": Arm(blocks(dense=True), TOKENS / 2),
    f"MoBA, block {BLOCK}, top {TOP}": Arm(blocks(), BLOCK * (TOP - 0.5) + TOKENS / BLOCK / 2),
    f"window of {KEYS}": Arm(blocks(window=True), KEYS),
    f"routing, {TOKENS // KEYS} clusters of {KEYS}": Arm(
        clusters(), (1.5 * KEYS + TOKENS / KEYS) / 2
    ),
}
ROUTED = {
    "routing, one cluster of all": Arm(clusters(TOKENS), (KEYS + TOKENS / 2) / 2),
    **{name: arm for name, arm in ARMS.items() if name.startswith("routing")},
}
REGIMES = {  # arms, dense steps, steps that all arms share
    "from scratch": (ARMS, SCRATCH, None),
    "from dense weights": (
        {name: arm for name, arm in ARMS.items() if name not in ROUTED},
        AFTER,
        (FIRST, ARMS["dense"]),
    ),
    "from one cluster": (ROUTED, AFTER, (FIRST, ROUTED["routing, one cluster of all"])),
}


def main() -> None:
    """Train, ask, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the steps")
    parser.add_argument("--only", choices=list(TASKS), help="one task; the other's rows are kept")
    given, _ = parser.parse_known_args()  # beside them stand other benchmarks' names
    rows: list[Timing] = []
    kept = RESULTS / "trained_sparse.json"
    if given.only and kept.exists():
        old = [Timing(**row) for row in json.loads(kept.read_text())["rows"]]
        rows = [row for row in old if not row.name.startswith(given.only)]
    for name, (task, how) in TASKS.items():
        if given.only and name != given.only:
            continue
        for regime, (arms, many, shared) in REGIMES.items():
            steps = max(1, round(many * given.scale))
            first = None if shared is None else (round(shared[0] * given.scale), shared[1])
            found = compare(
                *(arms, task), first=first, **{"dim": DIM, "layers": 1, "steps": steps}, **how,
                progress=lambda said: print(f"{time.strftime('%H:%M:%S')} {said}", flush=True),
            )  # fmt: skip
            for arm, got in found.items():
                figures = got.figures()
                note = f"accuracy {got.mean:.3f}, {got.steps} steps, {figures['TFLOP']} TFLOP"
                row = Timing(f"{name} {regime}: {arm}", got.seconds, got.seconds, note=note)
                rows.append(row)
    guess = {name: round(task.chance, 4) for name, (task, _) in TASKS.items()}
    title = (
        f"Trained sparse attention, {TOKENS} tokens, {KEYS} keys of them, equal FLOPs (training)"
    )
    write("trained_sparse", title, rows, {"guessing": guess})


if __name__ == "__main__":
    main()
