"""GNA: windows with stride, dilation and causality per axis, and the tiles they touch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import foveate as fv
import neighborhood_oracle as oracle
from foveate.patterns import Neighborhood, SlidingWindow, Tiles, Windows, tiles_touched

Make = Callable[..., Any]
Setting = dict[str, tuple[Any, ...]]


def baseline(grid: Any, window: Any, stride: Any, dilation: Any, causal: Any) -> Any:
    """The sliding window of neighbourhood attention: what GNA is without a stride."""
    return Neighborhood(grid, window, dilation=dilation, causal=causal)


CASES = [
    # grid, window, stride, dilation, causal
    ((16,), (5,), (1,), (1,), (False,)),
    ((17,), (6,), (4,), (1,), (False,)),  # an even window, a group cut short
    ((17,), (4,), (3,), (4,), (False,)),  # interleaved grids of 5, 4, 4 and 4 tokens
    ((19,), (6,), (5,), (1,), (True,)),
    ((7, 10), (4, 5), (2, 5), (1, 2), (False, False)),
    ((9, 6), (3, 4), (3, 2), (2, 1), (True, False)),
    ((5, 6, 7), (3, 2, 5), (2, 2, 3), (1, 3, 1), (False, False, True)),
]  # fmt: skip


def check(make: Make) -> None:
    """Outputs against attention written out in float64 under NATTEN's windows."""
    g = torch.Generator().manual_seed(0)
    for grid, window, stride, dilation, causal in CASES:
        q, k, v = torch.randn(3, 2, 2, math.prod(grid), 8, generator=g)
        want = oracle.attend(q, k, v, oracle.mask(grid, window, stride, dilation, causal))
        got = fv.attention(q, k, v, pattern=make(grid, window, stride, dilation, causal)).out
        assert torch.allclose(got.double(), want, atol=1e-5), (grid, window, stride, dilation)


def test_it_is_natten_s_attention() -> None:
    check(Neighborhood)


@st.composite
def drawn(draw: st.DrawFn, most: int = 9, axes: int = 3) -> Setting:
    grid = draw(st.lists(st.integers(1, most), min_size=1, max_size=axes).map(tuple))
    window = tuple(draw(st.integers(1, side)) for side in grid)
    return {
        "grid": grid,
        "window": window,
        "stride": tuple(draw(st.integers(1, w)) for w in window),
        "dilation": tuple(
            draw(st.integers(1, side // w)) for side, w in zip(grid, window, strict=True)
        ),
        "causal": tuple(draw(st.booleans()) for _ in grid),
    }


@given(drawn(most=7))
@settings(max_examples=60, deadline=None)
def test_the_mask_at_every_border(setting: Setting) -> None:
    pattern, tokens = Neighborhood(**setting), math.prod(setting["grid"])
    want = oracle.mask(**setting)
    assert torch.equal(pattern.mask(tokens), want)
    # the same asked pair by pair, and nothing is seen outside the range of keys
    every = torch.arange(tokens)
    assert torch.equal(pattern.sees(every[:, None], every[None], None), want)
    for start, stop in ((0, tokens), (tokens // 3, tokens // 3 + 1), (tokens // 2, tokens)):
        low, high = pattern.key_range(start, stop, tokens)
        assert int(want[start:stop, low:high].sum()) == int(want[start:stop].sum())
    counts = want.sum(1)
    if not any(setting["causal"]):  # pushed inward: always as many
        assert bool((counts == math.prod(setting["window"])).all())
    assert bool(want.diagonal().all())  # a token sees itself


@given(drawn(most=24, axes=3), st.sampled_from([4, 16, 128]))
@settings(max_examples=60, deadline=None)
def test_a_tiling_holds_every_query_once(setting: Setting, size: int) -> None:
    pattern, tokens = Neighborhood(**setting), math.prod(setting["grid"])
    tiles = pattern.tiling(size, tokens, 0)
    if tiles is not None:
        assert tiles.shape[1] <= size
        assert torch.equal(tiles.flatten().sort().values, torch.arange(tokens))
    assert pattern.tiling(size, tokens, 1) is None


def test_special_cases() -> None:
    every = torch.ones(48, 48, dtype=torch.bool)
    for stride in (1, (6, 8)):
        assert torch.equal(Neighborhood((6, 8), (6, 8), stride=stride).mask(48), every)
    assert torch.equal(Neighborhood((6, 8), 2, stride=2).mask(48), Windows((6, 8), 2).mask(48))
    causal = Neighborhood((48,), 5, causal=True).mask(48)
    assert torch.equal(causal, SlidingWindow(5).mask(48))


# --- the simulator


def counted(setting: Setting, q_tile: Any, kv_tile: Any, dynamic: bool) -> tuple[int, int]:
    """Touched and full pairs of tiles, from the whole matrix: tiles in each interleaved grid."""
    grid, dilation = setting["grid"], setting["dilation"]
    seen = oracle.mask(**setting).view(*grid, *grid)
    touched = full = 0
    for phase in itertools.product(*map(range, dilation)):
        one = tuple(slice(p, None, d) for p, d in zip(phase, dilation, strict=True))
        sub = seen[one + one]
        sides = sub.shape[: len(grid)]
        for q_at in itertools.product(
            *(range(0, n, t) for n, t in zip(sides, q_tile, strict=True))
        ):
            rows = sub[tuple(slice(a, a + t) for a, t in zip(q_at, q_tile, strict=True))]
            rows = rows.reshape(-1, *sides)
            starts = []
            for axis, (n, t) in enumerate(zip(sides, kv_tile, strict=True)):
                others = [a for a in range(rows.dim()) if a != axis + 1]
                on = rows.any(dim=others).nonzero().flatten().tolist()
                starts.append(range(on[0], on[-1] + 1, t) if dynamic else range(0, n, t))
            for k_at in itertools.product(*starts):
                box = (slice(None), *(slice(a, a + t) for a, t in zip(k_at, kv_tile, strict=True)))
                touched += dynamic or bool(rows[box].any())
                full += bool(rows[box].all())
    return touched, full


@given(drawn(most=8, axes=2), st.data())
@settings(max_examples=60, deadline=None)
def test_tiles_are_those_of_a_brute_force_count(setting: Setting, data: st.DataObject) -> None:
    grid = setting["grid"]
    q_tile, kv_tile = (tuple(data.draw(st.integers(1, n)) for n in grid) for _ in range(2))
    dynamic = data.draw(st.booleans())
    found = tiles_touched(Neighborhood(**setting), q_tile, kv_tile, dynamic=dynamic)
    assert (found.touched, found.full) == counted(setting, q_tile, kv_tile, dynamic)
    ceil = [
        math.prod(-(-n // t) for n, t in zip(grid, tile, strict=True)) for tile in (q_tile, kv_tile)
    ]
    assert found.dense == math.prod(ceil)


@given(drawn(most=8, axes=2), st.integers(1, 9), st.integers(1, 9), st.booleans())
@settings(max_examples=40, deadline=None)
def test_tiles_of_other_patterns_are_looked_at(
    setting: Setting, q_tile: int, kv_tile: int, dynamic: bool
) -> None:
    """A pattern that is not a Neighborhood any more, but sees the same."""
    setting["dilation"] = tuple(1 for _ in setting["grid"])
    plain = Neighborhood(**setting)
    hidden = ~~(plain & plain)
    tokens = math.prod(setting["grid"])
    seen = plain.mask(tokens)
    touched = full = 0
    for a in range(0, tokens, q_tile):
        rows = seen[a : a + q_tile]
        on = rows.any(0).nonzero().flatten().tolist()
        for b in range(on[0] if dynamic else 0, on[-1] + 1, kv_tile):
            touched += dynamic or bool(rows[:, b : b + kv_tile].any())
            full += bool(rows[:, b : b + kv_tile].all())
    for pattern, given_tokens in ((hidden, tokens), (plain, None)):
        if pattern is plain and len(setting["grid"]) == 1:
            continue
        found = tiles_touched(pattern, q_tile, kv_tile, given_tokens, dynamic=dynamic)
        assert (found.touched, found.full) == (touched, full)


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_windows_of_whole_tiles_reach_window_over_length_exactly(stride: int) -> None:
    pattern = Neighborhood((32, 64), (16, 16), stride=stride)
    found = tiles_touched(pattern, (4, 4), (4, 8), dynamic=True)
    assert found.share == (16 / 32) * (16 / 64) and found.perfect
    # Tiles that stand still: where the window's start falls on one.
    still = tiles_touched(pattern, (4, 4), (4, 4))
    aligned = (16 - stride) // 2 % 4 == 0
    assert (still.share == (16 / 32) * (16 / 64)) == aligned == still.perfect
    assert not tiles_touched(Neighborhood((32, 64), 16), (4, 4), (4, 8), dynamic=True).perfect


def test_the_papers_video() -> None:
    """HunyuanVideo's 30×48×80 tokens, window 18×24×24, stride 16×8×8: 11.1 times at most."""
    pattern = Neighborhood((30, 48, 80), (18, 24, 24), stride=(16, 8, 8))
    for dynamic in (False, True):
        found = tiles_touched(pattern, (4, 8, 8), (2, 8, 8), dynamic=dynamic)
        assert found.perfect
        assert found.speedup == pytest.approx(30 * 48 * 80 / (18 * 24 * 24))
    assert Tiles(0, 0, 4).speedup == math.inf


def test_heads_that_differ_are_summed() -> None:
    pattern = fv.patterns.CrossShaped((8, 8), 2, heads=4)
    found = tiles_touched(pattern, (4, 4), (4, 4))
    assert found == Tiles(4 * 8, 0, 4 * 16)


# --- bad input


def bad(**given: Any) -> Callable[[], Any]:
    return lambda: Neighborhood(**{"grid": (8, 8), "window": 4, **given})


def touched(*given: Any, pattern: Any = Neighborhood((8, 8), 4), **more: Any) -> Callable[[], Any]:
    return lambda: tiles_touched(pattern, *given, **more)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (bad(grid=8), "grid's sides were wanted"),
        (bad(grid=None), "grid's sides were wanted"),
        (bad(grid=(8, 0)), "at least 1"),
        (bad(grid=(2, 2, 2, 2)), "one to three axes"),
        (bad(window=0), "window=0.*at least 1"),
        (bad(window=9), "larger than the grid's side of 8.*at most 8"),
        (bad(window=2.0), "whole number"),
        (bad(window=(4, 4, 4)), "2 axes"),
        (bad(window=None), "2 axes"),
        (bad(dilation=3), "spans 12 tokens.*dilation of at most 2"),
        (bad(dilation=0), "at least 1"),
        (bad(stride=(4, 5)), r"stride of 5 is larger than the window of 4 \(axis 1\)"),
        (bad(causal=1), "True or False"),
        (bad(causal=(True,)), "2 axes"),
        (touched((4, 4), 4), "two tuples"),
        (touched((4, 4, 4), (4, 4, 4)), "2 axes"),
        (touched(0, 4), "at least 1"),
        (touched(4, None), "tile's size"),
        (touched(4, 4, tokens=60), "64 tokens"),
        (touched(4, 4, pattern=SlidingWindow(3)), "give tokens="),
        (touched((4, 4), (4, 4), 16, pattern=SlidingWindow(3)), "tokens in a row"),
        (touched(4, 4, -1, pattern=SlidingWindow(3)), "at least 1"),
        (touched(4, 4, pattern="all"), "takes a pattern"),
    ],
)  # fmt: skip
def test_bad_input(call: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        call()


def test_more_tokens_than_the_grid_has_are_refused() -> None:
    q = torch.randn(1, 1, 20, 8)
    with pytest.raises(fv.FoveateError, match="16 tokens and the call 20"):
        fv.attention(q, q, q, pattern=Neighborhood((4, 4), 3))


def test_fewer_are_the_grids_first_as_in_generation() -> None:
    q, k, v = torch.randn(3, 1, 1, 16, 8, generator=torch.Generator().manual_seed(0))
    pattern = Neighborhood((4, 4), 3)
    whole = fv.attention(q, k, v, causal=True, pattern=pattern).out
    steps: list[Tensor] = []
    for n in range(1, 17):
        step = fv.attention(q[:, :, n - 1 : n], k[:, :, :n], v[:, :, :n], pattern=pattern)
        steps.append(step.out)
    assert torch.allclose(torch.cat(steps, 2), whole, atol=1e-6)
