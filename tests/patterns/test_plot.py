"""Pictures of patterns: what is drawn is what is seen."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from foveate.patterns import (
    CrossShaped,
    Dilated,
    Documents,
    MultiWindow,
    Neighborhood,
    Pattern,
    SlidingWindow,
    Windows,
)

RUN = re.compile(r"M([\d.]+) ([\d.]+)h([\d.]+)v([\d.]+)h-[\d.]+z")
SVG = "{http://www.w3.org/2000/svg}"


def panels(svg: str) -> list[ET.Element]:
    return ET.fromstring(svg).findall(f"{SVG}g")


def drawn(panel: ET.Element, rows: int, columns: int) -> Tensor:
    """The cells that a panel's paths cover."""
    found = torch.zeros(rows, columns, dtype=torch.bool)
    for path in panel.iter(f"{SVG}path"):
        for x, y, wide, cell in (map(float, run) for run in RUN.findall(path.get("d", ""))):
            row, first, last = (round(n / cell) for n in (y, x, x + wide))
            assert not found[row, first:last].any()  # nothing is drawn twice
            found[row, first:last] = True
    return found


@pytest.mark.parametrize(
    "pattern",
    [
        SlidingWindow(9, sinks=2),
        SlidingWindow(4, causal=False) | Dilated(3, 20),
        Documents([30, 50]) & ~SlidingWindow(3),
    ],
    ids=repr,
)
def test_the_matrix_is_drawn_pair_by_pair(pattern: Pattern) -> None:
    (panel,) = panels(pattern.plot(90, 100).svg)
    assert torch.equal(drawn(panel, 90, 100), pattern.mask(90, 100))


def test_long_sequences_are_drawn_in_cells() -> None:
    pattern = SlidingWindow(100, sinks=4)
    picture = pattern.plot(900)
    (panel,) = panels(picture.svg)
    assert torch.equal(drawn(panel, 113, 113), pattern.blocks(8, 900) > 0)
    assert "a cell is 8 × 8 pairs" in picture.svg
    assert f"{pattern.density(900):.1%} of the pairs" in picture.svg
    assert len(SlidingWindow(1024).plot(8192).svg) < 60_000


def test_heads_that_see_the_same_share_a_panel() -> None:
    pattern = MultiWindow([4, 16, 4])
    first, second = panels(pattern.plot(64).svg)
    assert "heads 0, 2" in "".join(first.itertext()) and "head 1" in "".join(second.itertext())
    assert torch.equal(drawn(first, 64, 64), pattern.mask(64)[0])
    assert torch.equal(drawn(second, 64, 64), pattern.mask(64)[1])


def test_what_a_token_sees_on_the_grid() -> None:
    pattern = Neighborhood((8, 12), 3)
    mask = pattern.mask(96)
    found = panels(pattern.plot(query=[(0, 0), 30]).svg)
    assert [bool("query (2, 6): 9 keys" in "".join(p.itertext())) for p in found] == [False, True]
    for panel, token in zip(found, (0, 30), strict=True):
        assert torch.equal(drawn(panel, 8, 12), mask[token].view(8, 12))
    assert len(panels(pattern.plot().svg)) == 3  # a corner, the middle, an edge
    assert len(panels(CrossShaped((8, 8), 2, heads=4).plot(query=(1, 1)).svg)) == 2
    whole = Neighborhood((6, 8, 8), 3, causal=(True, False, False))
    frames = panels(whole.plot(query=(4, 4, 4)).svg)  # frames 2, 3 and 4
    for panel, frame in zip(frames, (2, 3, 4), strict=True):
        seen = whole.mask(384)[4 * 64 + 4 * 8 + 4].view(6, 8, 8)
        assert torch.equal(drawn(panel, 8, 8), seen[frame])


def test_a_grid_may_be_given_and_is_found_in_combinations() -> None:
    near = SlidingWindow(3, causal=False)
    (panel,) = panels(near.plot(grid=(4, 6), query=(1, 5)).svg)
    assert torch.equal(drawn(panel, 4, 6), near.mask(24)[11].view(4, 6))
    both = near | Windows((4, 6), 2)
    assert len(panels(both.plot().svg)) == 3
    (line,) = panels(Neighborhood((40,), 5).plot().svg)  # one axis is a sequence
    assert torch.equal(drawn(line, 40, 40), Neighborhood((40,), 5).mask(40))


def test_it_is_saved_and_shown(tmp_path: Path) -> None:
    picture = SlidingWindow(16).plot()
    assert SlidingWindow(16)._repr_html_() == picture.svg == picture._repr_html_()
    ET.parse(picture.save(tmp_path / "window.svg"))
    page = picture.save(tmp_path / "window.html").read_text()
    assert picture.svg in page and page.startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SlidingWindow(4).plot(0), "Sq=0"),
        (lambda: SlidingWindow(4).plot(8, "8"), "Sk='8'"),
        (lambda: SlidingWindow(4).plot(8, q_offset=0.5), "q_offset=0.5"),
        (lambda: SlidingWindow(4).plot(8, query=3), r"lies on no grid.*grid=\(height, width\)"),
        (lambda: SlidingWindow(4).plot(grid=16), "grid=16.*grid's sides"),
        (lambda: SlidingWindow(4).plot(grid=(4, 0)), "grid=0"),
        (lambda: Windows((8, 8), 2).plot(100), "8 × 8 has 64 tokens and Sk=100"),
        (lambda: Windows((8, 8), 2).plot(query=64), r"query=64.*token of the grid \(8, 8\)"),
        (lambda: Windows((8, 8), 2).plot(query=(0, 8)), r"query=\(0, 8\)"),
        (lambda: Windows((8, 8), 2).plot(query=(1, 2, 3)), r"query=\(1, 2, 3\)"),
        (lambda: SlidingWindow(4).plot().save("a.png"), r"'a.png'.*\.svg or \.html"),
        (lambda: SlidingWindow(4).plot().save("nowhere/a.svg"), "folder that is there"),
    ],
)
def test_bad_input(make: Any, sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        make()
