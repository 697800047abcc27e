"""Scenes, pictures and sentences: what is drawn is what is said is what is read back."""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import foveate as fv
from foveate.tasks.shapes import (
    COLOURS,
    KINDS,
    POPULAR,
    SHAPES,
    TEXTURES,
    Scene,
    Thing,
    caption,
    check,
    mentions,
    partner,
    render,
    scenes,
)
from foveate.tasks.shapes.captions import RELATIONS, related
from foveate.tasks.shapes.components import components
from foveate.tasks.shapes.render import outlines, visible

WORLDS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "crowded": {"objects": (4, 6)},
    "textures": {"objects": (1, 6), "texture": "any"},
    "48 pixels": {"objects": (1, 6), "size": 48, "texture": "any"},
    "64 pixels": {"objects": (1, 6), "size": 64, "texture": "any"},
    "overlaps": {"objects": (2, 6), "overlap": True, "texture": "any"},
    "wide overlaps": {"objects": (2, 6), "overlap": True, "size": 64},
}


def wrong(drawn: list[Scene]) -> int:
    """Scenes in which the checker does not find exactly the things that were drawn, in place."""
    bad = 0
    for scene in drawn:
        want = Counter((thing.kind, thing.box) for thing in scene.things)
        bad += want != Counter((thing.kind, thing.box) for thing in check(render(scene)))
    return bad


@pytest.mark.parametrize("world", WORLDS, ids=list(WORLDS))
def test_the_checker_reads_back_what_was_drawn(world: str) -> None:
    n = 500  # of each of seven worlds: 3,500 clean pictures
    assert wrong(scenes(n, 11, **WORLDS[world])) <= 0.005 * n


@pytest.mark.bench
@pytest.mark.parametrize("world", ["as it comes", "crowded", "textures", "64 pixels"])
def test_a_scene_is_drawn_and_checked_in_a_millisecond(world: str) -> None:
    drawn = scenes(1000, 5, **WORLDS[world])
    check(render(drawn[0]))  # tables that are made once
    start = time.perf_counter()
    for scene in drawn:
        check(render(scene))
    assert (time.perf_counter() - start) / len(drawn) <= 1e-3


@pytest.mark.bench
def test_thousands_of_scenes_a_second() -> None:
    start = time.perf_counter()
    scenes(2000, 5)
    assert time.perf_counter() - start < 1


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(32, 64),
    most=st.integers(1, 6),
    overlap=st.booleans(),
    bias=st.sampled_from([0.0, 0.5, 1.0]),
    texture=st.sampled_from([None, "any", *TEXTURES]),
)
def test_scenes_keep_their_promises(
    seed: int, size: int, most: int, overlap: bool, bias: float, texture: str | None
) -> None:
    options = {"objects": (1, most), "size": size, "overlap": overlap, "bias": bias}
    drawn = scenes(4, seed, texture=texture, **options)
    assert drawn == scenes(4, seed, texture=texture, **options)
    assert drawn[:2] == scenes(2, seed, texture=texture, **options)
    for scene in drawn:
        assert 1 <= len(scene.things) <= most and scene.size == size
        picture = render(scene)
        assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
        for thing, (seen, whole) in zip(scene.things, visible(scene.things, size), strict=True):
            assert seen.sum() == whole.sum() or (overlap and seen.sum() >= 0.6 * whole.sum())
            assert (picture[seen] == COLOURS[thing.colour]).all()
        if texture in TEXTURES:
            assert scene.background == texture
        for found in check(picture):
            x0, y0, x1, y1 = found.box
            rows, columns = found.mask.nonzero()
            assert (rows.min(), columns.min()) == (y0, x0)
            assert (rows.max(), columns.max()) == (y1 - 1, x1 - 1)


def test_every_shape_fills_its_box_in_one_piece_and_no_two_look_alike() -> None:
    for size in range(7, 30):
        drawn = outlines(size, size)
        assert drawn.any(1).all() and drawn.any(2).all()
        assert all(len(components(shape.astype(int))) == 1 for shape in drawn)
        assert len({shape.tobytes() for shape in drawn}) == len(SHAPES)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 9), width=st.integers(1, 9))
def test_components_are_those_of_a_flood(seed: int, height: int, width: int) -> None:
    classes = np.random.default_rng(seed).integers(0, 3, (height, width))
    left = {(y, x) for y in range(height) for x in range(width) if classes[y, x]}
    pieces = set()
    while left:
        flood, edge = set(), [min(left)]
        while edge:
            y, x = edge.pop()
            if (y, x) in left:
                left.remove((y, x))
                flood.add((y, x))
                sides = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
                edge += [s for s in sides if s in left and classes[s] == classes[y, x]]
        pieces.add(frozenset(flood))
    found = components(classes)
    for colour, (x0, y0, x1, y1), mask in found:
        assert mask.shape == (y1 - y0, x1 - x0)
        assert (classes[y0:y1, x0:x1][mask] == colour).all()
    assert {
        frozenset((y + y0, x + x0) for y, x in zip(*mask.nonzero(), strict=True))
        for _, (x0, y0, _, _), mask in found
    } == pieces


def test_the_bias_makes_partners_come_together() -> None:
    def together(bias: float) -> float:
        drawn = [s for s in scenes(600, 2, objects=(2, 2), bias=bias, repeats=0) if s.kinds]
        return float(np.mean([partner(s.things[0].kind) in s.kinds for s in drawn]))

    assert together(0) < 0.08 and 0.4 < together(0.5) < 0.65 and together(1) == 1
    assert all(partner(partner(kind)) == kind != partner(kind) for kind in KINDS)
    assert partner(("circle", "red")) == ("square", "blue")


def test_popular_kinds_and_repeats_follow_their_shares() -> None:
    kinds = [s.things[0].kind for s in scenes(800, 3, objects=(1, 1), popularity=0.5)]
    assert 0.45 < np.mean([kind in POPULAR for kind in kinds]) < 0.65  # half, and 4 of 40 besides
    twice = [len(s.kinds) == 1 for s in scenes(500, 3, objects=(2, 2), repeats=0.5)]
    assert 0.4 < np.mean(twice) < 0.62


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), style=st.sampled_from(["list", "relation", "any"]))
def test_a_caption_says_what_is_there_and_can_be_read_back(seed: int, style: str) -> None:
    (scene,) = scenes(1, seed, objects=(1, 6), repeats=0.3)
    text = caption(scene, seed=seed, style=style)
    assert mentions(text) == Counter(thing.kind for thing in scene.things)
    said = re.search("|".join(RELATIONS), text)
    if said:
        first, second = scene.things
        if text.index(f"{first.colour} {first.shape}") > said.start():
            first, second = second, first
        dx, dy = RELATIONS[said[0]]
        assert dx * (first.x - second.x) + dy * (first.y - second.y) >= scene.size / 8
        assert related(first, second, scene.size) == said[0]


def test_captions_in_words() -> None:
    a = Thing("circle", "red", 9, 6.5, 16.5)
    b = Thing("cross", "orange", 9, 25.5, 16.5)
    assert caption(Scene((b, a))) == "a red circle and an orange cross"
    assert caption(Scene((a, b)), style="relation") == "a red circle left of an orange cross"
    below = Thing("cross", "orange", 9, 6.5, 27.5)
    assert caption(Scene((below, b, a))) in (
        "a red circle and two orange crosses",
        "two orange crosses and a red circle",
    )
    assert caption(Scene(())) == "nothing"
    assert mentions("There is no red circle, but TWO blue squares and a cyan cross.") == {
        ("square", "blue"): 2,
        ("cross", "cyan"): 1,
    }
    assert mentions("red and blue") == {}


def test_pictures_of_other_kinds_are_read_alike() -> None:
    (scene,) = scenes(1, 4, objects=(3, 3))
    picture = render(scene)
    want = [(f.kind, f.box) for f in check(picture)]
    assert len(want) == 3
    floats = torch.from_numpy(picture).float() / 255
    for other in (
        floats,
        floats.half(),
        picture / 255,
        Image.fromarray(picture),
        picture.astype(int),
    ):
        assert [(f.kind, f.box) for f in check(other)] == want


def test_the_checker_bears_noise_and_finds_nothing_in_nothing() -> None:
    rng = np.random.default_rng(0)
    drawn = scenes(200, 8)
    bad = 0
    for scene in drawn:
        noisy = render(scene) + rng.normal(0, 12, (32, 32, 3))
        found = Counter(f.kind for f in check(noisy.clip(0, 255).astype(np.uint8)))
        bad += found != Counter(t.kind for t in scene.things)
    assert bad <= 10
    for texture in TEXTURES:
        assert check(render(Scene((), 32, texture, 3))) == []
    assert check(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)) == []


@pytest.mark.parametrize(
    "ask, words",
    [
        (lambda: scenes(-1, 0), "0 or more"),
        (lambda: scenes(1, 0, objects=(0, 3)), "1 to 6"),
        (lambda: scenes(1, 0, objects=(3, 2)), "1 to 6"),
        (lambda: scenes(1, 0, objects=3), "1 to 6"),
        (lambda: scenes(1, 0, size=16), "32 to 256"),
        (lambda: scenes(1, 0, size=40.5), "32 to 256"),
        (lambda: scenes(1, 0, bias=1.5), "bias=1.5"),
        (lambda: scenes(1, 0, popularity=-0.1), "popularity"),
        (lambda: scenes(1, 0, texture="marble"), "marble"),
        (lambda: Thing("heart", "red", 9, 9, 9), "heart"),
        (lambda: Thing("circle", "mauve", 9, 9, 9), "mauve"),
        (lambda: Thing("circle", "red", 3, 9, 9), "below 5"),
        (lambda: Scene((Thing("circle", "red", 9, 1, 9),)), "leaves its picture"),
        (lambda: Scene((), 32, "marble"), "marble"),
        (lambda: partner(("circle", "mauve")), "mauve"),
        (lambda: caption(Scene(()), style="ode"), "ode"),
        (lambda: mentions(3), "int"),
        (lambda: check(np.zeros((3, 32, 32), np.uint8)), "channels last"),
        (lambda: check(np.zeros((32, 32))), r"\[32, 32\]"),
        (lambda: check(np.full((32, 32, 3), 200.0)), "between 0 and 1"),
        (lambda: check(np.full((32, 32, 3), np.nan)), "between 0 and 1"),
        (lambda: check(np.full((32, 32, 3), 300)), "0 to 255"),
        (lambda: check(np.full((32, 32, 3), True)), "bool"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(ask: Any, words: str) -> None:
    with pytest.raises(fv.FoveateError, match=words):
        ask()
