"""What is what in a question that someone asks: its context, passages, question, instructions.

An item's marks say it where there are such (``context``, ``passage 0`` …, ``question``); the rest
is read from the text, from what is there when a model is asked: never from where the answer is.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ..errors import FoveateError
from ..find.receiver import sentence_spans
from ..tasks import Item

__all__ = ["Parts", "Span", "likeness", "marked", "mark_of"]

Span = tuple[int, int]
Cut = Literal["given", "paragraphs", "lines", "sentences"]

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+")  # scripts without blanks: a sign is a word
_BLOCK = re.compile(r"\S(?:(?!\n\s*\n).)*(?<=\S)", re.DOTALL)
_LINE = re.compile(r"\S[^\n]*(?<=\S)")
_FACTOR = 2  # unmarked text before a question is taken for its context if that much longer
_WRAPPED = 0.2  # share of lines that begin in lower case: then lines are no units


@dataclass(frozen=True)
class Parts:
    """An item, read: all spans are of characters of :attr:`text`.

    Attributes
    ----------
    item : Item
    text : str
        What the user says: the content, or the last user's message of a chat.
    message : int or None
        Which message that is; None where the content is a text.
    context : (int, int) or None
        From the first passage to the end of the last. Where no mark says, it is the paragraphs
        beside the one that asks, if they are at least twice as long.
    passages : tuple of (int, int)
        The passages as given, else the context's paragraphs, else its lines, else its sentences.
    cut : "given", "paragraphs", "lines" or "sentences", or None
        Which of these it was.
    asked : tuple of (int, int)
        What is said besides the context.
    """

    item: Item
    text: str
    message: int | None
    context: Span | None
    passages: tuple[Span, ...]
    cut: Cut | None
    asked: tuple[Span, ...]

    @classmethod
    def of(cls, item: Item) -> Parts:
        """Read an item.

        Raises
        ------
        FoveateError
            A chat in which the user says nothing.
        """
        message = None if isinstance(item.content, str) else _last_user(item)
        text = str(item.content) if message is None else item.content[message]["content"]  # type: ignore[index]
        context = _hull(marked(item, text, "context")) or _hull(_numbered(item, text))
        said = marked(item, text, "question") or [(0, len(text))]
        if context is None:
            context = _guessed(text, said)
        passages, cut = _passages(item, text, context)
        asked = [part for span in said for part in _without(span, context)]
        asked = asked or _without((0, len(text)), context)
        if message is not None and len(asked) > 1 and len({text[a:b] for a, b in asked}) == 1:
            asked = asked[-1:]  # words of a chat mark a copy too
        stripped = [span for part in asked if (span := _stripped(text, part)) is not None]
        return cls(item, text, message, context, tuple(passages), cut, tuple(stripped))

    def says(self, span: Span) -> str:
        """The text of a span."""
        return self.text[slice(*span)]

    @cached_property
    def question(self) -> Span | None:
        """The sentences with question marks, or all that is said last where there are none."""
        for a, b in reversed(self.asked):
            asks = [s for s in sentence_spans(self.text, a, b) if "?" in self.text[slice(*s)]]
            if asks:
                return asks[0][0], asks[-1][1]
        return self.asked[-1] if self.asked else None

    @cached_property
    def instruction(self) -> tuple[Span, ...]:
        """Sentences that are said besides the question: how to answer. A copy of it is none."""
        if self.question is None:
            return ()
        asks = self.says(self.question)
        left = [p for span in self.asked for p in _without(span, self.question)]
        found = [s for a, b in left for s in sentence_spans(self.text, a, b)]
        said = [(s, self.says(s)) for s in found]
        return tuple(s for s, words in said if _instructs(words) and words not in asks)

    @cached_property
    def sentences(self) -> tuple[Span, ...]:
        """The sentences of the passages."""
        return tuple(s for a, b in self.passages for s in sentence_spans(self.text, a, b))

    @property
    def separate(self) -> bool:
        """Whether the passages stand for themselves: several, and no sentences of one text."""
        return len(self.passages) > 1 and self.cut != "sentences"

    @property
    def system(self) -> str | None:
        """The chat's system message."""
        if isinstance(self.item.content, str):
            return None
        said = [m["content"] for m in self.item.content if m["role"] == "system"]
        return said[0] if said and said[0].strip() else None

    def likeness(self, spans: Sequence[Span]) -> list[float]:
        """How much each of the spans has in common with the question; see :func:`likeness`."""
        asks = self.says(self.question) if self.question else ""
        return likeness(asks, [self.says(span) for span in spans])

    def closest(self, spans: Sequence[Span]) -> int | None:
        """Which of the spans is likest the question: the first at a tie, None if none is."""
        scores = self.likeness(spans)
        best = max(range(len(scores)), key=lambda i: (scores[i], -i), default=None)
        return best if best is not None and scores[best] > 0 else None


def likeness(question: str, pieces: Sequence[str]) -> list[float]:
    """Words that each piece shares with a question, weighted by how few of the pieces have them.

    BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009, equation 3.15;
    ``k1 = 1.2``, ``b = 0.75``) over words in lower case; a plural's s is left off.

    Returns
    -------
    list of float
        One a piece, 0 where no word is shared.
    """
    bags = [Counter(_words(piece)) for piece in pieces]
    wanted = sorted(set(_words(question)))
    n, mean = len(bags), sum(sum(bag.values()) for bag in bags) / max(len(bags), 1)
    have = {word: sum(word in bag for bag in bags) for word in wanted}
    scores = []
    for bag in bags:
        long = 1.2 * (0.25 + 0.75 * sum(bag.values()) / max(mean, 1))
        score = 0.0
        for word in wanted:
            if bag[word]:
                rare = math.log1p((n - have[word] + 0.5) / (have[word] + 0.5))
                score += rare * bag[word] * 2.2 / (bag[word] + long)
        scores.append(score)
    return scores


def marked(item: Item, text: str, name: str) -> list[Span]:
    """Where a mark of an item stands in a text: words by each of their occurrences."""
    found: list[Span] = []
    given: Any = item.marks.get(name, ())
    for piece in given if isinstance(given, list) else [given] if given else []:
        if isinstance(piece, str):
            found += _occurrences(text, piece)
        elif isinstance(item.content, str):
            found.append((piece[0], piece[1]))
    return found


def mark_of(parts: Parts, spans: Sequence[Span]) -> list[Any]:
    """Spans as a mark of the item: a text's as they are, a chat's by their words."""
    return list(spans) if parts.message is None else [parts.says(span) for span in spans]


def _words(text: str) -> list[str]:
    found = _WORD.findall(text.lower())
    return [w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in found]


def _occurrences(text: str, words: str, step: int | None = None) -> Iterator[Span]:
    """Each place of some words; with ``step=1`` those that overlap, too."""
    at = text.find(words) if words else -1
    while at >= 0:
        yield at, at + len(words)
        at = text.find(words, at + (step or len(words)))


def _last_user(item: Item) -> int:
    for number in range(len(item.content) - 1, -1, -1):
        if item.content[number]["role"] == "user":  # type: ignore[index]
            return number
    raise FoveateError(f"Item {item.id!r} is a chat in which the user says nothing.")


def _hull(spans: Sequence[Span]) -> Span | None:
    return (min(a for a, _ in spans), max(b for _, b in spans)) if spans else None


def _numbered(item: Item, text: str) -> list[Span]:
    names = sorted(
        (m for m in item.marks if re.fullmatch(r"passage \d+", m)), key=lambda m: int(m.split()[1])
    )
    return sorted(span for name in names for span in marked(item, text, name))


def _guessed(text: str, said: Sequence[Span]) -> Span | None:
    """The paragraphs beside the first or last one that asks, where all of it is the question."""
    whole = [s for s in said if _stripped(text, s) == _stripped(text, (0, len(text)))]
    blocks = [m.span() for m in _BLOCK.finditer(text)]
    if not whole or len(blocks) < 2:
        return None
    if "?" in text[slice(*blocks[-1])]:
        context, asks = (blocks[0][0], blocks[-2][1]), blocks[-1]
    elif "?" in text[slice(*blocks[0])]:
        context, asks = (blocks[1][0], blocks[-1][1]), blocks[0]
    else:
        return None
    return context if context[1] - context[0] >= _FACTOR * (asks[1] - asks[0]) else None


def _passages(item: Item, text: str, context: Span | None) -> tuple[list[Span], Cut | None]:
    if context is None:
        return [], None
    for given in (_numbered(item, text), _listed(item, text, context)):
        if len(given) > 1:
            return given, "given"
    a, b = context
    blocks = [m.span() for m in _BLOCK.finditer(text, a, b)]
    if len(blocks) > 1:
        return blocks, "paragraphs"
    lines = [m.span() for m in _LINE.finditer(text, a, b)]
    wrapped = sum(text[start].islower() for start, _ in lines) > _WRAPPED * len(lines)
    if len(lines) > 1 and not wrapped:
        return lines, "lines"
    found = sentence_spans(text, a, b)
    return (found, "sentences") if found else ([], None)


def _listed(item: Item, text: str, context: Span) -> list[Span]:
    """The passages that the item lists by their texts, where all stand in the context."""
    given = item.info.get("passages")
    if not isinstance(given, list | tuple) or not all(isinstance(p, str) and p for p in given):
        return []
    # one may hold another's words: the longest choose first
    named = sorted(given, key=lambda one: (-len(one), one))
    places = [
        [s for s in _occurrences(text, passage, 1) if context[0] <= s[0] and s[1] <= context[1]]
        for passage in named
    ]
    return sorted(_apart(named, places, ()) or ()) if all(places) else []


def _apart(
    named: Sequence[str], places: Sequence[Sequence[Span]], taken: tuple[Span, ...]
) -> tuple[Span, ...] | None:
    """One place for each passage so that no two overlap; passages alike stand in their order."""
    n = len(taken)
    if n == len(named):
        return taken
    after = taken[-1][1] if n and named[n] == named[n - 1] else 0
    for a, b in places[n]:
        if a >= after and all(b <= c or d <= a for c, d in taken):
            found = _apart(named, places, (*taken, (a, b)))
            if found is not None:
                return found
    return None


def _without(span: Span, hole: Span | None) -> list[Span]:
    if hole is None:
        return [span]
    (a, b), (c, d) = span, hole
    return [(x, y) for x, y in ((a, min(b, c)), (max(a, d), b)) if x < y]


def _stripped(text: str, span: Span) -> Span | None:
    inner = text[slice(*span)].strip()
    if not re.search(r"\w", inner):
        return None
    start = text.index(inner, span[0])
    return start, start + len(inner)


def _instructs(sentence: str) -> bool:
    return not sentence.endswith((":", "?")) and len(_words(sentence)) > 1
