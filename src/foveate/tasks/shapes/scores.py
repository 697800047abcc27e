"""How good replies and pictures are, counted against what is known of each scene."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import FoveateError
from ...statistics import wilson
from .captions import NUMBERS, RELATIONS, mentions
from .checker import Found, as_pixels
from .layouts import Layout
from .questions import Question
from .scene import COLOURS, SHAPES, Kind, Scene, partner

__all__ = [
    "Binding",
    "Existence",
    "Hallucination",
    "Rate",
    "answered",
    "background",
    "binding",
    "existence",
    "hallucination",
    "layout_iou",
    "rate",
]

_ANSWERS = {  # the words that can be an answer, by sort of question
    "existence": ("yes", "no"),
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "count": ("zero", "none", *NUMBERS),
    "relation": (*RELATIONS, "left", "right"),
}
_SAME = {"left": "left of", "right": "right of", "none": "zero", "no": "zero"}
_SAMPLES = 2000  # of a bootstrap, where a figure is no plain share


@dataclass(frozen=True, repr=False)
class Rate:
    """A share with its 95 % interval and the number of items it rests on.

    Attributes
    ----------
    value, low, high : float
        0 to 1; shown in percent. Of no items: nan, 0, 1.
    n : int
    """

    value: float
    low: float
    high: float
    n: int

    def __repr__(self) -> str:
        if not self.n:
            return "no items"
        value, low, high = (f"{100 * one:.1f}" for one in (self.value, self.low, self.high))
        return f"{value} % [{low}, {high}], n = {self.n}"


@dataclass(frozen=True, repr=False)
class Existence:
    """Answers to "is there ...?", as POPE counts them; "yes" is the positive class.

    Attributes
    ----------
    accuracy, f1, yes : Rate
        Share of right answers; F1 of "yes"; share of answers that are "yes".
    precision, recall : float
    false_yes : Rate
        Share of "yes" among the questions for what is not there.
    """

    accuracy: Rate
    f1: Rate
    yes: Rate
    precision: float
    recall: float
    false_yes: Rate

    def __repr__(self) -> str:
        figures = {name: getattr(self, name) for name in ("accuracy", "f1", "yes", "false_yes")}
        shares = {"precision": self.precision, "recall": self.recall}
        lines = [f"{name.replace('_', ' ')}: {rate!r}" for name, rate in figures.items()]
        lines += [f"{name}: {100 * share:.1f} %" for name, share in shares.items()]
        return "\n".join(["Existence", *(f"  {line}" for line in lines)])


@dataclass(frozen=True)
class Hallucination:
    """Kinds that captions mention and pictures do not show, as CHAIR counts them.

    Attributes
    ----------
    mentions : Rate
        Share of the mentioned kinds that are not there (CHAIR i).
    captions : Rate
        Share of the captions that mention one (CHAIR s).
    recall : Rate
        Share of the kinds that are there that are mentioned.
    partners : float
        Share of the hallucinated kinds that are the partner of a thing that is there: what a
        co-occurrence bias puts into words.
    """

    mentions: Rate
    captions: Rate
    recall: Rate
    partners: float


@dataclass(frozen=True)
class Binding:
    """What became of the things that a prompt asked for.

    Attributes
    ----------
    right : int
        Things that are there, shape and colour.
    leaked : int
        Shapes that are there in a colour that was not asked for.
    neglected : int
        Shapes that are not there at all.
    extra : int
        Things beyond those.
    """

    right: int
    leaked: int
    neglected: int
    extra: int

    @property
    def all_there(self) -> bool:
        """Whether everything that was asked for is there, whatever else is."""
        return not (self.leaked or self.neglected)

    @property
    def perfect(self) -> bool:
        """Whether everything is there as asked, and nothing else."""
        return not (self.leaked or self.neglected or self.extra)


# --------------------------------------------------------------------------- words


def answered(question: Question, reply: str) -> bool:
    """Whether a reply gives the answer: it is the first word of its kind that is said.

    Parameters
    ----------
    question : Question
    reply : str
        ``"Yes, there is."`` answers a question for existence, ``"it is red"`` one for a colour.
    """
    if not isinstance(reply, str):
        raise FoveateError(f"answered() got {type(reply).__name__} as a reply; a text is wanted.")
    said = re.search(rf"\b({'|'.join(_ANSWERS[question.sort])})\b", reply.lower())
    if said is None:
        return False
    word = said[1] if question.sort == "existence" else _SAME.get(said[1], said[1])
    return word == question.answer


def existence(asked: Sequence[Question], replies: Sequence[str]) -> Existence:
    """Score replies to questions for existence.

    Parameters
    ----------
    asked : sequence of Question
        All of the sort ``"existence"``.
    replies : sequence of str
        As many. A reply counts as "yes" where its first "yes" or "no" is a "yes"; one that says
        neither counts as "no".

    References
    ----------
    Li et al., "Evaluating Object Hallucination in Large Vision-Language Models" (POPE), 2023.
    """
    _same_number(asked, replies)
    if others := {question.sort for question in asked} - {"existence"}:
        raise FoveateError(
            f"existence() got questions of the sort {min(others)!r}; give those of the sort "
            "'existence' alone."
        )
    truth = np.array([question.answer == "yes" for question in asked])
    yes = np.array([_first_yes(reply) for reply in replies])

    def f1(rows: np.ndarray) -> float:
        right = (truth[rows] & yes[rows]).sum()
        return float(2 * right / max(truth[rows].sum() + yes[rows].sum(), 1))

    both = int((truth & yes).sum())
    return Existence(
        accuracy=rate(truth == yes),
        f1=_resampled(f1, len(truth)),
        yes=rate(yes),
        precision=both / max(int(yes.sum()), 1),
        recall=both / max(int(truth.sum()), 1),
        false_yes=Rate(math.nan, 0.0, 1.0, 0) if truth.all() else rate(yes[~truth]),
    )


def hallucination(captions: Sequence[str], scenes: Sequence[Scene]) -> Hallucination:
    """Score captions for what they make up.

    Parameters
    ----------
    captions : sequence of str
    scenes : sequence of Scene
        What they describe, as many.

    References
    ----------
    Rohrbach et al., "Object Hallucination in Image Captioning" (CHAIR), 2018, section 2.1.
    """
    _same_number(captions, scenes)
    said = [set(mentions(caption)) for caption in captions]
    made_up = [kinds - scene.kinds for kinds, scene in zip(said, scenes, strict=True)]
    counts = np.array(
        [
            (len(kinds), len(wrong), len(kinds & scene.kinds), len(scene.kinds))
            for kinds, wrong, scene in zip(said, made_up, scenes, strict=True)
        ]
    )

    def ratio(above: int, below: int) -> Callable[[np.ndarray], float]:
        return lambda rows: float(counts[rows, above].sum() / max(counts[rows, below].sum(), 1))

    partners = sum(
        any(kind == partner(other) for other in scene.kinds)
        for wrong, scene in zip(made_up, scenes, strict=True)
        for kind in wrong
    )
    return Hallucination(
        mentions=_resampled(ratio(1, 0), len(counts)),
        captions=rate(counts[:, 1] > 0),
        recall=_resampled(ratio(2, 3), len(counts)),
        partners=partners / max(int(counts[:, 1].sum()), 1),
    )


# --------------------------------------------------------------------------- pictures


def binding(found: Sequence[Found], wanted: Scene | Sequence[Kind]) -> Binding:
    """Hold what a picture shows against what was asked for.

    Parameters
    ----------
    found : sequence of Found
        From :func:`~foveate.tasks.shapes.check`.
    wanted : Scene or sequence of (shape, colour)
        A kind that is asked for twice must be there twice.
    """
    kinds = [thing.kind for thing in wanted.things] if isinstance(wanted, Scene) else list(wanted)
    asked, there = Counter(kinds), Counter(thing.kind for thing in found)
    right = sum((asked & there).values())
    missing = Counter(shape for shape, _ in (asked - there).elements())
    left = Counter(shape for shape, _ in (there - asked).elements())
    leaked = sum((missing & left).values())
    return Binding(
        right=right,
        leaked=leaked,
        neglected=sum(missing.values()) - leaked,
        extra=sum(left.values()) - leaked,
    )


def layout_iou(found: Sequence[Found], wanted: Layout) -> float:
    """Mean over a layout's regions of the intersection over union of their boxes.

    Parameters
    ----------
    found : sequence of Found
    wanted : Layout

    Returns
    -------
    float
        0 to 1. A region whose kind is not there counts 0; of several the best box counts.
    """
    if not wanted.regions:
        raise FoveateError("layout_iou() got a layout without regions; nothing can be compared.")
    best = []
    for region in wanted.regions:
        size = region.mask.shape[1], region.mask.shape[0]
        box = tuple(share * size[i % 2] for i, share in enumerate(region.box))
        best.append(max((_iou(box, f.box) for f in found if f.kind == region.kind), default=0.0))
    return float(np.mean(best))


def background(before: Any, after: Any, changed: Any, *, tolerance: int = 16) -> float:
    """The share of pixels outside what was to change that stayed as they were.

    Parameters
    ----------
    before, after : pictures
        As :func:`~foveate.tasks.shapes.check` takes them, of one size.
    changed : array or (x0, y0, x1, y1)
        bool ``[H, W]``, or a box: what was to change and is not looked at.
    tolerance : int
        Largest difference of a colour channel, of 255, that still counts as the same.

    Returns
    -------
    float
        0 to 1.
    """
    old, new = as_pixels(before), as_pixels(after)
    if old.shape != new.shape:
        raise FoveateError(
            f"background() got pictures of {list(old.shape)} and {list(new.shape)}; they must be "
            "of one size."
        )
    kept = np.ones(old.shape[:2], bool)
    if isinstance(changed, (tuple, list)) and len(changed) == 4:
        x0, y0, x1, y1 = changed
        kept[y0:y1, x0:x1] = False
    elif getattr(changed, "shape", None) == kept.shape:
        kept = ~np.asarray(changed, bool)
    else:
        raise FoveateError(
            "background(changed=...) wants a box (x0, y0, x1, y1) or a bool mask of the picture's "
            f"height and width, {list(kept.shape)}."
        )
    if not kept.any():
        raise FoveateError("background(changed=...) covers the picture; nothing is left to judge.")
    difference = np.abs(old.astype(int) - new.astype(int)).max(-1)
    return float((difference[kept] <= tolerance).mean())


# --------------------------------------------------------------------------- counting


def rate(hits: Any) -> Rate:
    """The share of hits, with Wilson's interval."""
    hits = np.asarray(hits, bool)
    if hits.size == 0:
        raise FoveateError("A rate of no items was asked for; give at least one.")
    low, high = wilson(int(hits.sum()), hits.size)
    return Rate(float(hits.mean()), low, high, int(hits.size))


def _resampled(figure: Callable[[np.ndarray], float], n: int) -> Rate:
    """A figure of all rows with its bootstrap interval over rows."""
    rows = np.random.default_rng(0).integers(0, n, (_SAMPLES, n))
    low, high = np.quantile([figure(sample) for sample in rows], [0.025, 0.975])
    return Rate(figure(np.arange(n)), float(low), float(high), n)


def _same_number(a: Sequence[Any], b: Sequence[Any]) -> None:
    if len(a) != len(b) or not a:
        raise FoveateError(
            f"{len(a)} and {len(b)} items were given; as many of both are wanted, at least one."
        )


def _first_yes(reply: str) -> bool:
    said = re.search(r"\b(yes|no)\b", reply.lower())
    return said is not None and said[1] == "yes"


def _iou(a: Sequence[float], b: Sequence[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union
