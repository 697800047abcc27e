"""Before and after in pictures: what was seen or drawn, where it looked, what the checker says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import statistics
from .html import asset, environment, save
from .pictures import data_uri, overlay, resized

if TYPE_CHECKING:
    import os

__all__ = ["Count", "Look", "Mark", "Side", "Story", "Table", "render", "write"]

_WIDE = 256  # pixels of a picture in the page, at least


@dataclass(frozen=True)
class Mark:
    """A thing on a picture: its box in pixels (the last two exclusive), name and verdict."""

    box: tuple[int, int, int, int]
    name: str
    good: bool


@dataclass(frozen=True, eq=False)
class Look:
    """Attention over a picture: ``weights [rows, columns]``, its sum or mean, and whose it is."""

    title: str
    weights: np.ndarray
    share: float


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two: as it is, or with a method.

    Attributes
    ----------
    label : str
    picture : np.ndarray
        uint8 ``[H, W, 3]``.
    said : str
        What the model said about it; empty where it drew it.
    verdict : tuple of (str, bool)
        What the checker says of each thing, and whether that is as it should be.
    looks : tuple of Look
    marks : tuple of Mark
    """

    label: str
    picture: np.ndarray
    said: str
    verdict: tuple[tuple[str, bool], ...]
    looks: tuple[Look, ...]
    marks: tuple[Mark, ...] = ()

    @property
    def good(self) -> bool:
        """Whether all is as it should be."""
        return all(good for _, good in self.verdict)


@dataclass(frozen=True)
class Table:
    """Did it matter? What was hidden, and what came of it: the head and the rows."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Count:
    """A figure of many cases, one number an item for both sides.

    Attributes
    ----------
    what : str
    before, after : tuple of float
        As many of both, in one order; 0 or 1 where it is counted.
    more : bool
        Whether more of it is better.
    """

    what: str
    before: tuple[float, ...]
    after: tuple[float, ...]
    more: bool = True

    def figures(self) -> dict[str, Any]:
        """``n``, both means, and the gain with its 95 % interval (paired bootstrap)."""
        n = len(self.before)
        before, after = sum(self.before) / n, sum(self.after) / n
        low, high = statistics.paired_bootstrap(self.before, self.after)
        better = low > 0 if self.more else high < 0
        worse = high < 0 if self.more else low > 0
        return {
            "what": self.what,
            "n": n,
            "before": before,
            "after": after,
            "gain": after - before,
            "interval": [low, high],
            "verdict": "better" if better else "worse" if worse else "no sure difference",
        }


@dataclass(frozen=True, eq=False)
class Story:
    """One model: a case in pictures, how it was chosen, and the counts of all cases.

    Attributes
    ----------
    title, model, method, task : str
    chosen : str
        How the case was chosen, and of how many.
    looked : str
        What the shades are of.
    before, after : Side
    hidden : Table
    counts : tuple of Count
    """

    title: str
    model: str
    method: str
    task: str
    chosen: str
    looked: str
    before: Side
    after: Side
    hidden: Table
    counts: tuple[Count, ...]


def write(stories: Sequence[Story], path: str | os.PathLike[str]) -> Path:
    """Write stories as one self-contained HTML page: no network, no other file, no script.

    Raises
    ------
    FoveateError
        If the file cannot be written.
    """
    return save(render(stories), path)


def render(stories: Sequence[Story]) -> str:
    """The page, as text."""
    from markupsafe import Markup

    css = Markup(asset("report.css") + asset("vision.css"))
    return (
        environment()
        .get_template("vision.html.j2")
        .render(css=css, stories=[_view(story) for story in stories])
    )


def _view(story: Story) -> dict[str, Any]:
    # one scale for both sides, or a shade would mean two things
    top = max(look.weights.max() for side in (story.before, story.after) for look in side.looks)
    return {
        "told": story,
        "top": float(top),
        "sides": [_side(side, float(top)) for side in (story.before, story.after)],
        "counts": [count.figures() for count in story.counts],
    }


def _side(side: Side, top: float) -> dict[str, Any]:
    large = resized(side.picture, least=_WIDE)
    height, width = side.picture.shape[:2]
    return {
        "told": side,
        "picture": data_uri(large),
        "looks": [(look, data_uri(overlay(large, look.weights, top=top))) for look in side.looks],
        "marks": [(mark, _place(mark.box, width, height)) for mark in side.marks],
    }


def _place(box: tuple[int, int, int, int], width: int, height: int) -> str:
    """A box as a style, in percent of the picture."""
    x0, y0, x1, y1 = box
    parts = {
        "left": x0 / width,
        "top": y0 / height,
        "width": (x1 - x0) / width,
        "height": (y1 - y0) / height,
    }
    return ";".join(f"{name}:{100 * value:.2f}%" for name, value in parts.items())
