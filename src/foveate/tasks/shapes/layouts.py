"""Where things are to be, as boxes and masks: what layout-guided methods are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import FoveateError
from .captions import caption, named
from .render import visible
from .scene import Kind, Scene

__all__ = ["Layout", "Region", "layout"]


@dataclass(frozen=True, eq=False)
class Region:
    """A place and what is to be there.

    Attributes
    ----------
    kind : (shape, colour)
    phrase : str
        The words for it, as the layout's caption has them.
    box : (float, float, float, float)
        ``(x0, y0, x1, y1)`` as shares of the picture's width and height.
    mask : np.ndarray
        bool ``[H, W]``: the pixels of the thing that are seen.
    """

    kind: Kind
    phrase: str
    box: tuple[float, float, float, float]
    mask: np.ndarray

    def patches(self, grid: int | tuple[int, int]) -> np.ndarray:
        """The share of each patch that the thing covers.

        Parameters
        ----------
        grid : int or (int, int)
            Rows and columns of patches; they must divide the picture.

        Returns
        -------
        np.ndarray
            float64 ``[rows, columns]``, 0 to 1. ``> 0.5`` gives a region of image tokens.
        """
        rows, columns = (grid, grid) if isinstance(grid, int) else grid
        height, width = self.mask.shape
        if min(rows, columns) < 1 or height % rows or width % columns:
            raise FoveateError(
                f"A grid of {rows} × {columns} patches does not divide a picture of {height} × "
                f"{width} pixels."
            )
        parts = self.mask.reshape(rows, height // rows, columns, width // columns)
        return parts.mean((1, 3))


@dataclass(frozen=True, eq=False)
class Layout:
    """A caption and where each of its things is to be.

    Attributes
    ----------
    caption : str
    regions : tuple of Region
        One a thing, in the order of the scene.
    """

    caption: str
    regions: tuple[Region, ...]


def layout(scene: Scene) -> Layout:
    """The layout that a scene obeys.

    Parameters
    ----------
    scene : Scene
        With things of different kinds, so that each has a phrase of its own.

    Returns
    -------
    Layout

    Raises
    ------
    FoveateError
        Two things are of one kind.
    """
    if len(scene.kinds) < len(scene.things):
        raise FoveateError(
            "A layout was asked for of a scene with two things of one kind, which its caption "
            "cannot tell apart; make scenes with repeats=0, or leave such scenes out."
        )
    seen = visible(scene.things, scene.size)
    regions = [
        Region(
            thing.kind,
            named(thing.kind),
            _shares(thing.box, scene.size),
            mask,
        )
        for thing, (mask, _) in zip(scene.things, seen, strict=True)
    ]
    return Layout(caption(scene), tuple(regions))


def _shares(box: Sequence[int], size: int) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (side / size for side in box)
    return x0, y0, x1, y1
