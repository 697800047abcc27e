"""Steer: every way acts as its method does, and bad input says what to do."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import pytest
import torch

from foveate.attach import attach
from foveate.errors import FoveateError
from foveate.methods import ACT, PASTA, AttendTo, Emphasize, Hide, ZeroTuning
from foveate.prompt import Prompt
from foveate.tasks.answering import generate, text_of
from foveate.ui.inputs import PLAIN
from foveate.ui.session import Desk
from foveate.ui.steer import Steered, steer
from foveate.ui.ways import WAYS, way_for

TEXT = "The red cat sat on the mat. The dog ate a bone. Who ate the bone?"
PIECE = "The dog ate a bone."
USUAL = {
    "Emphasize": Emphasize("piece", 5.0),
    "Suppress": Emphasize("piece", 1 / 5),
    "PASTA": PASTA("piece", 0.01),
    "Hide": Hide("piece"),
    "AttendTo": AttendTo("piece", weights="own"),
    "ACT": ACT(beta=0.4),
    "ZeroTuning": ZeroTuning(1.7),
}


def given(**changes: Any) -> dict[str, Any]:
    usual = {
        "text": TEXT, "form": PLAIN, "piece": PIECE, "way": "Emphasize", "strength": 5.0,
        "layers": "", "heads": "", "new_tokens": 8, "ablation": False,
    }  # fmt: skip
    return {**usual, **changes}


def said(found: Steered) -> list[str]:
    texts = found.answers.split("<blockquote>")[1:]
    return [html.unescape(one.partition("</blockquote>")[0]) for one in texts]


def answer(desk: Desk, *methods: Any) -> str:
    prompt = Prompt(desk.tokenizer, TEXT).mark("piece", PIECE)
    with torch.no_grad(), attach(desk.model, *methods, prompt=prompt):
        return text_of(desk.tokenizer, generate(desk.model, prompt, 8)[0]) or "(nothing)"


@pytest.mark.parametrize("way", WAYS)
def test_each_way_answers_as_its_method(desk: Desk, done: Callable[..., Any], way: str) -> None:
    strength = WAYS[way].strength
    usual = 0.0 if strength is None else strength.usual
    found = done(steer(desk, **given(way=way, strength=usual)))
    assert said(found) == [answer(desk), answer(desk, USUAL[way])]
    assert "Before and after" in html.unescape(found.report)


def test_layers_and_heads_narrow_it(desk: Desk, done: Callable[..., Any]) -> None:
    found = done(steer(desk, **given(strength=50, layers="1", heads="1.0,1.3")))
    only = Emphasize("piece", 50.0, layers=[1], heads={1: [0, 3]})
    assert said(found)[1] == answer(desk, only)


def test_did_it_matter_hides_the_piece(desk: Desk, done: Callable[..., Any]) -> None:
    found = done(steer(desk, **given(ablation=True)))
    assert said(found)[2] == answer(desk, Emphasize("piece", 1e-9))
    assert "nats" in found.answers


def test_html_in_what_is_said_stays_text(desk: Desk, done: Callable[..., Any]) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    found = done(steer(desk, **given(text=f"{TEXT} {hostile}", piece=hostile)))
    assert "<img" not in found.answers and "<img" not in html.unescape(found.report)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"way": "Magic"}, "There is no way"),
        ({"piece": " "}, "select some of its text"),
        ({"piece": "no such words"}, "does not stand in the prompt"),
        ({"text": ""}, "prompt is empty"),
        ({"text": "", "piece": ""}, "prompt is empty"),
        ({"strength": 1e9}, "strength"),
        ({"strength": None}, "strength"),
        ({"new_tokens": 10_000}, "longest answer"),
        ({"new_tokens": 2.5}, "longest answer"),
        ({"layers": "x"}, "Layers"),
        ({"layers": "0-1000000000"}, "Layers"),
        ({"layers": "3-99"}, "^Layers 0–3 are there; 99 was given.$"),
        ({"heads": "0-12"}, "^Heads 0–3 are there; 12 was given.$"),
        ({"heads": "0.1,9.0"}, "^Heads: layers 0–3 are there; 9 was given.$"),
        ({"heads": "0.7"}, "^Heads 0–3 are there; 7 was given.$"),
        ({"layers": "0-1", "heads": "2.0"}, "leave one box empty"),
        ({"heads": "0.x"}, "Heads"),
    ],
)
def test_bad_input_is_refused_before_the_model_is_waited_for(
    desk: Desk, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(FoveateError, match=f"(?i){sentence}"):
        steer(desk, **given(**changes))


def test_ways_that_need_no_piece_take_none(desk: Desk, done: Callable[..., Any]) -> None:
    found = done(steer(desk, **given(way="ACT", strength=0.4, piece="", ablation=True)))
    assert len(said(found)) == 2, "there is nothing to hide"


def test_a_paper_finds_the_way_whose_class_implements_it() -> None:
    assert way_for("zerotuning") == "ZeroTuning"
    assert way_for("act-attention-calibration") == "ACT"
    assert way_for("no-such-paper") is None
