"""Scenes of coloured shapes: what is where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...errors import FoveateError

__all__ = [
    "COLOURS",
    "KINDS",
    "POPULAR",
    "SHAPES",
    "TEXTURES",
    "Scene",
    "Thing",
    "partner",
]

SHAPES = ("circle", "square", "triangle", "diamond", "cross")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (240, 220, 50),
    "purple": (160, 50, 200),
    "orange": (245, 135, 30),
    "white": (240, 240, 240),
    "cyan": (60, 210, 230),
}
KINDS = tuple((shape, colour) for shape in SHAPES for colour in COLOURS)
POPULAR = (("circle", "red"), ("square", "blue"), ("triangle", "green"), ("diamond", "yellow"))
TEXTURES = ("plain", "noise", "stripes", "checks", "gradient")

Kind = tuple[str, str]
_SHAPE_PARTNER = {
    "circle": "square",
    "square": "circle",
    "triangle": "diamond",
    "diamond": "triangle",
    "cross": "cross",
}
_COLOUR_PARTNER = {
    "red": "blue",
    "blue": "red",
    "green": "yellow",
    "yellow": "green",
    "purple": "orange",
    "orange": "purple",
    "white": "cyan",
    "cyan": "white",
}
_LEAST_SIZE, _MOST_SIZE = 32, 256  # pixels of a picture's side


def partner(kind: Kind) -> Kind:
    """The kind that comes along with `kind` under the co-occurrence bias.

    A red circle's is a blue square, a blue square's a red circle: partners go both ways, and
    nothing is its own partner.

    Parameters
    ----------
    kind : (shape, colour)

    Returns
    -------
    (shape, colour)
    """
    shape, colour = checked_kind(kind)
    return _SHAPE_PARTNER[shape], _COLOUR_PARTNER[colour]


@dataclass(frozen=True)
class Thing:
    """One coloured shape.

    Attributes
    ----------
    shape, colour : str
        One of ``SHAPES``, one of ``COLOURS``.
    size : int
        Width and height of its box, in pixels.
    x, y : float
        Centre of its box, in pixels from the left and upper edge. The box starts at
        ``x - size / 2``, rounded, so that centres of odd sizes end in a half.
    """

    shape: str
    colour: str
    size: int
    x: float
    y: float

    def __post_init__(self) -> None:
        checked_kind((self.shape, self.colour))
        if not isinstance(self.size, int) or self.size < 5:
            raise FoveateError(
                f"Thing(size={self.size!r}): shapes cannot be told apart below 5 pixels; give a "
                "whole number of at least 5."
            )

    @property
    def kind(self) -> Kind:
        """``(shape, colour)``."""
        return self.shape, self.colour

    @property
    def box(self) -> tuple[int, int, int, int]:
        """``(x0, y0, x1, y1)`` in pixels; the last two are exclusive."""
        x0, y0 = round(self.x - self.size / 2), round(self.y - self.size / 2)
        return x0, y0, x0 + self.size, y0 + self.size


@dataclass(frozen=True)
class Scene:
    """What is drawn: things in their order (later ones cover earlier ones) before a background.

    Attributes
    ----------
    things : tuple of Thing
    size : int
        Width and height of the picture, in pixels.
    background : str
        One of ``TEXTURES``.
    seed : int
        Of the background's texture.
    """

    things: tuple[Thing, ...]
    size: int = 32
    background: str = "plain"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "things", tuple(self.things))
        checked_size(self.size)
        checked_texture(self.background)
        for thing in self.things:
            x0, y0, x1, y1 = thing.box
            if min(x0, y0) < 0 or max(x1, y1) > self.size:
                raise FoveateError(
                    f"{thing} leaves its picture of {self.size} × {self.size} pixels; move its "
                    "centre or make it smaller."
                )

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds that are there."""
        return frozenset(thing.kind for thing in self.things)

    def count(self, *, shape: str | None = None, colour: str | None = None) -> int:
        """How many things have this shape and this colour; None stands for any."""
        return sum(
            shape in (None, thing.shape) and colour in (None, thing.colour) for thing in self.things
        )


def each_pair(things: tuple[Thing, ...]) -> Iterator[tuple[Thing, Thing]]:
    """Every ordered pair of two different things."""
    for i, a in enumerate(things):
        for j, b in enumerate(things):
            if i != j:
                yield a, b


# --------------------------------------------------------------------------- what was asked for


def checked_kind(kind: Any) -> Kind:
    if tuple(kind) not in _KNOWN:
        raise FoveateError(
            f"There is no kind {kind!r} in this world; give a shape of {listed(SHAPES)} and a "
            f"colour of {listed(COLOURS)}."
        )
    return tuple(kind)


_KNOWN = frozenset(KINDS)


def checked_size(size: Any) -> None:
    if not isinstance(size, int) or not _LEAST_SIZE <= size <= _MOST_SIZE:
        raise FoveateError(
            f"size={size!r} wants a whole number of pixels, {_LEAST_SIZE} to {_MOST_SIZE}."
        )


def checked_texture(texture: Any) -> None:
    if texture not in TEXTURES:
        raise FoveateError(f"There is no background {texture!r}; give one of {listed(TEXTURES)}.")


def listed(names: Any) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}"
