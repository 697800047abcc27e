"""Scenes by chance: which things come together, and where they find room."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import FoveateError
from .components import components
from .render import outlines, visible
from .scene import (
    KINDS,
    POPULAR,
    TEXTURES,
    Kind,
    Scene,
    Thing,
    checked_size,
    checked_texture,
    partner,
)

__all__ = ["scenes"]

_MOST = 6  # things in a scene
_LEAST_SEEN = 0.6  # share of a thing's pixels that stay visible where things overlap


def scenes(
    n: int,
    seed: int,
    *,
    objects: tuple[int, int] = (1, 3),
    size: int = 32,
    bias: float = 0.0,
    popularity: float = 0.0,
    repeats: float = 0.1,
    overlap: bool = False,
    texture: str | None = None,
) -> list[Scene]:
    """Make scenes.

    Parameters
    ----------
    n : int
        How many.
    seed : int
        The same seed gives the same scenes; the first ones do not depend on `n`.
    objects : (int, int)
        Fewest and most things in a scene, 1 to 6.
    size : int
        Width and height of the pictures in pixels, 32 to 256.
    bias : float
        Share of the things that bring their `partner` along, where there is room for it: 0 makes
        kinds independent of each other, 1 makes a red circle always come with a blue square.
    popularity : float
        Share of the things that are of one of the four ``POPULAR`` kinds.
    repeats : float
        Share of the things that are of the kind of the one before, so that there is something to
        count.
    overlap : bool
        Whether things may cover each other. Those that do differ in colour, and of a covered one
        60 % of the pixels stay visible, in one piece, on each side of its box some, and enough to
        rule out every other shape.
    texture : str, optional
        Background of all scenes, one of ``TEXTURES``, or ``"any"`` for a different one each.

    Returns
    -------
    list of Scene

    Raises
    ------
    FoveateError
        A number out of its range.
    """
    fewest, most = _checked_objects(objects)
    checked_size(size)
    if not isinstance(n, int) or n < 0:
        raise FoveateError(f"scenes(n={n!r}) wants a whole number of scenes, 0 or more.")
    for name, share in {"bias": bias, "popularity": popularity, "repeats": repeats}.items():
        if not 0 <= share <= 1:
            raise FoveateError(f"scenes({name}={share!r}) wants a share between 0 and 1.")
    if texture is not None and texture != "any":
        checked_texture(texture)
    rng = random.Random(seed)
    made = []
    for _ in range(n):
        kinds = _kinds(rng, rng.randint(fewest, most), bias, popularity, repeats)
        background = rng.choice(TEXTURES) if texture == "any" else texture or "plain"
        things = _placed(rng, kinds, size, overlap)
        made.append(Scene(things, size, background, rng.getrandbits(31)))
    return made


# --------------------------------------------------------------------------- what and where


def _kinds(
    rng: random.Random, count: int, bias: float, popularity: float, repeats: float
) -> list[Kind]:
    kinds: list[Kind] = []
    while len(kinds) < count:
        if kinds and rng.random() < repeats:
            kinds.append(kinds[-1])
            continue
        kind = rng.choice(POPULAR if rng.random() < popularity else KINDS)
        kinds.append(kind)
        if len(kinds) < count and rng.random() < bias:
            kinds.append(partner(kind))
    rng.shuffle(kinds)
    return kinds


def _placed(rng: random.Random, kinds: list[Kind], size: int, overlap: bool) -> tuple[Thing, ...]:
    low, high = (0.25, 0.4) if len(kinds) <= 3 else (0.22, 0.3)
    smallest, largest = round(low * size), round(high * size)
    for _ in range(20):
        things: list[Thing] = []
        for kind in kinds:
            thing = _fitting(rng, kind, things, (smallest, largest), size, overlap)
            if thing is None:
                break
            things.append(thing)
        else:
            return tuple(things)
    # A crowded scene that chance did not fill: one thing a cell of a 3 × 3 grid.
    cell = size // 3
    cells = rng.sample([(x, y) for x in range(3) for y in range(3)], len(kinds))
    side = min(smallest, cell - 1)
    return tuple(
        Thing(*kind, side, cell * x + side / 2, cell * y + side / 2)
        for kind, (x, y) in zip(kinds, cells, strict=True)
    )


def _fitting(
    rng: random.Random,
    kind: Kind,
    placed: list[Thing],
    sides: tuple[int, int],
    size: int,
    overlap: bool,
) -> Thing | None:
    for _ in range(30):
        side = rng.randint(*sides)
        x0, y0 = rng.randint(0, size - side), rng.randint(0, size - side)
        thing = Thing(*kind, side, x0 + side / 2, y0 + side / 2)
        touched = [other for other in placed if _touch(thing.box, other.box)]
        if not touched:
            return thing
        apart = all(other.colour != thing.colour for other in touched)
        if overlap and apart and _recognisable([*placed, thing], size):
            return thing
    return None


def _touch(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    """Whether two boxes overlap or lie side by side without a pixel between them."""
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _recognisable(things: Sequence[Thing], size: int) -> bool:
    """Whether what is left of covered things is enough to tell what they are."""
    drawn = visible(things, size)
    covered = np.zeros((size, size), bool)
    for thing, (seen, whole) in reversed(list(zip(things, drawn, strict=True))):
        if seen.sum() < whole.sum():
            x0, y0, x1, y1 = thing.box
            part, hidden = seen[y0:y1, x0:x1], covered[y0:y1, x0:x1]
            fits = ((outlines(*part.shape) == part) | hidden).all((1, 2))
            sides = part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()
            enough = seen.sum() >= _LEAST_SEEN * whole.sum()
            whole_piece = len(components(part.astype(np.int8))) == 1
            if not (enough and sides and whole_piece and fits.sum() == 1):
                return False
        covered |= whole
    return True


def _checked_objects(objects: Any) -> tuple[int, int]:
    try:
        fewest, most = objects
        usable = 1 <= fewest <= most <= _MOST and fewest == int(fewest) and most == int(most)
    except (TypeError, ValueError):
        usable = False
    if not usable:
        raise FoveateError(
            f"objects={objects!r} wants the fewest and the most things in a scene, two whole "
            f"numbers of 1 to {_MOST}, such as (1, 3)."
        )
    return int(fewest), int(most)
