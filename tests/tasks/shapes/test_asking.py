"""Questions, layouts, minimal pairs and scores: answers that follow from the pixels alone."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import foveate as fv
from foveate.tasks.shapes import (
    ASKED,
    CHANGES,
    COLOURS,
    NEGATIVES,
    POPULAR,
    SHAPES,
    Binding,
    Question,
    Scene,
    Thing,
    absent,
    answered,
    background,
    binding,
    caption,
    check,
    existence,
    hallucination,
    layout,
    layout_iou,
    pairs,
    partner,
    questions,
    rate,
    render,
    scenes,
)
from foveate.tasks.shapes.captions import NUMBERS, RELATIONS, plural

A = Thing("circle", "red", 9, 6.5, 16.5)
B = Thing("square", "blue", 9, 25.5, 16.5)
SCENE = Scene((A, B))


def from_pixels(question: Question, picture: np.ndarray) -> str:
    """The answer, out of nothing but the question's words and the picture."""
    found = check(picture)
    words = re.findall(r"\w+", question.text)
    shapes = {plural(shape): shape for shape in SHAPES} | {shape: shape for shape in SHAPES}
    shape = [shapes[word] for word in words if word in shapes]
    colour = [word for word in words if word in COLOURS]
    if question.sort == "existence":
        return "yes" if (shape[0], colour[0]) in {f.kind for f in found} else "no"
    if question.sort == "count":
        number = sum((f.shape in shape) or (f.colour in colour) for f in found)
        return NUMBERS[number] if number else "zero"
    if question.sort == "colour":
        (answer,) = [f.colour for f in found if f.shape == shape[0]]
        return answer
    if question.sort == "shape":
        (answer,) = [f.shape for f in found if f.colour == colour[0]]
        return answer
    (a,), (b,) = ([f.box for f in found if f.kind == k] for k in zip(shape, colour, strict=True))
    away = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    return max(RELATIONS, key=lambda name: np.dot(RELATIONS[name], away))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), negatives=st.sampled_from(NEGATIVES), overlap=st.booleans())
def test_answers_are_those_that_the_pixels_give(seed: int, negatives: str, overlap: bool) -> None:
    drawn = scenes(3, seed, objects=(1, 5), repeats=0.3, bias=0.3, overlap=overlap)
    for scene in drawn:
        asked = questions(scene, seed, negatives=negatives)
        assert asked == questions(scene, seed, negatives=negatives)
        for question in asked:
            assert from_pixels(question, render(scene)) == question.answer
            assert answered(question, question.answer)
        no = [q for q in asked if q.answer == "no" and q.sort == "existence"]
        for question in no:
            (kind,) = question.about
            assert question.negatives == negatives and kind in absent(scene, negatives)
            assert kind not in scene.kinds
            if negatives == "popular":
                assert kind in POPULAR
            if negatives == "adversarial":
                assert partner(kind) in scene.kinds


def test_every_sort_is_asked_and_answers_vary() -> None:
    seen: dict[str, Counter] = {sort: Counter() for sort in ASKED}
    for i, scene in enumerate(scenes(400, 1, objects=(1, 4), repeats=0.2)):
        for question in questions(scene, i):
            seen[question.sort][question.answer] += 1
    assert set(seen["existence"]) == {"yes", "no"}
    assert set(seen["colour"]) == set(COLOURS) and set(seen["shape"]) == set(SHAPES)
    assert set(seen["relation"]) == set(RELATIONS) and len(seen["count"]) >= 4
    yes, no = seen["existence"]["yes"], seen["existence"]["no"]
    assert yes == no == 400
    assert max(seen["relation"].values()) < 0.4 * seen["relation"].total()


@pytest.mark.parametrize(
    "sort, answer, reply, right",
    [
        ("existence", "yes", "Yes, there is.", True),
        ("existence", "no", "yes", False),
        ("existence", "no", "there is one", False),
        ("colour", "red", "it is RED", True),
        ("colour", "red", "blue, not red", False),
        ("count", "zero", "no", True),
        ("count", "two", "there are two", True),
        ("relation", "left of", "left", True),
        ("relation", "above", "below", False),
        ("shape", "circle", "", False),
    ],
)
def test_replies_in_words(sort: str, answer: str, reply: str, right: bool) -> None:
    assert answered(Question(sort, "?", answer), reply) is right


# --------------------------------------------------------------------------- layouts and pairs


def test_a_layout_is_obeyed_by_its_own_scene_and_by_no_other() -> None:
    for scene in scenes(40, 3, objects=(2, 4), repeats=0):
        if len(scene.kinds) < len(scene.things):
            continue
        plan = layout(scene)
        assert plan.caption == caption(scene)
        assert all(region.phrase in plan.caption for region in plan.regions)
        found = check(render(scene))
        assert layout_iou(found, plan) == pytest.approx(1)
        assert layout_iou(found[:1], plan) == pytest.approx(1 / len(plan.regions))
        assert layout_iou([], plan) == 0
        for region, thing in zip(plan.regions, scene.things, strict=True):
            shares = region.patches(8)
            assert shares.shape == (8, 8) and shares.sum() * 16 == region.mask.sum()
            assert region.mask.sum() == next(f.mask.sum() for f in found if f.kind == thing.kind)


def test_layout_iou_by_hand() -> None:
    moved = Scene((replace(A, x=A.x + 3), B))  # 6 of 9 columns are shared, 12 covered by either
    assert layout_iou(check(render(moved)), layout(SCENE)) == pytest.approx((6 / 12 + 1) / 2)


@pytest.mark.parametrize("change", [*CHANGES, "any"])
def test_a_pair_differs_in_its_box_and_in_its_answer(change: str) -> None:
    drawn = scenes(60, 5, objects=(2, 4), bias=0.5, texture="any")
    made = pairs(drawn, 3, change=change)
    assert made == pairs(drawn, 3, change=change) and len(made) >= 10
    for pair in made:
        assert change in (pair.change, "any") and pair.answers[0] != pair.answers[1]
        before, after = render(pair.before), render(pair.after)
        assert background(before, after, pair.box, tolerance=0) == 1
        assert (before != after).any()
        sort = {"gone": "existence", "partner": "existence", "place": "relation"}
        question = Question(sort.get(pair.change, pair.change), pair.question, "")
        assert (from_pixels(question, before), from_pixels(question, after)) == pair.answers
        if pair.change == "partner":
            assert any(partner(k) in pair.before.kinds - pair.after.kinds for k in pair.after.kinds)
    if change == "any":
        assert len({pair.change for pair in made}) >= 4


# --------------------------------------------------------------------------- scores


def test_existence_by_hand() -> None:
    asked = [Question("existence", "?", answer) for answer in ("yes", "yes", "no", "no")]
    scored = existence(asked, ["yes", "no", "yes", "what?"])
    assert scored.accuracy.value == 0.5 and scored.yes.value == 0.5
    assert scored.precision == scored.recall == scored.f1.value == 0.5
    assert scored.accuracy.low < 0.5 < scored.accuracy.high and scored.accuracy.n == 4
    assert existence(asked, ["no"] * 4).f1.value == 0
    assert existence(asked, ["yes"] * 4).f1.value == pytest.approx(2 / 3)


def test_false_yes_is_of_what_is_not_there_and_figures_can_be_read() -> None:
    answers = ("yes", "no", "no", "no", "no")
    asked = [Question("existence", "?", answer) for answer in answers]
    scored = existence(asked, ["yes", "yes", "no", "no", "no"])
    assert scored.false_yes.value == 0.25 and scored.false_yes.n == 4
    assert repr(scored.false_yes) == str(scored.false_yes) == "25.0 % [4.6, 69.9], n = 4"
    for line in ("accuracy: 80.0 % [", "false yes: 25.0 % [4.6, 69.9], n = 4", "recall: 100.0 %"):
        assert line in repr(scored)
    assert "Rate(" not in repr(scored)
    none = existence(asked[:1], ["yes"])
    assert none.false_yes.n == 0 and "false yes: no items" in repr(none)


def test_hallucination_by_hand() -> None:
    said = [
        "a red circle, a blue square and a green cross",  # one made up, no partner
        "a red circle",
        "a red circle and a blue square",
        "two blue squares",  # made up: nothing of the kind, and the partner of a red circle
    ]
    scored = hallucination(said, [SCENE, SCENE, SCENE, Scene((A,))])
    assert scored.mentions.value == 2 / 7 and scored.captions.value == 0.5
    assert scored.recall.value == 5 / 7 and scored.partners == 0.5


def test_binding_by_hand() -> None:
    found = check(render(SCENE))
    assert binding(found, SCENE) == Binding(2, 0, 0, 0) and binding(found, SCENE).perfect
    assert binding(found, [("circle", "blue"), ("square", "red")]) == Binding(0, 2, 0, 0)
    assert binding(found, [("circle", "red"), ("cross", "red")]) == Binding(1, 0, 1, 1)
    assert binding(found, [("circle", "red")] * 2) == Binding(1, 0, 1, 1)
    assert binding([], SCENE) == Binding(0, 0, 2, 0) and not binding([], SCENE).perfect


def test_background_by_hand() -> None:
    before = render(SCENE)
    after = before.copy()
    after[:, :16] = 255  # half of the picture is another one
    assert background(before, after, (0, 0, 1, 1)) == pytest.approx(511 / 1023, abs=1e-3)
    left = np.zeros((32, 32), bool)
    left[:, :16] = True
    assert background(before, after, left) == 1
    assert background(before, before // 2 + before % 2, left, tolerance=255) == 1


PLAN = layout(SCENE)


@pytest.mark.parametrize(
    "ask, words",
    [
        (lambda: questions(SCENE, 0, sorts=["smell"]), "smell"),
        (lambda: questions(SCENE, 0, negatives="rare"), "rare"),
        (lambda: absent(SCENE, "rare"), "rare"),
        (lambda: pairs([SCENE], 0, change="smell"), "smell"),
        (lambda: layout(Scene((A, replace(A, x=25.5)))), "repeats=0"),
        (lambda: PLAN.regions[0].patches(7), "7 × 7"),
        (lambda: PLAN.regions[0].patches(0), "0 × 0"),
        (lambda: layout_iou([], replace(PLAN, regions=())), "without regions"),
        (lambda: answered(Question("colour", "?", "red"), None), "NoneType"),
        (lambda: existence([], []), "at least one"),
        (lambda: existence([Question("colour", "?", "red")], ["red"]), "colour"),
        (lambda: hallucination(["a"], []), "as many"),
        (lambda: rate([]), "no items"),
        (lambda: background(render(SCENE), render(Scene((), 48)), (0, 0, 1, 1)), "one size"),
        (lambda: background(render(SCENE), render(SCENE), np.ones((3, 3), bool)), "mask"),
        (lambda: background(render(SCENE), render(SCENE), (0, 0, 32, 32)), "nothing is left"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(ask: Any, words: str) -> None:
    with pytest.raises(fv.FoveateError, match=words):
        ask()
