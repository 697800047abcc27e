"""Strided copies against plain gathers."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from foveate.engine.backends import runs
from foveate.engine.backends.cut import cut
from foveate.patterns import Neighborhood, SlidingWindow


@st.composite
def indices(draw: st.DrawFn) -> torch.Tensor:
    """``[N, n]``: blocks that move in step for a while, sinks, and now and then a jump."""
    N, width = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    sinks = draw(st.integers(0, 5))
    start, rows = 0, []
    for _ in range(N):
        rows.append([*range(sinks), *range(start, start + width)])
        start = draw(st.sampled_from([start + 7, start + 7, start + 7, 3, start]))
    return torch.tensor(rows)


@given(indices(), st.integers(0, 4), st.integers(1, 9))
def test_taking_and_putting_by_runs(index: torch.Tensor, first: int, count: int) -> None:
    x = torch.randn(3, 2, 130, 8).transpose(1, 2)[0].transpose(0, 1)[:, :130]  # not contiguous
    old, runs.WORTH = runs.WORTH, 0
    try:
        found = runs.runs_of(index)
    finally:
        runs.WORTH = old
    assert found is not None
    first = min(first, len(index) - 1)
    last = min(first + count, len(index))
    got = runs.take(x, found, index.shape[1], first, last)
    assert torch.equal(got, x[:, index[first:last]].transpose(0, 1))
    once = torch.randperm(130)[: (130 // 5) * 5].reshape(5, -1)
    flat = runs.runs_of(once.sort(1).values) or ()
    assert flat == ()  # nothing counts up for long: a gather is quicker
    each = torch.arange(120).reshape(6, 20)
    there = torch.zeros_like(x)
    placed = runs.runs_of(each)
    assert placed is not None
    for block in range(6):
        runs.put(there, placed, x[:, each[block : block + 1]].transpose(0, 1), block, block + 1)
    assert torch.equal(there[:, :120], x[:, :120]) and not there[:, 120:].any()


def test_a_windows_blocks_are_copies_in_step() -> None:
    for pattern, n in ((SlidingWindow(256, sinks=4), 2048), (Neighborhood((64, 64), 9), 4096)):
        found = cut(pattern, False, 0, n, n)
        assert found is not None
        groups = [g for part in found.parts for g in part.groups or ()]
        assert all(g.row_runs is not None for g in groups)
        counted = [sum(run.blocks * run.width for run in g.key_runs or ()) for g in groups]
        assert sum(counted) > 0.9 * sum(g.keys.numel() for g in groups), (pattern, counted)
