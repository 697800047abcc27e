"""Grid: boxes in pixels, tokens of patches, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import foveate as fv
from foveate.errors import FoveateError
from foveate.pictures.layout import frame

sides = st.integers(1, 9)


@given(rows=sides, columns=sides, width=sides, height=sides, lead=st.integers(0, 2), data=st.data())
def test_a_patch_is_in_a_box_if_a_part_of_it_is(
    rows: int, columns: int, width: int, height: int, lead: int, data: Any
) -> None:
    grid = fv.Grid(rows, columns, width=width, height=height, lead=lead)
    row, column = (data.draw(st.integers(0, n - 1)) for n in (rows, columns))
    alone = grid.mask(grid.box(row, column))
    assert alone.nonzero().flatten().tolist() == [lead + row * columns + column]
    everything = grid.mask((-1, -1, width + 1, height + 1))
    assert everything.tolist() == [False] * lead + [True] * (rows * columns)
    # what two halves hold together is what the whole holds, and nothing twice
    cut = (column + 1) * width / columns
    left = grid.mask((0, 0, cut, height))
    right = (
        grid.mask((cut, 0, width + 1, height))
        if column + 1 < columns
        else torch.zeros_like(everything)
    )
    assert torch.equal(left ^ right, everything) and not (left & right & everything).any()
    x0, y0, x1, y1 = grid.box(row, column)
    (x, y), (dx, dy) = ((x0 + x1) / 2, (y0 + y1) / 2), ((x1 - x0) / 4, (y1 - y0) / 4)
    assert torch.equal(grid.mask((x - dx, y - dy, x + dx, y + dy)), alone)  # a box within a patch
    wide = grid.mask((x - 3 * dx, y, x + 3 * dx, y + dy))  # a half patch over on both sides
    assert int(wide.sum()) == 1 + (column > 0) + (column + 1 < columns)


@given(rows=sides, columns=sides, lead=st.integers(0, 2))
def test_picture_turns_tokens_back_into_rows(rows: int, columns: int, lead: int) -> None:
    grid = fv.Grid(rows, columns, lead=lead)
    weights = torch.arange(2.0 * (lead + rows * columns)).reshape(2, -1)
    assert torch.equal(grid.picture(weights), weights[:, lead:].reshape(2, rows, columns))
    row = torch.arange(40 + rows * columns)
    placed = fv.Grid(rows, columns, at=tuple(range(40, 40 + rows * columns))[::-1])
    assert torch.equal(placed.picture(row).flatten(), row[40:].flip(0))


def test_a_frame_is_where_the_grid_lies() -> None:
    grid = fv.Grid(2, 2, width=100, height=40, frame=(30, 0, 70, 40))
    assert grid.patch == (20, 20) and grid.box(0, 1) == (50, 0, 70, 20)
    assert grid.mask((0, 0, 50, 40)).tolist() == [True, False, True, False]
    with pytest.raises(FoveateError, match="covers nothing of any patch"):
        grid.mask((75, 0, 100, 40))


class Settings:
    """What an image processor says of itself."""

    def __init__(self, **settings: Any) -> None:
        vars(self).update(settings)


def test_what_a_processor_shows() -> None:
    plain = Settings(do_resize=True, size={"height": 8, "width": 8}, do_center_crop=False)
    assert frame(plain, 64, 40) is None
    middle = {"do_center_crop": True, "crop_size": {"height": 16, "width": 16}}
    clip = Settings(do_resize=True, size={"shortest_edge": 16}, **middle)
    assert frame(clip, 64, 32) == (16, 0, 48, 32)
    squeezed = Settings(do_resize=True, size={"height": 32, "width": 32}, **middle)
    assert frame(squeezed, 64, 32) == (16, 8, 48, 24)
    padded = Settings(do_pad=True, pad_to_square=None, do_center_crop=False)
    assert frame(padded, 64, 32) == (0, -16, 64, 48)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fv.Grid(0, 2), "rows=0"),
        (lambda: fv.Grid(2, True), "columns=True"),
        (lambda: fv.Grid(2, 2, width=-1), "width=-1"),
        (lambda: fv.Grid(2, 2, lead=-1), "lead=-1"),
        (lambda: fv.Grid(2, 2, at=(1, 2)), "2 places for 2 × 2"),
        (lambda: fv.Grid(2, 2, frame=(1, 1, 1, 2)), "is empty"),
        (lambda: fv.Grid(2, 2).mask((0, 0, 0, 2)), "is empty"),
        (lambda: fv.Grid(2, 2).mask((1, 0, 0, 2)), "is empty"),
        (lambda: fv.Grid(2, 2).mask((0, 0, 2)), "x0, y0, x1, y1"),
        (lambda: fv.Grid(2, 2).mask("a box"), "x0, y0, x1, y1"),
        (lambda: fv.Grid(2, 2).mask((0, 0, float("nan"), 1)), "x0, y0, x1, y1"),
        (lambda: fv.Grid(2, 2).mask((-2, -2, -1, 0)), r"nearest covers \(0, 0, 1, 1\)"),
        (lambda: fv.Grid(2, 2).picture(torch.zeros(5)), "for 4 tokens"),
        (lambda: fv.Grid(2, 2).picture([1, 2, 3, 4]), "for 4 tokens"),
        (lambda: fv.Grid(2, 2, at=(4, 5, 6, 7)).picture(torch.zeros(7)), "at least 8"),
        (lambda: fv.Grid(2, 2).box(2, 0), "rows go from 0 to 1"),
    ],
)
def test_refused(make: Any, message: str) -> None:
    with pytest.raises(FoveateError, match=message):
        make()


def test_a_box_may_be_an_array() -> None:
    grid = fv.Grid(2, 2)
    assert torch.equal(grid.mask(np.array([0, 0, 1, 1])), grid.mask(torch.tensor([0, 0, 1, 1])))
