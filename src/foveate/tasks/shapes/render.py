"""From a scene to pixels. Edges are hard, so that what is drawn can be read back exactly."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from .scene import COLOURS, SHAPES, Scene, Thing

__all__ = ["outline", "outlines", "render", "visible"]

_GREY = 36  # level of a plain background
_EDGE = 1e-9  # pixels whose centre lies on an edge belong to the shape


@lru_cache(maxsize=4096)
def outlines(height: int, width: int) -> np.ndarray:
    """All shapes drawn into a box, each touching its four sides.

    Parameters
    ----------
    height, width : int
        Of the box, in pixels.

    Returns
    -------
    np.ndarray
        bool ``[shapes, height, width]`` in the order of ``SHAPES``; not to be written to.
    """
    v = ((2 * np.arange(height) + 1) / height - 1)[:, None]  # centres of pixels, -1 to 1
    u = ((2 * np.arange(width) + 1) / width - 1)[None, :]
    third = 1 / 3 + _EDGE
    drawn = np.stack(
        [
            u**2 + v**2 <= 1,
            np.ones((height, width), bool),
            np.abs(u) <= (v + 1) / 2 + 0.5 / width + _EDGE,  # its tip is one or two pixels
            np.abs(u) + np.abs(v) <= 1 + _EDGE,
            (np.abs(u) <= third) | (np.abs(v) <= third),
        ]
    )
    drawn.flags.writeable = False
    return drawn


def outline(shape: str, size: int) -> np.ndarray:
    """One shape drawn into a square box: bool ``[size, size]``."""
    return outlines(size, size)[SHAPES.index(shape)]


def render(scene: Scene) -> np.ndarray:
    """Draw a scene.

    Parameters
    ----------
    scene : Scene

    Returns
    -------
    np.ndarray
        uint8 ``[size, size, 3]``, red, green, blue.
    """
    image = _background(scene.background, scene.size, scene.seed).copy()
    for thing in scene.things:
        x0, y0, x1, y1 = thing.box
        image[y0:y1, x0:x1][outline(thing.shape, thing.size)] = COLOURS[thing.colour]
    return image


def visible(things: Sequence[Thing], size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """What is seen of each thing, and all of it.

    Parameters
    ----------
    things : sequence of Thing
        Later ones cover earlier ones.
    size : int
        Width and height of the picture.

    Returns
    -------
    list of (np.ndarray, np.ndarray)
        bool ``[size, size]`` each: the visible pixels, and the whole thing's.
    """
    owner = np.full((size, size), -1)
    wholes = []
    for index, thing in enumerate(things):
        whole = np.zeros((size, size), bool)
        x0, y0, x1, y1 = thing.box
        whole[y0:y1, x0:x1] = outline(thing.shape, thing.size)
        owner[whole] = index
        wholes.append(whole)
    return [(owner == index, whole) for index, whole in enumerate(wholes)]


# --------------------------------------------------------------------------- backgrounds


@lru_cache(maxsize=64)
def _plain(size: int) -> np.ndarray:
    return np.full((size, size, 3), _GREY, np.uint8)


def _background(texture: str, size: int, seed: int) -> np.ndarray:
    """Greys, a little tinted, far from every colour of a thing. uint8 ``[size, size, 3]``."""
    if texture == "plain":
        return _plain(size)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    if texture == "noise":
        levels = rng.integers(10, 80, (size, size))
    elif texture == "stripes":
        period, slope = rng.integers(3, 8), rng.choice([-1, 0, 1])
        across = x if rng.random() < 0.5 else y
        levels = np.where((across + slope * (x + y - across)) % (2 * period) < period, 20, 70)
    elif texture == "checks":
        period = rng.integers(2, 7)
        levels = np.where((x // period + y // period) % 2 == 0, 20, 70)
    else:  # gradient
        angle = rng.uniform(0, 2 * np.pi)
        along = np.cos(angle) * x + np.sin(angle) * y
        levels = 10 + 70 * (along - along.min()) / max(np.ptp(along), 1)
    tint = rng.integers(-8, 9, 3)
    return np.clip(levels[..., None] + tint, 0, 255).astype(np.uint8)
