"""Models asked about scenes, and models that draw, item by item."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foveate as fv
from foveate.tasks.shapes import Question, drawing, mentions, scenes
from foveate.tasks.shapes.asking import DESCRIBE, Pope, f1_gain, inputs_of, made_up, pope, replies


@pytest.fixture(scope="module")
def vlm() -> Any:
    return fv.load("shapes-vlm")


@pytest.fixture(scope="module")
def some() -> Any:
    return scenes(12, 5, objects=(2, 3))


def test_replies_are_those_of_each_scene_alone(vlm: Any, some: Any) -> None:
    together = replies(*vlm, some, [DESCRIBE] * len(some))
    assert together[:3] == [replies(*vlm, [scene], [DESCRIBE])[0] for scene in some[:3]]
    assert sum(map(sum, zip(made_up(together, some), strict=True))) < len(some) / 2


def test_methods_are_attached_and_know_the_image(vlm: Any, some: Any) -> None:
    plain = replies(*vlm, some, [DESCRIBE] * len(some))
    blind = replies(*vlm, some, [DESCRIBE] * len(some), [fv.Hide("image")])
    assert sum(a != b for a, b in zip(blind, plain, strict=True)) > len(some) / 2


def test_generate_stands_in_for_the_models_own(vlm: Any, some: Any) -> None:
    def silent(**inputs: Any) -> torch.Tensor:
        assert inputs["max_new_tokens"] == 5
        return inputs["input_ids"]

    assert replies(*vlm, some, ["a"] * len(some), generate=silent, tokens=5) == [""] * len(some)


def test_pope_asks_the_same_of_every_method(vlm: Any, some: Any) -> None:
    base, blind = pope(*vlm, some), pope(*vlm, some, [fv.Hide("image")])
    assert base.questions == blind.questions
    assert {q.negatives for q in base.questions} == {None, "adversarial"}
    assert base.score.accuracy.value == sum(base.right) / len(base.right)
    gain, low, high = f1_gain(base, blind)
    assert gain == pytest.approx(blind.score.f1.value - base.score.f1.value)
    assert low <= gain <= high


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=2, max_size=20))
@settings(max_examples=20)
def test_the_gain_of_f1_is_a_difference_of_f1s(rows: list[tuple[bool, bool, bool]]) -> None:
    def run(column: int) -> Pope:
        asked = [Question("existence", str(i), "yes" if r[0] else "no") for i, r in enumerate(rows)]
        return Pope(tuple(asked), tuple("yes" if r[column] else "no" for r in rows))

    def f1(column: int) -> float:
        both = sum(r[0] and r[column] for r in rows)
        return 2 * both / max(sum(r[0] for r in rows) + sum(r[column] for r in rows), 1)

    assert f1_gain(run(1), run(2))[0] == pytest.approx(f1(2) - f1(1))
    assert f1_gain(run(1), run(1)) == (0, 0, 0)


def test_what_cannot_be_compared_is_refused(vlm: Any, some: Any) -> None:
    asked = Question("existence", "is there a red circle?", "yes")
    with pytest.raises(fv.FoveateError, match="same scenes, negatives"):
        f1_gain(Pope((asked,), ("yes",)), Pope((), ()))
    with pytest.raises(fv.FoveateError, match="as many of both"):
        inputs_of(vlm[1], some, ["one"])


# --------------------------------------------------------------------------- drawing


def test_prompts_ask_for_each_pair_alike() -> None:
    asked = drawing.prompts(2, 132)
    assert len(set(asked)) == 132
    assert all(len(mentions(text)) == 2 for text in asked)
    assert drawing.prompts(1, 12, seed=2) != drawing.prompts(1, 12, seed=3)
    assert all(len(mentions(text)) == 4 for text in drawing.prompts(4, 5))


class Words:
    """Just enough of a tokenizer: one token a word."""

    is_fast, all_special_ids, padding_side = True, (), "right"
    pad_token_id = eos_token_id = unk_token_id = 0

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        ends = [i for i, c in enumerate(text + " ") if c == " "]
        starts = [0, *(end + 1 for end in ends[:-1])]
        spans = list(zip(starts, ends, strict=True))
        return {"input_ids": list(range(1, len(spans) + 1)), "offset_mapping": spans}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [str(i) for i in ids]


def test_the_words_for_each_thing_are_marked() -> None:
    asked = ["a red circle and a red square", "a blue square and a red circle"]
    prompt = drawing.marked(Words(), asked)
    assert prompt.positions("thing 1", 0) == [0, 1, 2]
    assert prompt.positions("colour 2", 0) == [5]
    assert prompt.positions("shape 2", 1) == [6]


def test_bad_prompts_and_pictures_are_refused() -> None:
    with pytest.raises(fv.FoveateError, match="1 to 12 things"):
        drawing.prompts(13, 2)
    with pytest.raises(fv.FoveateError, match="as many of both"):
        drawing.judged(["a red circle"], [])
