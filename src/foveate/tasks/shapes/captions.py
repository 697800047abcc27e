"""Sentences about scenes, and what a sentence says is there."""

from __future__ import annotations

import random
import re
from collections import Counter

from ...errors import FoveateError
from .scene import COLOURS, SHAPES, Kind, Scene, Thing, each_pair

__all__ = ["NUMBERS", "RELATIONS", "caption", "mentions", "named", "plural", "related", "relations"]

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
RELATIONS = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
STYLES = ("list", "relation", "any")
_CLEAR = 1 / 8  # of the picture's side: how far apart two centres are where a relation is said


def plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


_SINGULAR = {plural(shape): shape for shape in SHAPES}
_MENTION = re.compile(
    rf"\b(?:(an?|{'|'.join(NUMBERS)})\s+)?({'|'.join(COLOURS)})\s+"
    rf"({'|'.join(SHAPES)}|{'|'.join(_SINGULAR)})\b"
)


def named(kind: Kind, number: int = 1) -> str:
    """A kind in words: ``"a red circle"``, ``"two red circles"``."""
    shape, colour = kind
    if number == 1:
        return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}"
    return f"{NUMBERS[number]} {colour} {plural(shape)}"


def caption(scene: Scene, *, seed: int | None = None, style: str = "list") -> str:
    """Say what a scene shows.

    Parameters
    ----------
    scene : Scene
    seed : int, optional
        Of the order in which kinds are named. Default: from left to right.
    style : str
        ``"list"``: ``"a red circle and two blue squares"``. ``"relation"``: ``"a red circle left
        of a blue square"`` where there are two things and the relation is clear, else a list.
        ``"any"``: one of these by chance.

    Returns
    -------
    str
        Every kind is named once, with its number.

    Raises
    ------
    FoveateError
        The style is not known.
    """
    if style not in STYLES:
        raise FoveateError(f"There is no style {style!r}; give one of {', '.join(STYLES)}.")
    rng = random.Random(seed)
    if style == "any":
        style = rng.choice(STYLES[:2])
    things = sorted(scene.things, key=lambda thing: (thing.x, thing.y))
    if seed is not None:
        rng.shuffle(things)
    if style == "relation" and len(things) == 2 and len(scene.kinds) == 2:
        relation = related(things[0], things[1], scene.size)
        if relation is not None:
            return f"{named(things[0].kind)} {relation} {named(things[1].kind)}"
    numbers = Counter(thing.kind for thing in things)
    parts = [named(kind, number) for kind, number in numbers.items()]
    if not parts:
        return "nothing"
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def related(a: Thing, b: Thing, size: int) -> str | None:
    """Where `a` lies as seen from `b`, along the axis on which they are further apart.

    Parameters
    ----------
    a, b : Thing
    size : int
        Width of the picture.

    Returns
    -------
    str or None
        A key of ``RELATIONS``; None where the centres are less than an eighth of the picture apart
        or the two axes differ by less than a sixteenth, so that people would not agree.
    """
    dx, dy = a.x - b.x, a.y - b.y
    if max(abs(dx), abs(dy)) < _CLEAR * size or abs(abs(dx) - abs(dy)) < _CLEAR * size / 2:
        return None
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def relations(scene: Scene) -> list[tuple[Thing, str, Thing]]:
    """All clear relations between things of kinds that are there once."""
    single = {kind for kind, n in Counter(t.kind for t in scene.things).items() if n == 1}
    found = []
    for a, b in each_pair(scene.things):
        if a.kind in single and b.kind in single:
            relation = related(a, b, scene.size)
            if relation is not None:
                found.append((a, relation, b))
    return found


def mentions(text: str) -> dict[Kind, int]:
    """What a sentence says is there.

    Parameters
    ----------
    text : str
        Any text, a model's reply say. Read are a number word or article, a colour and a shape.

    Returns
    -------
    dict
        ``(shape, colour)`` to how many, summed over the sentence. ``"no red circle"`` names none.
    """
    if not isinstance(text, str):
        raise FoveateError(f"mentions() got {type(text).__name__}, but wants a text.")
    found: Counter[Kind] = Counter()
    for number, colour, shape in _MENTION.findall(text.lower()):
        singular = shape if shape in SHAPES else _SINGULAR[shape]
        found[singular, colour] += NUMBERS.index(number) if number in NUMBERS else 1
    return {kind: number for kind, number in found.items() if number}
