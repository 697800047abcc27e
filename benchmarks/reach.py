"""What it costs to be attached: rebinding on tiny denoisers, and attaching to a language model.

Passthrough (no methods) on the models' own forward, against a twin that is not attached; the models
are so small that what is counted is Python. Attach and detach on the embedded SmolLM2.
"""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

import foveate as fv

from .harness import Timing, at_most, interleave, write

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
    """A forward of each tiny denoiser, attached against not."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import denoisers

    timings = []
    for name, options in SIZES.items():
        plain, attached = (denoisers.denoiser(name, **options) for _ in range(2))
        given = denoisers.given(name, side=SIDE)
        run = {
            "plain": partial(plain, **given),
            f"{name} attached": partial(attached, **given),
        }
        with torch.no_grad(), fv.attach(attached):
            found = interleave(run, rounds, warmup=5)
        timings.append(at_most(found[f"{name} attached"], 1.02))
    return timings


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


def main(rounds: int = 100) -> None:
    """Measure and write ``results/reach.json``."""
    torch.set_num_threads(1)
    rows = [*rebinding(rounds), attaching(20)]
    write("reach", "Attached without a method, against not attached", rows)


if __name__ == "__main__":
    main()
