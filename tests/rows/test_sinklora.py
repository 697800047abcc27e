"""SF-Attn and S²-Attn: groups, shifted in some heads, with and without sinks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

import foveate as fv
from foveate.patterns import ShiftedGroups

Make = Callable[[int, int, int, int], Any]
N, HEADS = 24, 4


def baseline(group: int, heads: int, shifted: int, sinks: int) -> Any:
    """Dense causal attention."""
    return fv.patterns.Causal()


def tensors() -> Tensor:
    return torch.randn(3, 2, HEADS, N, 8, generator=torch.Generator().manual_seed(0)).double()


def by_groups(q: Tensor, k: Tensor, v: Tensor, group: int, shifted: int) -> Tensor:
    """Grouped computation: roll by half a group, attend group by group, roll back.

    The last rolled group holds the end of the text and its beginning; they are kept apart.
    """
    out = torch.empty_like(v)
    for head in range(HEADS):
        by = group // 2 if head >= HEADS - shifted else 0
        Q, K, V, at = (x.roll(-by, -2) for x in (q[:, head], k[:, head], v[:, head],
                                                torch.arange(N).view(1, N, 1)))  # fmt: skip
        Q, K, V, at = (x.unflatten(1, (N // group, group)) for x in (Q, K, V, at))
        place = at[0, :, :, 0]
        seen = place[:, None, :] <= place[:, :, None]
        seen &= (place[:, None, :] - place[:, :, None]).abs() < group  # the text does not go round
        s = (Q @ K.mT / Q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf)
        out[:, head] = (s.softmax(-1) @ V).flatten(1, 2).roll(by, -2)
    return out


def by_token(q: Tensor, k: Tensor, v: Tensor, group: int, shifted: int, sinks: int) -> Tensor:
    out = torch.empty_like(v)
    for head in range(HEADS):
        by = group // 2 if head >= HEADS - shifted else 0
        cuts = [0, *range(by or group, N, group), N]
        for first, last in pairwise(cuts):
            for i in range(first, last):
                keys = sorted({*range(min(sinks, i + 1)), *range(first, i + 1)})
                s = q[:, head, i : i + 1] @ k[:, head, keys].mT / q.shape[-1] ** 0.5
                out[:, head, i : i + 1] = s.softmax(-1) @ v[:, head, keys]
    return out


def check(make: Make) -> None:
    """Against grouped computation, and with sinks token by token, in float64."""
    q, k, v = tensors()
    for group, shifted in ((6, 2), (8, 2), (12, 1), (6, 4), (8, 0)):
        got = fv.attention(q, k, v, causal=True, pattern=make(group, HEADS, shifted, 0)).out
        assert torch.allclose(got, by_groups(q, k, v, group, shifted), atol=1e-12), group
    for group, shifted, sinks in ((6, 1, 4), (8, 2, 1), (12, 0, 4), (6, 2, 9)):
        got = fv.attention(q, k, v, causal=True, pattern=make(group, HEADS, shifted, sinks)).out
        want = by_token(q, k, v, group, shifted, sinks)
        assert torch.allclose(got, want, atol=1e-12), (group, shifted, sinks)


def test_it_is_the_grouped_computation() -> None:
    check(ShiftedGroups)


def test_the_default_is_longloras_half_of_the_heads() -> None:
    q, k, v = tensors()
    got = fv.attention(q, k, v, causal=True, pattern=ShiftedGroups(6, HEADS)).out
    assert torch.allclose(got, by_groups(q, k, v, 6, 2), atol=1e-12)


def test_one_group_without_a_shift_is_dense() -> None:
    q, k, v = tensors()
    pattern = ShiftedGroups(N, HEADS, shifted=0)
    got = fv.attention(q, k, v, causal=True, pattern=pattern).out
    assert torch.allclose(got, fv.attention(q, k, v, causal=True).out, atol=1e-12)


def test_nothing_leaks_from_the_end_to_the_beginning() -> None:
    q, k, v = tensors()
    other = v.clone()
    other[:, :, N - 3 :] += 1.0
    for sinks in (0, 4):
        pattern = ShiftedGroups(6, HEADS, shifted=2, sinks=sinks)
        a, b = (fv.attention(q, k, x, causal=True, pattern=pattern).out for x in (v, other))
        assert torch.equal(a[:, :, : N - 3], b[:, :, : N - 3])
        assert not torch.equal(a, b)
