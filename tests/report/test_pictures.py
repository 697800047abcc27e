"""Pictures of a page are read back as they were drawn; weights stand where their patches do."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import FoveateError
from foveate.report.pictures import data_uri, overlay, png, resized


def _read(data: bytes) -> np.ndarray:
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(io.BytesIO(data)))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_a_png_is_read_back_bit_by_bit(height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    assert (_read(png(pixels)) == pixels).all()


def test_a_data_uri_holds_the_enlarged_picture() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    head, _, data = data_uri(pixels, least=8).partition(",")
    assert head == "data:image/png;base64"
    back = _read(base64.b64decode(data))
    assert back.shape == (6, 8, 3) and (back[::2, 1::2] == pixels).all()


def test_tensors_and_floats_are_pictures_too() -> None:
    pixels = torch.rand(4, 4, 3)
    assert (_read(png(pixels)) == (pixels * 255).round().byte().numpy()).all()


def test_large_pictures_are_averaged_to_the_size_allowed() -> None:
    pixels = np.zeros((5, 6, 3), np.uint8)
    pixels[:, 3:] = 200
    small = resized(pixels, least=1, most=3)
    assert small.shape == (3, 3, 3)  # the last row of blocks is half a one
    assert (small[0, :, 0] == [0, 100, 200]).all() and (small[2, :, 0] == [0, 100, 200]).all()


def test_between_least_and_most_a_picture_stays() -> None:
    pixels = np.zeros((40, 30, 3), np.uint8)
    assert resized(pixels, least=32, most=64).shape == (40, 30, 3)
    assert resized(pixels, least=50, most=64).shape == (40, 30, 3)  # twice would be too much


def test_heat_stands_where_the_weight_does() -> None:
    pixels = np.full((8, 12, 3), 100, np.uint8)
    weights = np.zeros((2, 3))
    weights[1, 2] = 0.5
    drawn = overlay(pixels, weights)
    hot = (drawn != drawn[0, 0]).any(-1)
    assert hot[4:, 8:].all() and not hot[:4].any() and not hot[:, :8].any()
    assert (drawn[0, 0] < 100).all() and drawn[7, 11, 0] > 200  # dusk, and the hottest colour


def test_more_weight_is_hotter_and_one_scale_holds_for_two_pictures() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    light = overlay(pixels, [[0.0, 0.1], [0.2, 0.4]]).sum(-1, dtype=int)[::2, ::2].flatten()
    assert (np.diff(light) > 0).all()
    half = overlay(pixels, [[0.2]], top=0.4)
    assert (half[0, 0] == overlay(pixels, [[0.2, 0.4]])[0, 0]).all()
    assert (overlay(pixels, [[0.8]], top=0.4) == overlay(pixels, [[0.4]])).all()


def test_no_weight_at_all_is_dusk_everywhere() -> None:
    drawn = overlay(np.full((2, 2, 3), 255, np.uint8), torch.zeros(1, 1))
    assert (drawn == drawn[0, 0]).all() and drawn[0, 0, 0] < 128


@pytest.mark.parametrize(
    ("pixels", "weights", "top", "said"),
    [
        (np.zeros((4, 4)), np.zeros((2, 2)), None, r"height, width, 3"),
        (np.zeros((4, 4, 3)), np.zeros(4), None, r"\[rows, columns\]"),
        (np.zeros((4, 4, 3)), np.zeros((5, 4)), None, "at most one a pixel"),
        (np.zeros((4, 4, 3)), np.zeros((0, 4)), None, r"\[rows, columns\]"),
        (np.zeros((4, 4, 3)), [["a"]], None, r"\[rows, columns\]"),
        (np.zeros((4, 4, 3)), [[-1.0]], None, "below 0"),
        (np.zeros((4, 4, 3)), [[np.nan]], None, "below 0"),
        (np.zeros((4, 4, 3)), [[1.0]], -1.0, "top=-1.0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(pixels: Any, weights: Any, top: Any, said: str) -> None:
    with pytest.raises(FoveateError, match=said):
        overlay(pixels, weights, top=top)


@pytest.mark.parametrize("sizes", [{"least": 0}, {"most": 0}, {"least": 2.5}, {"most": True}])
def test_sizes_that_are_none_are_refused(sizes: Any) -> None:
    with pytest.raises(FoveateError, match="whole number of pixels"):
        data_uri(np.zeros((4, 4, 3)), **sizes)
