"""Tokens in shades: nothing lost, the sink apart, long texts folded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.report.html import asset
from foveate.report.looks import LEVELS, Block, Run, blocks, highest, seen, shades


def runs(found: list[Block]) -> list[Run]:
    return [run for block in found for one in block.stretches for run in one.runs]


@given(st.lists(st.tuples(st.text(max_size=3), st.floats(0, 1)), max_size=40),
       st.sets(st.integers(0, 40)), st.integers(0, 5))  # fmt: skip
def test_no_word_is_lost(pairs: list[tuple[str, float]], evidence: set[int], said: int) -> None:
    tokens, weights = [a for a, _ in pairs], [b for _, b in pairs]
    found = blocks(tokens, weights, highest(weights), evidence=evidence, said=said)
    text = "".join(run.text for run in runs(found))
    assert text == "".join(t.replace("\t", "→") or "·" for t in tokens)
    assert sum(block.tokens for block in found) == len(tokens)
    assert sum(block.share for block in found) == pytest.approx(sum(weights))


def test_levels_and_kinds() -> None:
    tokens, weights = ["<s>", "a", "b", "c", "<|e|>"], [0.9, 0.04, 0.005, 0.001, 0.0]
    (block,) = blocks(tokens, weights, 0.04, evidence={1, 2}, raised={2}, said=1)
    assert [(one.marks, [(r.text, r.level, r.kind) for r in one.runs])
            for one in block.stretches] == [
        ((), [("<s>", 0, "sink")]),
        (("evidence",), [("a", LEVELS, "")]),
        (("evidence", "raised"), [("b", LEVELS // 4, "")]),  # an eighth, to the power of 2/3
        ((), [("c", 0, "")]),  # a fortieth of the top has no shade
        (("said",), [("<|e|>", 0, "special")]),
    ]  # fmt: skip


def test_both_sides_keep_in_sight_what_one_of_them_does() -> None:
    n = 1000
    here, there = [0.0] * n, [0.0] * n
    here[300], there[600] = 0.5, 0.5
    sight = seen(here, ()) | seen(there, ())
    sides = [blocks(["x"] * n, one, 0.5, sight=sight) for one in (here, there)]
    assert [[(b.folded, b.tokens) for b in side] for side in sides][0] == [
        (b.folded, b.tokens) for b in sides[1]
    ]


def test_the_sink_does_not_set_the_scale() -> None:
    assert highest([0.9, 0.02], [0.8, 0.05]) == 0.05
    assert highest([0.9], []) == highest([1.0, 0.0]) == 1.0


def test_long_texts_are_folded_but_not_what_matters() -> None:
    n = 3000
    weights = [0.0] * n
    weights[1500] = 0.4
    tokens = [f" t{i}" for i in range(n)]
    found = blocks(tokens, weights, 0.4, evidence=range(700, 705))
    shown = "".join(run.text for run in runs([one for one in found if not one.folded]))
    for there in (" t0", " t702", " t1500", " t2999"):
        assert there in shown
    assert " t1000" not in shown
    assert sum(block.tokens for block in found if block.folded) > 2700
    assert not any(block.folded for block in blocks(tokens[:400], weights[:400], 1.0))


def test_a_long_region_is_folded_too() -> None:
    n = 3000
    found = blocks(["x"] * n, [1 / n] * n, 1.0, raised=range(10, 2900))
    assert sum(block.tokens for block in found if block.folded) > 2000


def test_shades_have_ink_that_can_be_read() -> None:
    css = shades(asset("report.css"))
    assert css.count(".w1 ") == css.count(f".w{LEVELS} ") == 2
    light, dark = css.split("@media")
    assert f".w{LEVELS} {{ background: rgb(93,16,16); color: #fdfaf4; }}" in light
    assert f".w{LEVELS} {{ background: rgb(255,225,168); color: #1a1815; }}" in dark
