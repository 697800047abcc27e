"""ViCrop: its maps from an eager model's matrices and autograd, its box by trying every window."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import foveate as fv
import pictured
from foveate.find.boxes import RATIOS, best_box, edges
from foveate.find.where_to_look import Look, ViCrop, grad_att, pure_grad, rel_att, with_crop
from foveate.tasks._task import Item

pytest.importorskip("PIL")

GENERAL = "say what you see"
TEXTS = ("what is there?", "is it a cat, or not?")


@cache
def model() -> Any:
    """In double precision, with weights large enough that attention is uneven."""
    made = copy.deepcopy(pictured.model("llava")).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
    return made


def chats(size: tuple[int, int] = (16, 16)) -> list[list[dict[str, Any]]]:
    """Two, of different lengths, about two pictures."""
    return [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": pictured.noise(*size, seed)},
                    {"type": "text", "text": text},
                ],
            }
        ]
        for seed, text in enumerate(TEXTS)
    ]


def prompt(asked: list[list[dict[str, Any]]]) -> fv.Prompt:
    return fv.Prompt(pictured.processor("llava"), asked, padding_side="left")


@cache
def eager() -> Any:
    """The model writing its matrices out."""
    written = copy.deepcopy(model())
    written.set_attn_implementation("eager")
    return written


def by_hand(
    chat: list[dict[str, Any]], general: list[dict[str, Any]], maps: str, layers: list[int]
) -> Tensor:
    """One item's map ``[4, 4]``."""
    found = []
    for asked in (chat, general):
        one = prompt([asked])
        inputs, places = one.inputs, one.regions["image"][0]
        pixels = inputs["pixel_values"].clone().requires_grad_()
        out = eager()(**{**inputs, "pixel_values": pixels}, output_attentions=True)
        attentions = [out.attentions[layer] for layer in layers]
        if maps == "rel_att":
            seen = torch.stack(attentions)[:, 0, :, -1, places].mean((0, 1))
            found.append(seen.detach())
            continue
        value = out.logits[0, -1].log_softmax(-1).max()
        if maps == "grad_att":
            grads = torch.autograd.grad(value, attentions)
            both = [
                (a * g.relu())[0, :, -1, places] for a, g in zip(attentions, grads, strict=True)
            ]
            return torch.stack(both).mean((0, 1)).detach().reshape(4, 4)
        (grad,) = torch.autograd.grad(value, pixels)
        found.append(grad[0].norm(dim=0))
    ratio = found[0] / found[1]
    if maps == "rel_att":
        return ratio.reshape(4, 4)
    ratio = ratio * detail(inputs["pixel_values"][0])
    return ratio.reshape(4, 4, 4, 4).mean((1, 3))


def detail(picture: Tensor) -> Tensor:
    """The high-pass filter, pixel by pixel."""
    image = picture.numpy()
    taps = np.exp(-np.array([1.0, 0.0, 1.0]) / (2 * 0.8**2))
    taps /= taps.sum()
    _, high, wide = image.shape
    lost = np.zeros_like(image)
    for y in range(high):
        for x in range(wide):
            blurred = 0.0
            for dy, a in zip((-1, 0, 1), taps, strict=True):
                for dx, b in zip((-1, 0, 1), taps, strict=True):
                    j, i = abs(y + dy), abs(x + dx)
                    j, i = min(j, 2 * high - 2 - j), min(i, 2 * wide - 2 - i)
                    blurred = blurred + a * b * image[:, j, i]
            lost[:, y, x] = image[:, y, x] - blurred
    strength = np.sqrt((lost**2).sum(0))
    padded = np.pad(strength, 3, mode="symmetric")
    smooth = [[np.median(padded[y : y + 7, x : x + 7]) for x in range(wide)] for y in range(high)]
    return torch.tensor(np.array(smooth) > np.median(smooth))


def windows(weights: Tensor, size: tuple[float, float], side: float) -> tuple[int, ...]:
    """The box search, with a sum for every window of every size."""
    rows, columns = weights.shape
    best: tuple[float, Any] = (-np.inf, None)
    for ratio in RATIOS:
        high = min(max(int(side * ratio * rows / size[1]), 1), rows)
        wide = min(max(int(side * ratio * columns / size[0]), 1), columns)
        if (high, wide) == (rows, columns):
            if ratio == 1:
                return (0, 0, *size)
            continue
        sums = {
            (x, y): sum(
                float(weights[j, i]) for j in range(y, y + high) for i in range(x, x + wide)
            )
            for x in range(columns - wide + 1)
            for y in range(rows - high + 1)
        }
        x, y = max(sums, key=lambda at: round(sums[at], 9))  # the first of equals, by columns
        around = [sums[at] for at in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)) if at in sums]
        sharp = round((sums[x, y] - sum(around) / len(around)) / (high * wide), 9)
        if sharp > best[0]:
            best = sharp, (side * ratio, x, y, wide, high)
    length, x, y, wide, high = best[1]
    box = []
    for at, n, patches, whole in ((x, wide, columns, size[0]), (y, high, rows, size[1])):
        half = length // 2
        middle = int(at * whole / patches + whole / patches * n / 2)
        middle = min(max(middle, half), whole - half)
        box.append((int(max(0, middle - half)), int(min(whole, middle + half))))
    return box[0][0], box[1][0], box[0][1], box[1][1]


def check(make: Callable[..., Any]) -> None:
    asked = chats((40, 60))
    general = [
        [{"role": "user", "content": [chat[0]["content"][0], {"type": "text", "text": GENERAL}]}]
        for chat in asked
    ]
    for maps, layers in (("rel_att", None), ("grad_att", 1), ("pure_grad", None)):
        looks = make(maps, GENERAL, layers).look(model(), pictured.processor("llava"), asked)
        for chat, other, look in zip(asked, general, looks, strict=True):
            chosen = [0, 1] if layers is None else [layers]
            wanted = by_hand(chat, other, maps, chosen)
            assert look.map.shape == (4, 4), maps
            assert torch.allclose(look.map.double(), wanted.double(), rtol=1e-4, atol=1e-9), maps
            assert look.box == windows(wanted, (60, 40), 16), maps
            x0, y0, x1, y1 = look.box
            shown = chat[0]["content"][0]["image"][y0:y1, x0:x1]
            assert np.array_equal(np.asarray(look.crop), shown)


class Whole(ViCrop):
    """The whole picture, and a map of ones."""

    def look(self, model: Any, processor: Any, chats: Any) -> list[Look]:
        pictures = [chat[0]["content"][0]["image"] for chat in chats]
        return [Look(torch.ones(4, 4), (0, 0, 60, 40), picture) for picture in pictures]


def baseline(maps: Any, general: str, layers: Any) -> ViCrop:
    return Whole(maps, general, layers)


def test_vicrop() -> None:
    check(ViCrop)


def test_the_same_question_twice_is_a_map_of_ones() -> None:
    asked = prompt(chats())
    for found in rel_att(model(), asked, prompt(chats())):
        assert torch.allclose(found, torch.ones(4, 4), atol=1e-5)


def test_a_batch_is_its_items() -> None:
    asked, general = chats(), [[{**c[0], "content": c[0]["content"][:1]}] for c in chats()]
    for maps in (rel_att, grad_att, pure_grad):
        together = maps(model(), prompt(asked), prompt(general))
        for row, found in enumerate(together):
            (alone,) = maps(model(), prompt([asked[row]]), prompt([general[row]]))
            assert torch.allclose(found, alone, rtol=1e-3, atol=1e-8), maps


def test_answers_are_those_of_a_prompt_with_the_crop_behind_the_picture() -> None:
    processor, asked = pictured.processor("llava"), chats((40, 60))
    method = ViCrop("grad_att", batch_size=1)
    items = [Item(str(n), chat, "") for n, chat in enumerate(asked)]
    said = method.generate(model(), processor, items, 3)
    assert said == method.generate(model(), processor, asked, 3)
    looks = method.look(model(), processor, asked)
    for chat, look, text in zip(asked, looks, said, strict=True):
        picture, question = chat[0]["content"]
        content = [picture, {"type": "image", "image": look.crop}, question]
        made = prompt([[{"role": "user", "content": content}]])
        assert len(made.grids) == 2
        ids = model().generate(**made.inputs, max_new_tokens=3, do_sample=False)
        told = processor.tokenizer.decode(ids[0, made.length :], skip_special_tokens=True)
        assert told.strip() == text
    assert chats((40, 60))[0][0]["content"][1] == asked[0][0]["content"][1]  # theirs, as it was


def test_in_place_of_the_picture() -> None:
    (chat,) = chats()[:1]
    assert [p["type"] for p in with_crop(chat, "crop", True)[0]["content"]] == [
        "image", "image", "text",
    ]  # fmt: skip
    assert with_crop(chat, "crop", False)[0]["content"][0] == {"type": "image", "image": "crop"}


# -- the box ---------------------------------------------------------------------------------------
def test_a_planted_box_is_found() -> None:
    planted = torch.zeros(8, 8)
    planted[2:4, 5:7] = 1.0
    assert best_box(planted, (128, 128), 32) == (80, 32, 112, 64)


@given(
    st.tuples(st.integers(2, 6), st.integers(2, 6)),
    st.tuples(st.integers(20, 90), st.integers(20, 90)),
    st.integers(4, 60),
    st.integers(0, 2**16),
)
@settings(max_examples=30)
def test_the_box_is_that_of_all_windows_tried(
    shape: tuple[int, int], size: tuple[int, int], side: int, seed: int
) -> None:
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(seed)).double()
    box = best_box(weights, size, side)
    assert box == windows(weights, size, side)
    assert 0 <= box[0] < box[2] <= size[0] and 0 <= box[1] < box[3] <= size[1]


def test_a_small_picture_is_taken_whole() -> None:
    assert best_box(torch.rand(4, 4), (16, 12), 16) == (0, 0, 16, 12)


def test_detail_is_where_a_loop_finds_it() -> None:
    picture = torch.rand(3, 11, 14, generator=torch.Generator().manual_seed(1)).double()
    assert torch.equal(edges(picture), detail(picture))
    assert bool(edges(torch.zeros(3, 8, 8)).all())  # nothing to choose by


# -- what is refused -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"maps": "attention"}, "there are rel_att, grad_att, pure_grad"),
        ({"general": ""}, "general=''"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"side": -3}, "side=-3"),
    ],
)
def test_settings_that_are_none(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        ViCrop(**settings)


def test_what_is_no_chat_with_a_picture() -> None:
    processor = pictured.processor("llava")
    with pytest.raises(fv.FoveateError, match="list of messages"):
        ViCrop().look(model(), processor, ["what?"])
    words = [{"role": "user", "content": "what?"}]
    with pytest.raises(fv.FoveateError, match="has no picture"):
        rel_att(model(), prompt([words]), prompt([words]))
    with pytest.raises(fv.FoveateError, match="has no picture"):
        with_crop(words, "crop", True)


def test_prompts_that_do_not_belong_together() -> None:
    asked = prompt(chats())
    with pytest.raises(fv.FoveateError, match="1 items, the question's 2"):
        rel_att(model(), asked, prompt(chats()[:1]))
    right = fv.Prompt(pictured.processor("llava"), chats(), padding_side="right")
    with pytest.raises(fv.FoveateError, match="padded on the right"):
        grad_att(model(), right)


@pytest.mark.parametrize(
    ("weights", "size", "side", "sentence"),
    [
        (torch.rand(3), (8, 8), 4, "map \\[rows, columns\\]"),
        (torch.full((2, 2), torch.nan), (8, 8), 4, "no finite numbers"),
        (torch.rand(2, 2), (8, 0), 4, "numbers above 0"),
        (torch.rand(2, 2), (8, 8), 0, "numbers above 0"),
        (torch.rand(2, 2), 8, 4, "numbers above 0"),
    ],
)
def test_no_box(weights: Tensor, size: Any, side: float, sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        best_box(weights, size, side)
