"""Prompts as a sensible person would write them anew: the rival of every method.

A rewrite moves the pieces of an item and adds words of its own. The item's marks go with the
pieces; a copied piece is marked where it stood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from ..errors import FoveateError
from ..tasks import Item
from .parts import Parts, Span, mark_of, marked

__all__ = ["REWRITES", "Rewrite"]

QUOTE = (
    "First quote the words of the text above that answer this. Then write “Answer:” and the answer."
)
"""What :data:`REWRITES` ``["quote first"]`` adds."""

KEPT = 3
"""``"closest passages only"`` keeps one in so many."""

SHORT = "Answer in as few words as possible."
"""What ``"short answer"`` adds."""

Piece = Span | str
Needs = Literal["passages", "context", "instruction"]
_RAW = "its text is to be continued, not answered"
_NO_INSTRUCTION = "nothing is said besides the question and its context"
_GAP = "\n\n"
_ANSWER = re.compile(r"\banswer\b[\s*_]*:[\s*_”\"]*", re.IGNORECASE)


@dataclass(frozen=True)
class Rewrite:
    """An item, asked in another way.

    Attributes
    ----------
    name : str
    why : str
        What it is for.
    needs : "passages", "context" or "instruction", optional
        What an item must have.
    extra_tokens : int
        How many more tokens a reply may take.
    """

    name: str
    why: str
    needs: Needs | None
    _pieces: Callable[[Parts], Sequence[Piece] | str]
    extra_tokens: int = 0
    _reply: Callable[[str], str] | None = None

    def item(self, item: Item) -> Item:
        """The item rewritten.

        Raises
        ------
        FoveateError
            Where it does not fit: ask :meth:`fits` before.
        """
        parts = Parts.of(item)
        pieces = self._of(parts)
        if isinstance(pieces, str):
            raise FoveateError(f"{self.name!r} does not fit item {item.id!r}: {pieces}.")
        return _rebuilt(parts, pieces)

    def reply(self, text: str) -> str:
        """What counts of a reply: all, where nothing besides the answer was asked for."""
        return self._reply(text) if self._reply else text

    def fits(self, item: Item) -> bool:
        """Whether the item can be rewritten so."""
        return self.refusal(item) is None

    def refusal(self, item: Item) -> str | None:
        """Why the item cannot be rewritten so; None if it can."""
        pieces = self._of(Parts.of(item))
        return pieces if isinstance(pieces, str) else None

    def _of(self, parts: Parts) -> Sequence[Piece] | str:
        if self.needs in ("passages", "context") and parts.context is None:
            return "there is no context"
        if self.needs == "passages" and not parts.separate:
            return "its context is one passage; there is nothing to put in another order"
        if parts.question is None:
            return "nothing is asked besides the context"
        return self._pieces(parts)


# ------------------------------------------------------------------------------ what each does


def _quote(parts: Parts) -> Sequence[Piece] | str:
    if parts.item.raw:
        return _RAW
    return [(0, len(parts.text)), f"{_GAP}{QUOTE}"]


def _quoted(text: str) -> str:
    """What stands behind the last “Answer:”; the whole reply where the model did not follow."""
    found = list(_ANSWER.finditer(text))
    said = text[found[-1].end() :].strip() if found else ""
    return said or text


def _short(parts: Parts) -> Sequence[Piece] | str:
    if parts.item.raw:
        return _RAW
    return [(0, len(parts.text)), f"{_GAP}{SHORT}"]


def _question_twice(parts: Parts) -> Sequence[Piece] | str:
    assert parts.question is not None and parts.context is not None
    (a, b), asks = parts.context, parts.says(parts.question)
    if parts.text.count(asks) > 1:
        return "it asks its question twice already"
    if parts.question[0] >= b:
        return [(0, a), f"{asks}{_GAP}", (a, len(parts.text))]
    return [(0, b), f"{_GAP}{asks}", (b, len(parts.text))]


def _instructions_twice(parts: Parts) -> Sequence[Piece] | str:
    said = parts.instruction
    words = " ".join(parts.says(span) for span in said)
    size = len(parts.text)
    if not said:  # of a chat, where the system message alone says how to answer
        return [(0, size), f"{_GAP}{parts.system}"] if parts.system else _NO_INSTRUCTION
    if any(parts.text.count(parts.says(span)) > 1 for span in said):
        return "it gives its instructions twice already"
    start = parts.context[0] if parts.context else min(a for a, _ in parts.asked)
    if said[0][0] >= start and said[0][0] > 0:
        return [f"{words}{_GAP}", (0, size)]
    return [(0, size), f"{_GAP}{words}"]


def _ordered(order: Callable[[list[float]], list[int]]) -> Callable[[Parts], Any]:
    def pieces(parts: Parts) -> Sequence[Piece] | str:
        scores = parts.likeness(parts.passages)
        if not any(scores):
            return "no word of the question stands in its context"
        chosen = [parts.passages[i] for i in order(scores)]
        gaps = [(one[1], two[0]) for one, two in pairwise(parts.passages)]
        first, last = parts.passages[0], parts.passages[-1]
        inner = [piece for pair in zip(chosen, gaps, strict=False) for piece in pair]
        return [(0, first[0]), *inner, chosen[-1], (last[1], len(parts.text))]

    return pieces


def _only(parts: Parts) -> Sequence[Piece] | str:
    scores = parts.likeness(parts.passages)
    if not any(scores):
        return "no word of the question stands in its context"
    likest = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    kept = sorted(likest[: -(-len(scores) // KEPT)])
    inner: list[Piece] = [parts.passages[kept[0]]]
    for i in kept[1:]:
        inner += [(parts.passages[i - 1][1], parts.passages[i][0]), parts.passages[i]]
    first, last = parts.passages[0], parts.passages[-1]
    return [(0, first[0]), *inner, (last[1], len(parts.text))]


def _closest(scores: list[float]) -> int:
    return max(range(len(scores)), key=lambda i: (scores[i], -i))


def _closest_last(scores: list[float]) -> list[int]:
    best = _closest(scores)
    return [i for i in range(len(scores)) if i != best] + [best]


def _closest_first(scores: list[float]) -> list[int]:
    best = _closest(scores)
    return [best] + [i for i in range(len(scores)) if i != best]


def _by_similarity(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (scores[i], -i))


# ------------------------------------------------------------------------------ marks that follow


def _rebuilt(parts: Parts, pieces: Sequence[Piece]) -> Item:
    """The item with its text put together anew, and its marks where their pieces went."""
    item, text, at = parts.item, "", 0
    moved: list[tuple[Span, int]] = []  # an old span, and where it begins in the new text
    for piece in pieces:
        words = piece if isinstance(piece, str) else parts.says(piece)
        if not isinstance(piece, str) and words:
            moved.append((piece, at))
        text, at = text + words, at + len(words)
    new = replace(parts, text=text)
    marks: dict[str, Any] = {}
    for name in item.marks:
        spans = _follow(marked(item, parts.text, name), moved)
        if follows := mark_of(new, spans) + _elsewhere(parts, name):
            marks[name] = follows  # a mark whose words were left out is gone
    # what was read from the old text would be read otherwise from the new one
    if parts.context:
        marks.setdefault("context", mark_of(new, _follow([parts.context], moved)))
    marks.setdefault("question", mark_of(new, _follow(parts.asked, moved)))
    if parts.message is None:
        return replace(item, content=text, marks=marks)
    content: list[Any] = list(item.content)
    content[parts.message] = {**content[parts.message], "content": text}
    return replace(item, content=content, marks=marks)


def _follow(spans: Sequence[Span], moved: Sequence[tuple[Span, int]]) -> list[Span]:
    """Where characters went; neighbours are one span again."""
    found = sorted(
        (max(a, c) - c + at, min(b, d) - c + at)
        for a, b in spans
        for (c, d), at in moved
        if max(a, c) < min(b, d)
    )
    joined: list[Span] = []
    for a, b in found:
        if joined and a <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(b, joined[-1][1]))
        else:
            joined.append((a, b))
    return joined


def _elsewhere(parts: Parts, name: str) -> list[str]:
    """A chat's marks whose words stand in its other messages."""
    if parts.message is None:
        return []
    given: Any = parts.item.marks[name]
    others = [m["content"] for i, m in enumerate(parts.item.content) if i != parts.message]  # type: ignore[index]
    words = [given] if isinstance(given, str) else [w for w in given if isinstance(w, str)]
    return [w for w in words if any(w in other for other in others)]


REWRITES: dict[str, Rewrite] = {
    one.name: one
    for one in (
        Rewrite("quote first", "to quote the evidence makes a model find it before it answers",
                "context", _quote, 48, _quoted),
        Rewrite("question twice", "who knows the question while reading knows what to look for",
                "context", _question_twice),
        Rewrite("closest passage last", "what stands next to the question is seen best",
                "passages", _ordered(_closest_last)),
        Rewrite("closest passage first", "what stands first is seen well, too",
                "passages", _ordered(_closest_first)),
        Rewrite("passages by similarity", "the likelier a passage, the nearer to the question",
                "passages", _ordered(_by_similarity)),
        Rewrite("closest passages only", "what is not there distracts nobody and costs nothing; a "
                "third of the passages stays", "passages", _only),
        Rewrite("short answer", "words that are not said take no time, and say nothing wrong",
                None, _short),
        Rewrite("instructions twice", "instructions before and after a text are kept to better",
                "instruction", _instructions_twice),
    )
}  # fmt: skip
"""The rewrites by name."""
