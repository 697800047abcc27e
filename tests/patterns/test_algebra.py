"""Patterns as values: & | ~, masks, densities, blocks, key ranges."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import foveate as fv
from foveate.engine.pattern import Pattern as Protocol
from foveate.patterns import (
    Causal,
    CrossShaped,
    Dilated,
    Documents,
    Halo,
    MultiWindow,
    Neighborhood,
    Pattern,
    PrefixLM,
    SlidingWindow,
    Strided,
    Windows,
)
from foveate.patterns._algebra import Moved, OnHeads

GRID = (6, 8)
EVERY: list[Pattern] = [
    Causal(),
    SlidingWindow(5),
    SlidingWindow(5, sinks=3),
    SlidingWindow(4, causal=False),
    SlidingWindow(4, sinks=2, causal=False),
    SlidingWindow(1000),
    Dilated(4, 3),
    Dilated(3, 4, causal=False),
    Strided(6),
    Strided(5, local=2, causal=False),
    Documents([7, 20, 5]),
    PrefixLM(9),
    MultiWindow([2, 5, 16, 48]),
    Neighborhood(GRID, 3),
    Neighborhood(GRID, (5, 3), stride=(2, 1)),
    Neighborhood(GRID, 3, dilation=2),
    Neighborhood(GRID, (2, 4), causal=(True, False)),
    Neighborhood((3, 4, 4), (2, 3, 3), stride=(1, 2, 1), causal=(True, False, False)),
    Halo(GRID, 2, 1),
    Windows(GRID, 2),
    Windows(GRID, (3, 4), shift=(1, 2)),
    CrossShaped(GRID, 2, heads=4),
]
patterns = st.sampled_from(EVERY)


@pytest.mark.parametrize("pattern", EVERY, ids=repr)
def test_it_fulfils_the_engines_protocol(pattern: Pattern) -> None:
    assert isinstance(pattern, Protocol)
    q, k = torch.arange(3, 9), torch.arange(11)
    tile = pattern.tile(q, k)
    assert tile.dtype == torch.bool and tile.shape[-2:] == (6, 11)
    assert tile.shape[:-2] == (() if pattern.heads is None else (4,))


@given(pattern=patterns, data=st.data())
def test_nothing_is_seen_outside_the_key_range(pattern: Pattern, data: Any) -> None:
    start = data.draw(st.integers(0, 47))
    stop = data.draw(st.integers(start + 1, 48))
    keys = data.draw(st.integers(1, 48))
    low, high = pattern.key_range(start, stop, keys)
    assert 0 <= low <= high <= keys
    seen = pattern.tile(torch.arange(start, stop), torch.arange(keys))
    assert not seen[..., :low].any() and not seen[..., high:].any()


@given(pattern=patterns, data=st.data())
def test_flexattentions_function_says_the_same(pattern: Pattern, data: Any) -> None:
    i, j, h = (data.draw(st.integers(0, n)) for n in (47, 47, 3))
    one = pattern.visible(*(torch.tensor(x) for x in (0, h, i, j)))
    mask = pattern.mask(48)
    assert bool(one) == bool((mask if mask.dim() == 2 else mask[h])[i, j])


@given(a=patterns, b=patterns)
def test_patterns_are_sets(a: Pattern, b: Pattern) -> None:
    A, B = a.mask(48), b.mask(48)
    assert torch.equal((a & b).mask(48), A & B)
    assert torch.equal((a | b).mask(48), A | B)
    assert torch.equal((~a).mask(48), ~A)
    assert torch.equal((~(a & b)).mask(48), (~a | ~b).mask(48))
    assert ~~a is a
    for made in (a & b, a | b, ~a):
        low, high = made.key_range(10, 20, 48)
        seen = made.tile(torch.arange(10, 20), torch.arange(48))
        assert not seen[..., :low].any() and not seen[..., high:].any()


@given(pattern=patterns, sizes=st.tuples(st.integers(1, 48), st.integers(1, 48)))
def test_the_density_is_that_of_the_mask(pattern: Pattern, sizes: tuple[int, int]) -> None:
    mask = pattern.mask(*sizes)
    want = mask.double().mean().item()
    assert pattern.density(*sizes) == pytest.approx(want, abs=1e-9)


@given(pattern=patterns, size=st.integers(1, 20), offset=st.integers(0, 8))
def test_blocks_are_those_of_the_mask(pattern: Pattern, size: int, offset: int) -> None:
    got = pattern.blocks(size, 40, 45, q_offset=offset)
    mask = pattern.mask(40, 45, q_offset=offset)
    for a in range(-(-40 // size)):
        for b in range(-(-45 // size)):
            part = mask[..., a * size : (a + 1) * size, b * size : (b + 1) * size]
            want = part.any(-1).any(-1).int() + part.all(-1).all(-1).int()
            assert torch.equal(got[..., a, b].int(), want)


def test_queries_stand_where_the_offset_says() -> None:
    pattern, whole = SlidingWindow(4, sinks=1), SlidingWindow(4, sinks=1).mask(20)
    assert torch.equal(pattern.mask(5, 20), whole[15:])
    assert torch.equal(pattern.mask(5, 20, q_offset=3), whole[3:8])


def test_moved_and_limited_to_heads() -> None:
    pattern = SlidingWindow(4, sinks=2)
    rows = Moved(pattern, torch.tensor([0, -5]))
    tile = rows.tile(torch.arange(12), torch.arange(12))
    assert tile.shape == (2, 1, 12, 12)
    assert torch.equal(tile[0, 0], pattern.mask(12))
    assert torch.equal(tile[1, 0, 5:, 5:], pattern.mask(7))  # its sinks come after five of padding
    assert not tile[1, 0, 10, 4]
    some = OnHeads(pattern, (1,), 3).mask(12)
    assert torch.equal(some[1], pattern.mask(12)) and bool(some[0].all()) and bool(some[2].all())


@pytest.mark.parametrize("pattern", EVERY, ids=repr)
def test_attention_under_a_pattern_is_that_of_its_mask(pattern: Pattern) -> None:
    torch.manual_seed(0)
    heads = 4
    q, k, v = (torch.randn(2, heads, 48, 16) for _ in range(3))
    got = fv.attention(q, k, v, pattern=pattern, measures=[fv.entropy()])
    s = (q.double() @ k.double().mT) / 4
    P = s.masked_fill(~pattern.mask(48), -torch.inf).softmax(-1).nan_to_num()
    assert torch.allclose(got.out.double(), P @ v.double(), atol=1e-5)
    entropy = -(P * P.clamp(min=1e-300).log()).sum(-1)
    assert torch.allclose(got.measures["entropy"].double(), entropy, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SlidingWindow(0), r"window=0.*at least 1"),
        (lambda: SlidingWindow(4, sinks=-1), r"sinks=-1.*at least 0"),
        (lambda: SlidingWindow(2.5), "whole number"),
        (lambda: Dilated(4, 0), "dilation=0"),
        (lambda: Strided(0), "stride=0"),
        (lambda: Documents([]), "list of the documents' lengths"),
        (lambda: Documents([3, 0]), "lengths=0"),
        (lambda: PrefixLM(0), "prefix=0"),
        (lambda: MultiWindow(5), "a window for every head"),
        (lambda: Neighborhood(16, 3), "grid's sides"),
        (lambda: Neighborhood((4, 4, 4, 4), 3), "one to three axes"),
        (lambda: Neighborhood((8, 8), 9), "larger than the grid"),
        (lambda: Neighborhood((8, 8), 3, dilation=3), "spans 9 tokens"),
        (lambda: Neighborhood((8, 8), 3, stride=4), "stride of 4 is larger"),
        (lambda: Neighborhood((8, 8), (3, 3, 3)), "one for each"),
        (lambda: Neighborhood((8, 8), 3, causal=(True,)), "True or False"),
        (lambda: Halo((8, 8), 3, 1), "does not divide.*pad the grid to 9"),
        (lambda: Windows((8, 8), 4, shift=4), "smaller than the window"),
        (lambda: CrossShaped((8, 8), 2, heads=3), "even number"),
        (lambda: CrossShaped((8, 8, 8), 2, heads=4), "two axes"),
        (lambda: SlidingWindow(4) & 3, "combine with patterns"),
        (lambda: MultiWindow([1, 2]) & MultiWindow([1, 2, 3]), "2 and 3 heads"),
        (lambda: SlidingWindow(4).mask(0), "Sq=0"),
        (lambda: SlidingWindow(4).density(4, 0), "Sk=0"),
        (lambda: SlidingWindow(4).blocks(0, 8), "at least 1"),
        (lambda: SlidingWindow(4).mask(4, 4, q_offset=1.5), "q_offset=1.5"),
        (lambda: fv.Select("window"), "takes a pattern"),
    ],
)
def test_bad_input(make: Any, sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        make()
