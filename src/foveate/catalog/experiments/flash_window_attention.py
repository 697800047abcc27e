"""Flash Window Attention: what Swin's attention keeps for its backward pass, and how long it takes.

Layers of Swin's sizes with the same weights: scores and probabilities written out, as in Swin's
code, against the recomputing kernel. The paper's speed-up is one of GPU kernels; here is counted
what makes it, that no windows x heads x L x L tensor is kept, and the time is given beside it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...layers import WindowAttention
from ._trial import Trial

ROUNDS = 5


@dataclass(frozen=True)
class Case:
    """A layer of a Swin model on one image."""

    name: str
    side: int
    dim: int
    heads: int
    window: int


CASES = (
    *(Case(f"Swin-T, 224, stage {n + 1}", 56 >> n, 96 << n, 3 << n, 7) for n in range(4)),
    *(Case(f"Swin-B, 384, stage {n + 1}", 96 >> n, 128 << n, 4 << n, 12) for n in range(4)),
)


class WrittenOut(WindowAttention):
    """The same layer with its scores as tensors."""

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        scores = (q * q.shape[-1] ** -0.5) @ k.mT + self.position_bias()
        if mask is not None:
            hidden = torch.zeros(mask.shape).masked_fill_(~mask, -math.inf)
            scores = (scores.unflatten(0, (-1, len(mask))) + hidden[:, None]).flatten(0, 1)
        return scores.softmax(-1) @ v


def kept(run: Callable[[], Tensor], apart: set[int]) -> int:
    """Bytes that autograd keeps, each storage once; those of the storages ``apart`` not counted."""
    found: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in apart:
            found[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    return sum(found.values())


def compare(case: Case, shift: int) -> dict[str, Any]:
    """Numbers kept a token and channel, milliseconds forth and back, the largest difference."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [
            kind(case.dim, case.heads, case.window, shift, grid=(case.side, case.side))
            for kind in (WrittenOut, WindowAttention)
        ]
        torch.nn.init.normal_(layers[0].relative_position_bias_table)
        x = torch.randn(1, case.side**2, case.dim)
        back = torch.randn_like(x)
    layers[1].load_state_dict(layers[0].state_dict())
    numbers, outs, grads = [], [], []
    for layer in layers:
        weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}
        given = x.clone().requires_grad_()
        bytes_kept = kept(lambda layer=layer, given=given: layer(given), weights)  # type: ignore[misc]
        numbers.append(bytes_kept / (x.numel() * x.element_size()))
        out = layer(given)
        outs.append(out.detach())
        grads.append(torch.autograd.grad(out, [given, *layer.parameters()], back))
    seconds: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for layer, taken in zip(layers, seconds, strict=True):
            given = x.clone().requires_grad_()
            began = time.perf_counter()
            layer(given).backward(back)
            taken.append(time.perf_counter() - began)
    off = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*grads, strict=True))
    return {
        "kept": numbers,
        "milliseconds": [round(1e3 * min(taken), 1) for taken in seconds],
        "differ": {"output": float((outs[0] - outs[1]).abs().max()), "gradients, relative": off},
    }


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    found = {}
    for case in CASES:
        for shift in (0, case.window // 2):
            name = case.name + (", shifted" if shift else "")
            progress(name)
            found[name] = compare(case, shift)
    times = [one["milliseconds"] for one in found.values()]
    return Trial(
        baseline=(
            "numbers kept for backward a token and channel, written out",
            [one["kept"][0] for one in found.values()],
        ),
        method=(
            "numbers kept for backward a token and channel, recomputed",
            [one["kept"][1] for one in found.values()],
        ),
        better="lower",
        details={
            "kept": {name: [round(n, 2) for n in one["kept"]] for name, one in found.items()},
            "milliseconds forth and back": {n: one["milliseconds"] for n, one in found.items()},
            "time, recomputed / written out, geometric mean": round(
                math.exp(sum(math.log(b / a) for a, b in times) / len(times)), 3
            ),
            "largest difference": {
                kind: float(f"{max(one['differ'][kind] for one in found.values()):.1e}")
                for kind in ("output", "gradients, relative")
            },
            "threads": torch.get_num_threads(),
            "speed on a GPU": "not tried",
        },
    )
