"""What it costs to be attached: rebinding on tiny denoisers, and attaching to a language model.

Passthrough (no methods) on the models' own forward, against the same model not attached; the models
are so small that what is counted is Python. Attach and detach on the embedded SmolLM2.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import foveate as fv

from .harness import Timing, at_most, write

LIMIT = 0.050  # seconds to attach and detach
SIDE = 32  # of the latents: a picture of 256 by 256
# the tiny random models of the tests
SIZES: dict[str, dict[str, Any]] = {
    "unet": {"block_out_channels": (32, 64), "norm_num_groups": 8},
    "sd3": {"sample_size": SIDE, "pos_embed_max_size": SIDE // 2},
    "flux": {},
    "wan": {},
}


def rebinding(rounds: int) -> list[Timing]:
    """A forward of each tiny denoiser, attached against not: one model, in turns of a few."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import denoisers

    timings = []
    for name, options in SIZES.items():
        model = denoisers.denoiser(name, **options)
        given = denoisers.given(name, side=SIDE)
        plain: list[float] = []
        attached: list[float] = []
        with torch.no_grad():
            for _ in range(rounds):
                plain.append(turn(model, given))
                with fv.attach(model):
                    attached.append(turn(model, given))
        ratio = statistics.median(a / b for a, b in zip(attached, plain, strict=True))
        timing = Timing(f"{name} attached", min(attached), statistics.median(attached), ratio)
        timings.append(at_most(timing, 1.02))
    return timings


def turn(model: Any, given: dict[str, Any], before: int = 20, forwards: int = 30) -> float:
    """Seconds a forward, over some that follow one another as the steps of a denoiser do.

    The ones before are left out: Python specialises copied code anew while it first runs.
    """
    for _ in range(before):
        model(**given)
    start = time.perf_counter()
    for _ in range(forwards):
        model(**given)
    return (time.perf_counter() - start) / forwards


def attaching(rounds: int) -> Timing:
    """Attach to SmolLM2 and detach again, the first time left out."""
    model, _ = fv.load("smollm2")
    taken = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        with fv.attach(model):
            pass
        taken.append(time.perf_counter() - start)
    middle = statistics.median(taken[1:])
    note = f"the first time {1000 * taken[0]:.0f} ms"
    return Timing(
        "attach and detach, SmolLM2", min(taken[1:]), middle, None,
        f"≤ {1000 * LIMIT:g} ms", middle <= LIMIT, note,
    )  # fmt: skip


def main(rounds: int = 8) -> None:
    """Measure and write ``results/reach.json``."""
    torch.set_num_threads(1)
    rows = [*rebinding(rounds), attaching(20)]
    write("reach", "Attached without a method, against not attached", rows)


if __name__ == "__main__":
    main()
