"""PowerAttention: blocks at distances that are powers of two, and what depth reaches with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import foveate as fv
from foveate.patterns import Causal, PowerAttention

Make = Callable[[int, int, int], Any]


def baseline(block: int, window: int, sinks: int) -> Any:
    """Every earlier token."""
    return Causal()


def keys_of(i: int, block: int, window: int, sinks: int) -> list[int]:
    """What Algorithm 1 lets query ``i`` see, written out."""
    powers = {0, *(2**e for e in range(20))}
    found = []
    for j in range(i + 1):
        back = i // block - j // block
        if j < sinks * block or back < window or back in powers:
            found.append(j)
    return found


def attended(q: Tensor, k: Tensor, v: Tensor, block: int, window: int, sinks: int) -> Tensor:
    out = torch.empty_like(v)
    for i in range(q.shape[2]):
        keys = keys_of(i, block, window, sinks)
        scores = (q[:, :, i : i + 1] @ k[:, :, keys].mT) / q.shape[-1] ** 0.5
        out[:, :, i : i + 1] = scores.softmax(-1) @ v[:, :, keys]
    return out


def check(make: Make) -> None:
    """Token by token in float64; and what an output depends on after so many layers."""
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 70, 8, generator=g, dtype=torch.float64)
    for setting in ((1, 1, 0), (1, 3, 2), (4, 2, 1), (7, 1, 0), (256, 5, 1)):
        got = fv.attention(q, k, v, causal=True, pattern=make(*setting)).out
        assert torch.allclose(got, attended(q, k, v, *setting), atol=1e-12), setting
    # Appendix B: each further layer adds a one to the distances that are reached, none besides.
    n = 70
    flow, pattern = torch.eye(n, dtype=torch.float64).expand(1, 2, n, n), make(1, 1, 0)
    ones = torch.tensor([bin(i).count("1") for i in range(n)])
    for layers in range(1, 8):
        flow = fv.attention(q, k, flow, causal=True, pattern=pattern).out
        reached = (flow[0, 0, -1] > 0).flip(0)  # by distance from the last token
        assert torch.equal(reached, ones <= layers), layers
    assert bool(reached.all())  # the seven bits of 70


def test_it_is_the_papers_algorithm() -> None:
    check(PowerAttention)


def test_a_window_of_as_many_keys_reaches_a_stretch_only() -> None:
    power = PowerAttention(block=1, window=1, sinks=0).mask(512)
    row = int(power.sum(-1).max())
    window = fv.SlidingWindow(row).mask(512)
    assert int(window.sum(-1).max()) == row
    seen = {}
    for name, mask in (("power", power), ("window", window)):
        field = torch.zeros(512, dtype=torch.float64)
        field[-1] = 1
        for _ in range(9):
            field = ((field @ mask.double()) > 0).double()
        seen[name] = int(field.sum())
    assert seen == {"power": 512, "window": 9 * (row - 1) + 1}
