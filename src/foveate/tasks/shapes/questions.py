"""Questions about scenes, with their exact answers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...errors import FoveateError
from .captions import NUMBERS, named, plural, relations
from .scene import COLOURS, KINDS, POPULAR, SHAPES, Kind, Scene, Thing, partner

__all__ = ["ASKED", "NEGATIVES", "Question", "absent", "questions"]

NEGATIVES = ("random", "popular", "adversarial")


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Attributes
    ----------
    sort : str
        One of ``ASKED``.
    text, answer : str
        The question, and the one word (for relations, two at most) that answers it.
    about : tuple of (shape, colour)
        The kinds that it speaks of, where it names whole kinds.
    negatives : str or None
        How an absent kind was chosen that is asked for, one of ``NEGATIVES``.
    """

    sort: str
    text: str
    answer: str
    about: tuple[Kind, ...] = ()
    negatives: str | None = None


def questions(
    scene: Scene,
    seed: int,
    *,
    sorts: Sequence[str] | None = None,
    negatives: str = "random",
) -> list[Question]:
    """Ask about a scene.

    Parameters
    ----------
    scene : Scene
    seed : int
        Of what is asked.
    sorts : sequence of str, optional
        Which sorts, of ``ASKED``. Default: all.
    negatives : str
        Which absent kind is asked for: ``"random"``: any. ``"popular"``: one of the four that are
        frequent under ``scenes(popularity=...)``. ``"adversarial"``: the `partner` of a thing that
        is there, which comes along with it under ``scenes(bias=...)``. The three of POPE.

    Returns
    -------
    list of Question
        Of existence two where they can be asked, one answered yes and one no; of each other sort
        one, where it has one answer in this scene: a colour is asked for only of a shape that is
        there once, a relation only where it is clear.

    Raises
    ------
    FoveateError
        A sort or a way to choose negatives is not known.

    References
    ----------
    Li et al., "Evaluating Object Hallucination in Large Vision-Language Models" (POPE), 2023,
    section 4: random, popular and adversarial negatives, as many as positives.
    """
    _checked_negatives(negatives)
    for sort in sorts or ():
        if sort not in ASKED:
            raise FoveateError(f"There is no sort {sort!r} of questions; give {', '.join(ASKED)}.")
    rng = random.Random(seed)
    asked = []
    for sort in sorts or tuple(ASKED):
        asked += ASKED[sort](scene, rng, negatives)
    return asked


def absent(scene: Scene, negatives: str) -> list[Kind]:
    """The kinds that are not in a scene and may be asked for.

    Parameters
    ----------
    scene : Scene
    negatives : str
        One of ``NEGATIVES``.

    Returns
    -------
    list of (shape, colour)
        Empty where, say, every thing's partner is there.
    """
    _checked_negatives(negatives)
    there = scene.kinds
    if negatives == "random":
        return [kind for kind in KINDS if kind not in there]
    if negatives == "popular":
        return [kind for kind in POPULAR if kind not in there]
    return sorted({partner(kind) for kind in there} - there)


# --------------------------------------------------------------------------- one sort each


def _existence(scene: Scene, rng: random.Random, negatives: str) -> list[Question]:
    asked = []
    if scene.things:
        kind = rng.choice(sorted(scene.kinds))
        asked.append(Question("existence", f"is there {named(kind)}?", "yes", (kind,)))
    if missing := absent(scene, negatives):
        kind = rng.choice(missing)
        asked.append(Question("existence", f"is there {named(kind)}?", "no", (kind,), negatives))
    return asked


def _colour(scene: Scene, rng: random.Random, _: str) -> list[Question]:
    thing = _only(scene, rng, lambda thing: thing.shape)
    if thing is None:
        return []
    return [Question("colour", f"what colour is the {thing.shape}?", thing.colour)]


def _shape(scene: Scene, rng: random.Random, _: str) -> list[Question]:
    thing = _only(scene, rng, lambda thing: thing.colour)
    if thing is None:
        return []
    return [Question("shape", f"what shape is the {thing.colour} thing?", thing.shape)]


def _count(scene: Scene, rng: random.Random, _: str) -> list[Question]:
    # Half of the time about what is there: of all shapes and colours most are not.
    if rng.random() < 0.5:
        shape = rng.choice([t.shape for t in scene.things if rng.random() < 0.5] or list(SHAPES))
        text, number = f"how many {plural(shape)} are there?", scene.count(shape=shape)
    else:
        colour = rng.choice([t.colour for t in scene.things if rng.random() < 0.5] or list(COLOURS))
        text, number = f"how many {colour} things are there?", scene.count(colour=colour)
    return [Question("count", text, NUMBERS[number] if number else "zero")]


def _relation(scene: Scene, rng: random.Random, _: str) -> list[Question]:
    clear = relations(scene)
    if not clear:
        return []
    a, relation, b = rng.choice(clear)
    text = f"where is the {a.colour} {a.shape} seen from the {b.colour} {b.shape}?"
    return [Question("relation", text, relation, (a.kind, b.kind))]


ASKED: dict[str, Callable[[Scene, random.Random, str], list[Question]]] = {
    "existence": _existence,
    "colour": _colour,
    "shape": _shape,
    "count": _count,
    "relation": _relation,
}


def _only(scene: Scene, rng: random.Random, named_by: Callable[[Thing], str]) -> Thing | None:
    """One of the things that are the only ones of their colour, or shape."""
    number = Counter(named_by(thing) for thing in scene.things)
    alone = [thing for thing in scene.things if number[named_by(thing)] == 1]
    return rng.choice(sorted(alone, key=named_by)) if alone else None


def _checked_negatives(negatives: str) -> None:
    if negatives not in NEGATIVES:
        raise FoveateError(
            f"There are no negatives {negatives!r}; give one of {', '.join(NEGATIVES)}."
        )
