"""The page of before and after: what it draws, what it counts, and that it stands alone."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveate.errors import FoveateError
from foveate.report.pictures import overlay, resized
from foveate.report.vision import Count, Look, Mark, Side, Story, Table, render, write

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
LOW, HIGH = np.full((8, 8), 0.01), np.full((8, 8), 0.04)


def _side(label: str, weights: np.ndarray, good: bool, said: str = "") -> Side:
    looks = (Look("where it looked", weights, float(weights.sum())),)
    marks = (Mark((8, 0, 16, 32), "a red circle", good),)
    return Side(label, PICTURE, said, (("a red circle: there", good),), looks, marks)


def _story(**fields: Any) -> Story:
    story: dict[str, Any] = {
        "title": "A picture", "model": "tiny", "method": "fv.Some()", "task": "draw",
        "chosen": "Case 3 of 4.", "looked": "Shades.",
        "before": _side("as it is", LOW, False), "after": _side("with it", HIGH, True),
        "hidden": Table(("hidden", "there"), (("nothing", "4 of 4"), ("words", "1 of 4"))),
        "counts": (Count("pictures right", (0.0, 1.0), (1.0, 1.0)),),
    }  # fmt: skip
    return Story(**(story | fields))


def _images(page: str) -> list[np.ndarray]:
    image = pytest.importorskip("PIL.Image")
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(image.open(io.BytesIO(base64.b64decode(one)))) for one in found]


def test_pictures_and_looks_are_drawn_on_one_scale() -> None:
    before, before_look, after, after_look = _images(render([_story()]))
    large = resized(PICTURE)
    assert (before == large).all() and (after == large).all()
    assert (before_look == overlay(large, LOW, top=0.04)).all()
    assert (after_look == overlay(large, HIGH)).all()


def test_the_page_stands_alone_and_says_all() -> None:
    page = render([_story(before=_side("as it is", LOW, False, "<b>a</b> & “so”")), _story()])
    assert "http" not in page and "<script" not in page and "url(" not in page
    assert "&lt;b&gt;a&lt;/b&gt; &amp; “so”" in page
    assert page.count("✗ wrong") == page.count("✓ right") == 2
    for said in ("Case 3 of 4.", "fv.Some()", "1 of 4", "4.0 %", "left:25.00%;top:0.00%;width:25"):
        assert said in page


def test_counts_have_their_interval_and_their_direction() -> None:
    worse = tuple([1.0] * 30 + [0.0] * 10), tuple([0.0] * 40)
    told = Count("made up", *worse, more=False).figures()
    assert told["n"] == 40 and told["before"] == 0.75 and told["gain"] == -0.75
    assert told["interval"][0] <= -0.75 <= told["interval"][1] < 0 and told["verdict"] == "better"
    assert Count("right", *worse).figures()["verdict"] == "worse"
    assert Count("right", worse[0], worse[0]).figures()["verdict"] == "no sure difference"


def test_nothing_looked_at_can_be_drawn() -> None:
    dark = _side("as it is", np.zeros((8, 8)), False)
    assert len(_images(render([_story(before=dark, after=dark)]))) == 4


def test_write(tmp_path: Path) -> None:
    page = write([_story()], tmp_path / "page.html")
    assert page.read_text(encoding="utf-8") == render([_story()])
    with pytest.raises(FoveateError, match="cannot be written"):
        write([_story()], tmp_path / "none" / "page.html")
