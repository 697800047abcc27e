"""Minimal pairs: two scenes that differ in one thing, and the question whose answer that turns."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ...errors import FoveateError
from .captions import named, related, relations
from .questions import Question, questions
from .scene import COLOURS, KINDS, SHAPES, Kind, Scene, Thing, partner

__all__ = ["CHANGES", "Pair", "pairs"]


@dataclass(frozen=True)
class Pair:
    """Two scenes that differ in one respect.

    Attributes
    ----------
    change : str
        One of ``CHANGES``.
    before, after : Scene
        The same but for one thing; they share their background, pixel by pixel.
    question : str
        Asked of both.
    answers : (str, str)
        The right ones, which differ.
    box : (int, int, int, int)
        Around all pixels that differ.
    """

    change: str
    before: Scene
    after: Scene
    question: str
    answers: tuple[str, str]
    box: tuple[int, int, int, int]


def pairs(drawn: Sequence[Scene], seed: int, *, change: str = "any") -> list[Pair]:
    """Change one thing in each scene.

    Parameters
    ----------
    drawn : sequence of Scene
        The "before" scenes; those in which the change cannot be made are passed over.
    seed : int
        Of what is changed.
    change : str
        ``"colour"``, ``"shape"``: a thing gets another one. ``"gone"``: a thing is taken away and
        asked for. ``"place"``: two things change places, each keeping the size of its place.
        ``"partner"``: of two partners one is taken away and asked for, what a co-occurrence bias
        trips over. ``"any"``: by chance one of those that can be made.

    Returns
    -------
    list of Pair

    Raises
    ------
    FoveateError
        The change is not known.
    """
    if change != "any" and change not in CHANGES:
        raise FoveateError(
            f"There is no change {change!r}; give one of {', '.join(CHANGES)} or any."
        )
    rng = random.Random(seed)
    made = []
    for scene in drawn:
        names = rng.sample(list(CHANGES), len(CHANGES)) if change == "any" else [change]
        for name in names:
            pair = CHANGES[name](scene, rng)
            if pair is not None:
                made.append(pair)
                break
    return made


# --------------------------------------------------------------------------- one change each


def _recoloured(scene: Scene, rng: random.Random) -> Pair | None:
    question = _asked(scene, rng, "colour")
    if question is None:
        return None
    index = next(i for i, t in enumerate(scene.things) if f"the {t.shape}?" in question.text)
    taken = {thing.colour for thing in scene.things}  # a colour that is new says most clearly
    colour = rng.choice([name for name in COLOURS if name not in taken])
    after = _with(scene, index, replace(scene.things[index], colour=colour))
    return _pair("colour", scene, after, question.text, (question.answer, colour), index)


def _reshaped(scene: Scene, rng: random.Random) -> Pair | None:
    question = _asked(scene, rng, "shape")
    if question is None:
        return None
    index = next(i for i, t in enumerate(scene.things) if f"the {t.colour} " in question.text)
    shape = rng.choice([name for name in SHAPES if name != question.answer])
    after = _with(scene, index, replace(scene.things[index], shape=shape))
    return _pair("shape", scene, after, question.text, (question.answer, shape), index)


def _gone(scene: Scene, rng: random.Random) -> Pair | None:
    return _taken(scene, rng, "gone", [t.kind for t in scene.things])


def _partner_gone(scene: Scene, rng: random.Random) -> Pair | None:
    return _taken(
        scene, rng, "partner", [k for k in KINDS if k in scene.kinds and partner(k) in scene.kinds]
    )


def _swapped(scene: Scene, rng: random.Random) -> Pair | None:
    clear = relations(scene)
    if not clear:
        return None
    a, relation, b = rng.choice(clear)
    things = list(scene.things)
    i, j = things.index(a), things.index(b)
    things[i] = replace(a, shape=b.shape, colour=b.colour)
    things[j] = replace(b, shape=a.shape, colour=a.colour)
    text = f"where is the {a.colour} {a.shape} seen from the {b.colour} {b.shape}?"
    answers = relation, str(related(b, a, scene.size))
    return Pair("place", scene, replace(scene, things=tuple(things)), text, answers, _around(a, b))


CHANGES: dict[str, Callable[[Scene, random.Random], Pair | None]] = {
    "colour": _recoloured,
    "shape": _reshaped,
    "gone": _gone,
    "place": _swapped,
    "partner": _partner_gone,
}


def _taken(scene: Scene, rng: random.Random, change: str, kinds: Sequence[Kind]) -> Pair | None:
    once = [k for k in kinds if sum(t.kind == k for t in scene.things) == 1]
    if not once or len(scene.things) < 2:
        return None
    kind = rng.choice(once)
    index = next(i for i, thing in enumerate(scene.things) if thing.kind == kind)
    things = scene.things[:index] + scene.things[index + 1 :]
    after = replace(scene, things=things)
    return _pair(change, scene, after, f"is there {named(kind)}?", ("yes", "no"), index)


def _asked(scene: Scene, rng: random.Random, sort: str) -> Question | None:
    asked = questions(scene, rng.getrandbits(30), sorts=[sort])
    return asked[0] if asked else None


def _with(scene: Scene, index: int, thing: Thing) -> Scene:
    return replace(scene, things=(*scene.things[:index], thing, *scene.things[index + 1 :]))


def _pair(
    change: str, before: Scene, after: Scene, text: str, answers: tuple[str, str], index: int
) -> Pair:
    return Pair(change, before, after, text, answers, before.things[index].box)


def _around(*things: Thing) -> tuple[int, int, int, int]:
    boxes = [thing.box for thing in things]
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)
