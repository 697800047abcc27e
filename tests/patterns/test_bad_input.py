"""What static patterns refuse, and in which words: what was given, what was wanted, how to mend."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate as fv
from foveate.methods.sparse import DeltaCorrection
from foveate.patterns import (
    Causal,
    CrossShaped,
    Dilated,
    Documents,
    Halo,
    MoBA,
    MultiWindow,
    Neighborhood,
    Pattern,
    PrefixLM,
    SlidingWindow,
    Strided,
    Windows,
)
from foveate.patterns._algebra import Moved

GRID = (8, 8)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SlidingWindow("8"), r"SlidingWindow\(window='8'\): a whole number of at least 1"),
        (lambda: SlidingWindow(True), "window=True"),
        (lambda: SlidingWindow(0), "window=0.*at least 1"),
        (lambda: SlidingWindow(4, sinks=2.0), r"sinks=2\.0.*at least 0"),
        (lambda: SlidingWindow(4, causal="yes"), r"causal='yes'.*True or False"),
        (lambda: Dilated(0, 2), r"Dilated\(window=0\)"),
        (lambda: Dilated(4, 2, causal=1), r"Dilated\(causal=1\): True or False"),
        (lambda: Strided(4, local=0), r"Strided\(local=0\)"),
        (lambda: Strided(4, causal=None), "causal=None"),
        (lambda: Documents(None), r"lengths=None.*list of the documents' lengths.*\[120, 80\]"),
        (lambda: Documents(5), "lengths=5.*list of the documents"),
        (lambda: Documents("abc"), "lengths='abc'"),
        (lambda: Documents([1.5]), r"lengths=1\.5.*whole number"),
        (lambda: PrefixLM(None), "prefix=None"),
        (lambda: MultiWindow([]), "a window for every head"),
        (lambda: MultiWindow(["a"]), "windows='a'"),
        (lambda: Neighborhood(16, 3), r"grid=16.*grid's sides.*\(16, 16\)"),
        (lambda: Neighborhood("ab", 3), "grid='ab'"),
        (lambda: Neighborhood((8, 0), 1), "grid=0"),
        (lambda: Neighborhood(GRID, 0), "window=0"),
        (lambda: Neighborhood(GRID, "3"), "window='3'"),
        (lambda: Neighborhood(GRID, 3, dilation=0), "dilation=0"),
        (lambda: Neighborhood(GRID, 3, dilation=3), "larger|spans"),
        (lambda: Neighborhood(GRID, 3, causal="no"), "causal='no'.*True or False"),
        (lambda: Halo(GRID, 3, 1), "does not divide.*pad the grid to 9"),
        (lambda: Halo(GRID, 2, None), "halo=None.*each of the grid's 2 axes"),
        (lambda: Halo(GRID, 2, "1"), "halo='1'"),
        (lambda: Halo(None, 2, 1), "grid=None"),
        (lambda: Windows(GRID, 3), "does not divide"),
        (lambda: Windows(GRID, 4, shift=4), "shift smaller than the window"),
        (lambda: Windows(GRID, (4, 4, 4)), "each of the grid's 2 axes"),
        (lambda: CrossShaped(GRID, 3, heads=2), "does not divide"),
        (lambda: CrossShaped(GRID, 2, heads=0), "heads=0"),
        (lambda: SlidingWindow(4) & None, "pattern & a NoneType.*combine with patterns"),
        (lambda: Causal() | SlidingWindow, r"class SlidingWindow .*object: SlidingWindow\(…\)"),
        (lambda: MultiWindow([1, 2]) | CrossShaped(GRID, 2, heads=4), "2 and 4 heads"),
    ],
)
def test_what_makes_no_pattern(make: Any, sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        make()


@pytest.mark.parametrize("name", ["mask", "density", "block_mask", "cost"])
def test_sizes_that_are_none(name: str) -> None:
    ask = getattr(SlidingWindow(4), name)
    for sizes, sentence in (
        ((0,), "Sq=0 was given; a number of tokens"),
        (("8",), "Sq='8'"),
        ((8, True), "Sk=True"),
        ((8, 2.5), r"Sk=2\.5"),
        ((8, 8, "0"), "q_offset='0'.*key index of query 0"),
    ):
        with pytest.raises(fv.FoveateError, match=sentence):
            ask(*sizes)


@pytest.mark.parametrize(
    "pattern",
    [
        Neighborhood(GRID, 3),
        Halo(GRID, 2, 1),
        Windows(GRID, 4),
        CrossShaped(GRID, 2, heads=2),
        Windows(GRID, 4) | SlidingWindow(3),
        ~Windows(GRID, 4),
    ],
    ids=repr,
)
def test_a_call_larger_than_the_grid_is_an_error(pattern: Pattern) -> None:
    for ask in (
        pattern.mask,
        pattern.density,
        pattern.block_mask,
        pattern.cost,
        lambda n: pattern.blocks(16, n),
        lambda n: pattern.mask(4, 64, q_offset=61),
    ):
        with pytest.raises(fv.FoveateError, match=r"8 × 8 has 64 tokens and the call (65|100)"):
            ask(100)
        with pytest.raises(fv.FoveateError, match="has 64 tokens and the call 65"):
            Moved(pattern, torch.tensor([-6, -5])).fits(70, 70, 0)
        Moved(pattern, torch.tensor([-6, -5])).fits(69, 69, 0)  # five of padding
    assert pattern.mask(64).shape[-2:] == (64, 64)
    assert pattern.mask(16, 64).shape[-2:] == (16, 64)  # a part of it is fine


def test_a_pattern_larger_than_the_sequence_hides_nothing() -> None:
    """The documented clamp: windows, prefixes and documents may be longer than the sequence."""
    triangle = torch.ones(20, 20).tril().bool()
    for pattern in (SlidingWindow(100), Dilated(100, 1), Strided(100), SlidingWindow(20, sinks=50)):
        assert torch.equal(pattern.mask(20), triangle)
    for pattern in (PrefixLM(100), Documents([100]), SlidingWindow(100, causal=False)):
        assert bool(pattern.mask(20).all())
    assert SlidingWindow(4).blocks(100, 16).shape == (1, 1)


def test_what_goes_by_content_has_no_mask() -> None:
    for ask in (
        lambda p: p.mask(64),
        lambda p: p.density(64),
        lambda p: p.blocks(8, 64),
        lambda p: p.block_mask(64),
        lambda p: p.mask_mod(),
        lambda p: p.plot(64),
        lambda p: (p | SlidingWindow(4)).mask(64),
    ):
        with pytest.raises(fv.FoveateError, match=r"looks at the content.*route"):
            ask(MoBA(16, 2))
    assert MoBA(16, 2)._repr_html_() is None
    q = torch.randn(1, 2, 64, 8)
    chosen = MoBA(16, 2).route(q, q, causal=True, q_offset=0, scale=1.0)
    assert "64 queries × 64 keys" in chosen.plot().svg
    with pytest.raises(fv.FoveateError, match="chosen for a call of 64 × 64"):
        chosen.plot(32)
    for ask in (chosen.mask_mod, chosen.block_mask, (chosen & Causal()).mask_mod):
        with pytest.raises(fv.FoveateError, match=r"patterns that do not convert.*\.matrix\(\)"):
            ask(*(() if "mask_mod" in repr(ask) else (64,)))


def test_what_was_chosen_is_not_asked_for_its_sizes() -> None:
    q = torch.randn(1, 2, 64, 8)
    late = MoBA(16, 2).route(q[:, :, 40:], q, causal=True)  # the last query on the last key
    assert late.q_offset == 40 and torch.equal(late.mask(), late.matrix())
    written = MoBA(16, 2).route(q[:, :, 40:], q, causal=True, q_offset=40, scale=8**-0.5)
    assert torch.equal(late.mask(), written.mask())
    assert late.blocks(8).shape == (1, 2, 3, 8)
    assert not MoBA(16, 2).route(q, q).causal
    combined = (MoBA(16, 2) & SlidingWindow(4)).route(q, q, causal=True)
    assert combined.tile(torch.arange(64), torch.arange(64)).shape == (1, 2, 64, 64)
    assert SlidingWindow(4).route(q, q) == SlidingWindow(4)
    with pytest.raises(fv.FoveateError, match=r"q_offset=0\.5.*whole number"):
        MoBA(16, 2).route(q, q, q_offset=0.5)  # type: ignore[arg-type]
    with pytest.raises(fv.FoveateError, match="no other size"):
        late.blocks(8, 64)


def test_a_class_and_what_goes_elsewhere() -> None:
    q = torch.randn(1, 2, 64, 8)
    wrong: Any = fv.attention
    for make, sentence in (
        (
            lambda: wrong(q, q, q, pattern=SlidingWindow),
            r"the class SlidingWindow was.*Window\(…\)",
        ),
        (lambda: fv.Select(SlidingWindow), r"the class SlidingWindow was.*SlidingWindow\(…\)"),
        (lambda: wrong(q, q, q, pattern=DeltaCorrection(64)), r"goes into operators="),
        (lambda: wrong(q, q, q, operators=[SlidingWindow(4)]), r"goes into pattern="),
        (lambda: wrong(q, q, q, operators=[DeltaCorrection]), r"the class DeltaCorr.*ion\(…\)"),
        (lambda: wrong(q, q, q, pattern=torch.ones(64, 64)), "mask goes into bias="),
    ):
        with pytest.raises(fv.FoveateError, match=sentence):
            make()


def test_a_call_of_fewer_tokens_than_the_grid() -> None:
    q = torch.randn(1, 2, 60, 8)
    for pattern in (Neighborhood(GRID, 3), Windows(GRID, 4) & SlidingWindow(9, causal=False)):
        with pytest.raises(fv.FoveateError, match="has 64 tokens and the call 60"):
            fv.attention(q, q, q, pattern=pattern)
        fv.attention(q, q, q, pattern=pattern, causal=True)  # as in generation
        fv.attention(q[:, :, :20], q, q, pattern=pattern)  # some queries
    fv.attention(q, q, q, pattern=Neighborhood(GRID, 3, causal=True))
