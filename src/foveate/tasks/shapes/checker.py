"""From pixels back to things: what is drawn, in which colour, where."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ...errors import FoveateError
from .components import components
from .render import outlines
from .scene import COLOURS, SHAPES

__all__ = ["Found", "check"]

_COLOURS = tuple(COLOURS)
_GREYS = (0, 30, 60, 90, 120)  # what counts as background
_LEAST = 16  # pixels below which a piece is a speck, in a picture 32 pixels wide


@dataclass(frozen=True, eq=False)
class Found:
    """A thing that was read off a picture.

    Attributes
    ----------
    shape, colour : str
    box : (int, int, int, int)
        ``(x0, y0, x1, y1)`` in pixels; the last two are exclusive.
    mask : np.ndarray
        bool ``[H, W]``: its visible pixels.
    score : float
        How well the visible pixels agree with the shape, intersection over union, 1 at most;
        pixels that another thing covers are not held against it.
    """

    shape: str
    colour: str
    box: tuple[int, int, int, int]
    mask: np.ndarray
    score: float

    @property
    def kind(self) -> tuple[str, str]:
        """``(shape, colour)``."""
        return self.shape, self.colour


def check(image: Any, *, least: float = 0.6) -> list[Found]:
    """Read the things off a picture.

    Each pixel is given to the nearest colour (or to the dark greys of the background), pixels of
    one colour that hang together are a piece, and a piece has the shape that, drawn into its box,
    agrees best.

    Parameters
    ----------
    image : array, tensor or PIL image
        ``[H, W, 3]``, uint8 of 0 to 255 or floats of 0 to 1.
    least : float
        Pieces that agree less than this with every shape are not things.

    Returns
    -------
    list of Found
        In reading order.

    Raises
    ------
    FoveateError
        Not a picture.
    """
    pixels = as_pixels(image)
    classes = _lookup()[tuple((pixels >> 3).reshape(-1, 3).T)].reshape(pixels.shape[:2])
    speck = _LEAST * pixels.shape[0] * pixels.shape[1] / 1024
    found = []
    for colour, (x0, y0, x1, y1), piece in components(classes):
        area = int(piece.sum())
        if area < speck:
            continue
        part = classes[y0:y1, x0:x1]
        known = piece | (part == 0) | (part == colour)  # the rest may hide some of it
        drawn = outlines(y1 - y0, x1 - x0)
        scores = (drawn & piece).sum((1, 2)) / ((drawn | piece) & known).sum((1, 2))
        hidden = (drawn & ~known).sum((1, 2))  # of shapes that agree alike, the one least hidden
        best = int((scores - 1e-4 * hidden).argmax())
        if scores[best] < least:
            continue
        mask = np.zeros(classes.shape, bool)
        mask[y0:y1, x0:x1] = piece
        found.append(
            Found(SHAPES[best], _COLOURS[colour - 1], (x0, y0, x1, y1), mask, float(scores[best]))
        )
    return found


def as_pixels(image: Any) -> np.ndarray:
    """A picture as uint8 ``[H, W, 3]``."""
    if hasattr(image, "detach"):
        image = image.detach().cpu().float().numpy() if image.is_floating_point() else image.cpu()
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise FoveateError(
            f"A picture of shape {list(pixels.shape)} was given, but [height, width, 3] is wanted: "
            "one picture, its channels last, red, green, blue."
        )
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        if np.issubdtype(pixels.dtype, np.integer) and pixels.min() >= 0 and pixels.max() <= 255:
            return pixels.astype(np.uint8)
        raise FoveateError(
            f"A picture of {pixels.dtype} was given; whole numbers of 0 to 255 or floats of 0 to 1 "
            "are wanted."
        )
    if not (np.isfinite(pixels).all() and pixels.min() >= -0.01 and pixels.max() <= 1.01):
        raise FoveateError(
            f"A picture of floats between {pixels.min():.3g} and {pixels.max():.3g} was given; "
            "floats must lie between 0 and 1 (divide by 255, or bring -1 to 1 to 0 to 1)."
        )
    return np.round(pixels.clip(0, 1) * 255).astype(np.uint8)


@lru_cache(maxsize=1)
def _lookup() -> np.ndarray:
    """int8 [32, 32, 32]: the colour (from 1) or background (0) of the 5 upper bits of each."""
    anchors = np.array([[grey] * 3 for grey in _GREYS] + [list(COLOURS[c]) for c in _COLOURS])
    classes = np.array([0] * len(_GREYS) + list(range(1, len(_COLOURS) + 1)), np.int8)
    levels = np.arange(32) * 8 + 4
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1)[..., None, :]
    return classes[((colours - anchors) ** 2).sum(-1).argmin(-1)]
