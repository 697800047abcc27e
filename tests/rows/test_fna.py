"""FNA: neighbourhood attention over tiles, never storing the weights, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
import neighborhood_oracle as oracle
from foveate.catalog.experiments._peak import peak_mb
from foveate.catalog.experiments.fna import places, unfused
from foveate.engine.planner import plan
from foveate.engine.program import Program
from foveate.engine.shapes import Shapes
from foveate.patterns import Neighborhood

Make = Callable[..., Tensor]


def baseline(q: Tensor, k: Tensor, v: Tensor, *setting: Any) -> Tensor:
    """Attention of all to all."""
    return fv.attention(q, k, v).out


CASES = [
    # grid, window, dilation, causal
    ((149,), (17,), (1,), (False,)),
    ((513,), (20,), (3,), (True,)),
    ((28, 28), (5, 7), (1, 1), (False, False)),
    ((16, 18), (4, 3), (4, 6), (False, False)),
    ((27, 30), (4, 5), (3, 1), (True, False)),  # odd sides, a causal axis
    ((6, 8, 10), (3, 4, 3), (2, 1, 1), (False, False, False)),
    ((4, 5, 6), (4, 5, 6), (1, 1, 1), (False, False, False)),  # the whole grid: plain attention
]  # fmt: skip


def check(make: Make) -> None:
    """Outputs and gradients against weights written out in float64."""
    g = torch.Generator().manual_seed(0)
    for grid, window, dilation, causal in CASES:
        seen = oracle.mask(grid, window, (1,) * len(grid), dilation, causal)
        q, k, v = torch.randn(3, 1, 2, math.prod(grid), 8, generator=g).requires_grad_().unbind()
        weight = torch.randn(v.shape, generator=g)
        want, got = oracle.attend(q, k, v, seen), make(q, k, v, grid, window, dilation, causal)
        assert torch.allclose(got.double(), want, atol=1e-5), (grid, window, dilation, causal)
        grads = [torch.autograd.grad((out * weight).sum(), (q, k, v)) for out in (want, got)]
        for a, b in zip(*grads, strict=True):
            assert torch.allclose(a, b, atol=1e-5), (grid, window, dilation, causal)


def fused(
    q: Tensor, k: Tensor, v: Tensor, grid: Any, window: Any, dilation: Any, causal: Any
) -> Tensor:
    return fv.attention(q, k, v, pattern=Neighborhood(grid, window, 1, dilation, causal)).out


def test_it_is_neighbourhood_attention() -> None:
    check(fused)


def test_it_runs_over_tiles_on_the_flash_kernel() -> None:
    """What is computed is little more than what is seen; most cases above take this way."""
    ways = []
    for grid, window, dilation, causal in CASES:
        q = torch.randn(1, 2, math.prod(grid), 8)
        program = Program(pattern=Neighborhood(grid, window, 1, dilation, causal))
        ways.append(plan(program, Shapes.of(q, q, q)).output)
    assert ways.count("flash") >= 4
    pattern = Neighborhood((32, 32), 7, dilation=4)
    q = torch.randn(1, 1, 1024, 8)
    found = plan(Program(pattern=pattern), Shapes.of(q, q, q))
    assert found.output == "flash" and found.cut is not None
    assert found.cut.pairs < 1.5 * 1024 * 49


def test_tiled_equals_untiled_in_half_precision_with_more_heads_of_queries() -> None:
    g = torch.Generator().manual_seed(0)
    grid, window = (12, 20), (5, 7)
    q = torch.randn(2, 4, 240, 16, generator=g).bfloat16()
    k, v = torch.randn(2, 2, 2, 240, 16, generator=g).bfloat16()
    seen = oracle.mask(grid, window, (1, 1), (1, 1), (False, False))
    want = oracle.attend(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), seen)
    got = fv.attention(q, k, v, pattern=Neighborhood(grid, window)).out
    assert got.dtype == torch.bfloat16
    assert torch.allclose(got.double(), want, atol=2e-2)


def test_the_experiments_unfused_kernel_is_the_same_attention() -> None:
    q, k, v = torch.randn(3, 1, 2, 9 * 11, 8, generator=torch.Generator().manual_seed(0))
    for dilation in (1, 2):
        pattern = Neighborhood((9, 11), (3, 5), dilation=dilation)
        want = fused(q, k, v, (9, 11), (3, 5), dilation, False)
        assert torch.allclose(unfused(q, k, v, places(pattern)), want, atol=1e-6)


def test_memory_does_not_grow_with_the_window() -> None:
    """Weights written out hold at least n × window numbers; tiles a bounded number."""
    q, k, v = torch.randn(3, 1, 4, 64 * 64, 32, generator=torch.Generator().manual_seed(0))
    peaks = {}
    for window in (31, 51):
        pattern = Neighborhood((64, 64), window)
        plan(Program(pattern=pattern), Shapes.of(q, k, v))  # cuts it
        peaks[window] = peak_mb(lambda: fv.attention(q, k, v, pattern=pattern))
        assert peaks[window] < 0.9 * 4 * 64**2 * window**2 * 4 / 1e6
    assert peaks[51] < 1.1 * peaks[31]


@pytest.mark.bench
def test_it_beats_weights_written_out() -> None:
    import time

    q, k, v = torch.randn(3, 1, 4, 64 * 64, 32)
    pattern = Neighborhood((64, 64), 13)
    keys = places(pattern)
    fv.attention(q, k, v, pattern=pattern)
    taken = []
    for call in (lambda: fv.attention(q, k, v, pattern=pattern), lambda: unfused(q, k, v, keys)):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    assert taken[0] < taken[1]
