"""Patterns written down and read again see the same."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foveate as fv
from foveate import patterns as p
from foveate.patterns._algebra import Moved, OnHeads
from foveate.patterns.written import pattern_of, read_pattern, text_of, write_pattern

ONES = [
    p.Causal(),
    p.SlidingWindow(5, sinks=2),
    p.SlidingWindow(5, causal=False),
    p.Dilated(3, 4),
    p.Strided(4),
    p.Strided(4, local=2, causal=False),
    p.Documents([3, 4]),
    p.PrefixLM(3),
    p.MultiWindow([2, 5]),
    p.PowerAttention(block=2, window=2),
    p.ShiftedGroups(4, heads=4, shifted=1, sinks=1),
    p.Neighborhood((4, 4), 3),
    p.Halo((4, 4), 2, 1),
    p.Windows((4, 4), 2, shift=1),
    OnHeads(p.SlidingWindow(3), (0, 2), 4),
]


@pytest.mark.parametrize("pattern", ONES, ids=repr)
def test_each_comes_back_the_same(pattern: p.Pattern) -> None:
    again = read_pattern(json.loads(json.dumps(write_pattern(pattern))))
    assert again == pattern == pattern_of(text_of(pattern)) and hash(again) == hash(pattern)
    assert torch.equal(again.mask(16), pattern.mask(16))


@given(st.recursive(
    st.sampled_from(ONES[:8]),
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a: ~a, inner),
    ),
    max_leaves=5,
))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_what_is_composed_comes_back_the_same(pattern: p.Pattern) -> None:
    again = read_pattern(json.loads(json.dumps(write_pattern(pattern))))
    assert torch.equal(again.mask(9), pattern.mask(9))
    text = text_of(pattern)
    assert torch.equal(pattern_of(text).mask(9), pattern.mask(9))
    assert text_of(pattern_of(text)) == text


def test_texts_as_people_write_them() -> None:
    found = pattern_of(" SlidingWindow(64, sinks=4)|~Strided(8) & Causal()")
    assert found == p.SlidingWindow(64, sinks=4) | (~p.Strided(8) & p.Causal())
    assert text_of(p.SlidingWindow(3) & ~(p.Causal() | p.PrefixLM(2))) == (
        "SlidingWindow(window=3, sinks=0, causal=True) & ~(Causal() | PrefixLM(prefix=2))"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Slided(3)", "no pattern 'Slided'"),
        ("SlidingWindow", "no pattern .* brackets"),
        ("SlidingWindow(3, 4, True, 5)", "takes window, sinks, causal"),
        ("SlidingWindow(**{})", "takes window"),
        ("SlidingWindow(size=3)", "does not take"),
        ("SlidingWindow(x)", "is no pattern"),
        ("SlidingWindow(3) + Causal()", "is no pattern"),
        ("__import__('os').getcwd()", "is no pattern"),
        ("(" * 300 + "Causal()" + ")" * 300, "is no pattern"),
        ("Causal() " + "& Causal()" * 1000, "too long"),
        ("", "is no pattern"),
    ],
)
def test_what_is_no_text_of_a_pattern(text: str, sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        pattern_of(text)


def test_routed_ones_too() -> None:
    assert read_pattern(write_pattern(p.MoBA(16, 3))) == p.MoBA(16, 3)


@dataclass(frozen=True)
class Mine(p.Pattern):
    size: int = 1


@pytest.mark.parametrize(
    "pattern",
    [Mine(), Moved(p.SlidingWindow(3), torch.tensor([1])), p.SlidingWindow(3) | Mine()],
    ids=repr,
)
def test_what_cannot_be_written(pattern: p.Pattern) -> None:
    with pytest.raises(fv.FoveateError, match="cannot be written down"):
        write_pattern(pattern)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "names no pattern"),
        ({"window": 3}, "names no pattern"),
        ({"class": "Winodw"}, "no pattern 'Winodw' in this version; there are"),
        ({"class": "Pieces"}, "no pattern 'Pieces'"),
        ({"class": "SlidingWindow", "size": 3}, "SlidingWindow does not take"),
        ({"class": "SlidingWindow", "window": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_read(data: object, words: str) -> None:
    with pytest.raises(fv.FoveateError, match=words):
        read_pattern(data)


def test_a_text_that_could_not_be_read_is_not_written() -> None:
    long = p.SlidingWindow(1)
    for n in range(2, 120):
        long = long | p.SlidingWindow(n)
    with pytest.raises(fv.FoveateError, match=r"characters as a text; up to 4,000 are read"):
        text_of(long)
