"""The pictures of a prompt, as a report draws attention over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import FoveateError
from ..grid import Grid
from .pictures import data_uri

__all__ = ["Seen", "patch_names", "seen"]

_MOST = 768  # pixels of a picture's longer side that go into the page


@dataclass(frozen=True)
class Seen:
    """One picture and where its patches are.

    Attributes
    ----------
    src : str
        The picture as data of a page.
    width, height : float
        In its own pixels.
    rows, columns : int
        Of patches; 0 where they are not known.
    frame : list of float
        What of the picture the patches cover: ``x0, y0, x1, y1`` in its pixels.
    at : list of int
        Which token (padding left out) each patch is, row by row.
    tokens : list of int
        All tokens of the picture.
    note : str
        Why there is no grid, if there is none.
    """

    src: str
    width: float
    height: float
    rows: int
    columns: int
    frame: list[float]
    at: list[int]
    tokens: list[int]
    note: str = ""


def seen(prompt: Any, item: int, kept: Sequence[int]) -> list[Seen]:
    """The pictures of one item of a prompt, by its tokens without padding.

    ``kept`` are the positions in the padded row of what is no padding.
    """
    pictures = getattr(prompt, "pictures", ())
    if not pictures:
        return []
    place = {position: i for i, position in enumerate(kept)}
    try:
        grids: Sequence[Grid] = prompt.grids
    except FoveateError as error:
        return [] if item else [_without(picture, str(error)) for picture in pictures]
    return [
        _with(picture, grid, place)
        for picture, grid in zip(pictures, grids, strict=True)
        if grid.item == item
    ]


def _with(picture: Any, grid: Grid, place: dict[int, int]) -> Seen:
    at = [place[i] for i in grid.places]
    more = [place[i] for i in grid.overview.places] if grid.overview else []
    return Seen(
        src=data_uri(np.asarray(picture), most=_MOST),
        width=float(grid.width or 0),
        height=float(grid.height or 0),
        rows=grid.rows,
        columns=grid.columns,
        frame=[float(edge) for edge in grid.frame or ()],
        at=at,
        tokens=sorted({*at, *more}),
    )


def _without(picture: Any, note: str) -> Seen:
    width, height = picture.size
    src = data_uri(np.asarray(picture), most=_MOST)
    return Seen(src, width, height, 0, 0, [0.0, 0.0, width, height], [], [], note)


def patch_names(tokens: Sequence[str], pictures: Sequence[Seen]) -> list[str]:
    """Tokens with those of patches named by their place: ``<patch 3,0>``, row and column."""
    named = list(tokens)
    for number, one in enumerate(pictures):
        of = f"{number + 1}: " if len(pictures) > 1 else ""
        for i, token in enumerate(one.at):
            named[token] = f"<patch {of}{i // one.columns},{i % one.columns}>"
    return named
