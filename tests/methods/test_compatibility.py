"""Pairs of stable methods: their definitions one after the other, or a refusal that names both.

The default run asks every pair on one family, and each again on two other places; ``-m slow`` asks
all of them everywhere, padded on either side too. ``benchmarks/compatibility.py`` writes the table.
"""

from __future__ import annotations

from typing import Any

import pytest

import foveate as fv
from families import BY_NAME
from foveate.methods.stable import STABLE
from matrix import PAIRS, PLACES, away, place

HOME = ("llama", "decoder")
OTHERS = [one for one in PLACES if one != HOME]
SHARES = 12  # a place takes every so many-th pair


def faults(
    name: str, stack: str, padded: str | None, pairs: list[tuple[str, str]], idle: bool = True
) -> list[str]:
    """What is wrong with pairs at a place, a sentence each."""
    here, found = place(name, stack, padded), []
    idle = idle and here.target.tokens > 10  # a window has little to hide from so few
    for a, b in pairs:
        got = here.pair(a, b, idle)
        if got.state == "wrong":
            found.append(f"{a}, {b} on {here}: {got.why}")
        if got.idle:
            found.append(
                f"{a}, {b} on {here}: {', '.join(got.idle)} changes nothing, by definition"
            )
        if got.state == "refused" and not named(got.why, a, b):
            found.append(f"{a}, {b} on {here}: {got.why!r} does not name both")
    return found


def named(sentence: str, a: str, b: str) -> bool:
    """Whether a refusal says between what: a measure is named by its key."""
    names = {"Measure": "be measured", "Select": "a pattern"}
    return all(name in sentence or names.get(name, name) in sentence for name in (a, b))


def test_every_pair_on_one_family() -> None:
    assert not faults(*HOME, None, PAIRS)


@pytest.mark.parametrize("index", range(len(OTHERS)), ids=[".".join(one) for one in OTHERS])
def test_some_pairs_on_the_others(index: int) -> None:
    name, stack = OTHERS[index]
    text = BY_NAME[name].inputs in ("ids", "both")
    padded = ("left", "right")[index // SHARES] if text else None
    assert not faults(name, stack, padded, PAIRS[index % SHARES :: SHARES], idle=False)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stack"), PLACES)
@pytest.mark.parametrize("padded", [None, "left", "right"])
def test_every_pair_everywhere(name: str, stack: str, padded: str | None) -> None:
    if padded is None or BY_NAME[name].inputs in ("ids", "both"):
        assert not faults(name, stack, padded, PAIRS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss", "gpt2"])
def test_every_pair_from_a_cache(name: str) -> None:
    here, wrong = place(name, "decoder", "left"), []
    for a, b in PAIRS:
        first, second = here.made(a, b)
        try:
            got = here.stepped([*first, *second])
        except fv.FoveateError as error:
            assert here.pair(a, b).state == "refused", f"{a}, {b}: {error}"
            continue
        why = here.apart(got, here.book([*first, *second], here.prompt, here.prompt))
        if why:
            wrong.append(f"{a}, {b}: {why}")
    assert not wrong


def test_order_matters_within_a_stage_only() -> None:
    here, moved = place(*HOME), []
    for a, b in PAIRS:
        if a >= b or here.pair(a, b).state != "equal" or here.pair(b, a).state != "equal":
            continue
        if away(here.wanted[a, b], here.wanted[b, a]) > 1e-6:
            moved.append((a, b))
            shared = set(STABLE[a].stages) & set(STABLE[b].stages)
            assert shared or "ACT" in (a, b), f"{a} and {b} share no stage, and their order matters"
    assert ("ACT", "Emphasize") in moved  # which keys are sinks is judged under what came before


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (fv.Ablate({0: [0]}), lambda at: fv.Shift("out", at.vectors("out", 1), heads={0: [0]})),
        (fv.ACT(1.1, 0.3, layers=[0, 1]), lambda at: fv.Emphasize(at.region, 6.0)),
    ],
)
def test_two_of_one_stage_act_in_the_order_in_which_they_were_given(
    first: Any, second: Any
) -> None:
    here = place(*HOME)
    pair = first, second(here.target)
    both = [here.ours(methods) for methods in (pair, pair[::-1])]
    assert away(both[0][0], both[1][0]) > 1e-3
    for got, methods in zip(both, (pair, pair[::-1]), strict=True):
        assert not here.apart(got, here.book(methods))


def test_a_nested_attachment_acts_behind_the_outer_one() -> None:
    here = place(*HOME)
    for a, b in (("Select", "DeltaCorrection"), ("AttendTo", "FocusDirections"), ("Hide", "ACT")):
        first, second = here.made(a, b)
        with fv.attach(here.model, *first, regions=here.masks):
            got = here.ours(second)[0]
        assert away(got, here.book([*first, *second])[0]) < 1e-4, (a, b)


def test_what_hides_everything_leaves_nothing() -> None:
    """Two patterns that have no pair in common: rows of zeros, and no NaN."""
    here = place(*HOME)
    hide = [fv.Hide("first"), fv.Select(fv.SlidingWindow(1)), fv.Hide("near")]
    assert bool(here.ours(hide)[0].isfinite().all())
    assert not here.apart(here.ours(hide), here.book(hide))
