"""What an item's text holds: the evidence, where it can be read off, and another piece like it."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ...find.receiver import sentence_spans
from ...policy.parts import Parts, Span, marked
from ...tasks import Item

__all__ = ["Places", "suspicious"]

_SHORT = 100  # words: of a longer passage the sentence is the evidence, not all of it
# Answers that stand in any text for other reasons than being the answer.
_NOWORDS = {
    "yes", "no", "true", "false", "unknown", "none", "positive", "negative", "neutral",
    "not", "maybe", "the", "an", "of", "in", "to",
}  # fmt: skip
_ORDERS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b(ignore|disregard|forget|override)\b.{0,40}\b(instructions?|above|previous|prompt|"
        r"everything|earlier|told|question)\b",
        r"\b(never mind|leave)\b.{0,20}\b(request|question|instructions?)\b",
        r"\b(new|next|real|actual) (task|instructions?|question)\b",
        r"\binstructions? (have|has|are|is|were) (been )?(changed|cancelled|replaced|updated)",
        r"\b(request|task|question) (is|was|has been) (cancelled|changed|over)\b",
        r"\b(system|developers?)\b.{0,12}\b(message|note|prompt)\b|\bnote from the developers\b",
        r"\b(your|the) only (answer|reply|response)\b",
        r"\binstead,? (of that,? )?(write|say|answer|reply|print|output|respond)\b",
        r"\b(reply|respond|answer)( me| us)?( only)? (only )?with (the )?(word|phrase|text)?",
        r"\b(print|output|say|write|tell me)\b.{0,40}\b(nothing else|for me|only)\b",
        r"\b(simply|just|only) (tell me|print|output|reply|respond)\b",
        r"\b(you are|act as) (now |from now on )?(a|an|my)\b.{0,30}\b(assistant|bot|model)\b",
        r"\[/?\s*(inst|instructions?|system)\s*\]|<\|[a-z_]+\|>",
    )
)


@dataclass(frozen=True)
class Places:
    """An item, read: spans are of characters of ``text``.

    Attributes
    ----------
    item : Item
    right : bool
        Whether the model answered it rightly.
    text : str
        What the user says; of a chat the last user's message.
    units : tuple of (int, int)
        What the evidence can be one of: the passages, else the sentences of the context.
    context, asked, evidence, control, suspicious : tuple of (int, int)
        Empty where there is none. ``control`` is another unit, drawn blindly.
    located : str
        As :attr:`~foveate.advise.diagnosis.ItemDiagnosis.located`.
    """

    item: Item
    right: bool
    text: str
    units: tuple[Span, ...]
    context: tuple[Span, ...]
    asked: tuple[Span, ...]
    evidence: tuple[Span, ...] = ()
    control: tuple[Span, ...] = ()
    suspicious: tuple[Span, ...] = ()
    located: str = "nowhere"

    @classmethod
    def of(cls, item: Item, right: bool, seed: int = 0) -> Places:
        """Read an item; the evidence as given, or by the answer's words."""
        parts = Parts.of(_with_context(item))
        context: tuple[Span, ...] = () if parts.context is None else (parts.context,)
        units = parts.passages if parts.separate else parts.sentences
        if not units:  # an unmarked text: whatever stands beside the question
            asks = parts.question
            every = [s for a, b in parts.asked for s in sentence_spans(parts.text, a, b)]
            units = tuple(s for s in every if asks is None or s[1] <= asks[0] or s[0] >= asks[1])
            if not any(_answers(parts.text, item.answer, [s]) for s in units):
                units = ()
            context = units
        asked = tuple(
            part
            for span in parts.asked
            for part in _outside(span, context)
            if parts.text[slice(*part)].strip()
        )
        found = cls(item, bool(right), parts.text, tuple(units), context, asked)
        given = tuple(marked(item, parts.text, "evidence"))
        # a chat's are words, which may stand in the question too
        given = tuple(s for s in given if any(_overlap(s, hull) for hull in context)) or given
        if given:
            found = replace(found, evidence=given, located="given")
        else:
            found = found._by_text(parts)
        found = replace(found, suspicious=suspicious(item, parts.text, context))
        return found.controlled(seed)

    def _by_text(self, parts: Parts) -> Places:
        hits = _answers(self.text, self.item.answer, self.units)
        if not hits:
            return self
        best = parts.closest([self.units[i] for i in hits]) if len(hits) > 1 else 0
        unit = self.units[hits[best or 0]]
        if len(self.text[slice(*unit)].split()) > _SHORT:
            inner = sentence_spans(self.text, *unit)
            held = _answers(self.text, self.item.answer, inner)
            nearest = parts.closest([inner[i] for i in held]) if len(held) > 1 else 0
            unit = inner[held[nearest or 0]] if held else unit
        return replace(
            self, evidence=(unit,), located="text" if len(hits) == 1 else "text, several places"
        )

    def by_heads(self, unit: int, seed: int = 0) -> Places:
        """The same with this unit as the evidence, which copying heads pointed at."""
        found = replace(self, evidence=(self.units[unit],), located="heads")
        return found.controlled(seed)

    def controlled(self, seed: int) -> Places:
        """The same with another unit drawn, one that neither overlaps the evidence nor answers."""
        if not self.evidence:
            return self
        free = [
            unit
            for unit in self.units
            if all(unit[1] <= a or unit[0] >= b for a, b in self.evidence)
            and not _answers(self.text, self.item.answer, [unit])
        ]
        draw = random.Random(f"{seed} {self.item.id}")
        return replace(self, control=(draw.choice(free),) if free else ())

    @property
    def unit(self) -> int | None:
        """The number of the unit that holds most of the evidence."""
        shared = [sum(_overlap(unit, span) for span in self.evidence) for unit in self.units]
        best = max(range(len(shared)), key=lambda i: (shared[i], -i), default=None)
        return best if best is not None and shared[best] > 0 else None

    @property
    def place(self) -> float | None:
        """Where the middle of the evidence stands in the context, 0 to 1."""
        if not self.evidence or not self.context or self.unit is None:
            return None
        start, stop = min(a for a, _ in self.context), max(b for _, b in self.context)
        middle = sum(a + b for a, b in self.evidence) / (2 * len(self.evidence))
        return min(1.0, max(0.0, (middle - start) / max(1, stop - start)))

    def says(self, spans: Sequence[Span]) -> str:
        """The text of spans."""
        return " … ".join(self.text[slice(*span)] for span in spans)


def suspicious(item: Item, text: str, context: Sequence[Span]) -> tuple[Span, ...]:
    """Sentences of a context that read like instructions to a model: by their wording alone."""
    given = tuple(marked(item, text, "attack"))
    if given:
        return given
    return tuple(
        (a, b)
        for start, stop in context
        for a, b in sentence_spans(text, start, stop)
        if any(order.search(text, a, b) for order in _ORDERS)
    )


def _with_context(item: Item) -> Item:
    """Tasks of instructions call their context ``data``."""
    if "context" in item.marks or "data" not in item.marks:
        return item
    return replace(item, marks={**item.marks, "context": item.marks["data"]})


def _answers(text: str, answer: str, units: Sequence[Span]) -> list[int]:
    """The units in which the answer stands, as whole words, whatever the case."""
    words = answer.split()
    if not words or len(answer.strip()) < 2 or answer.strip().lower() in _NOWORDS:
        return []
    pattern = r"\s+".join(map(re.escape, words))
    # 12 is no answer in 12.5, nor in 1,812
    before = r"(?<!\d[.,:])" if words[0][0].isdigit() else ""
    behind = r"(?![.,:]\d)" if words[-1][-1].isdigit() else ""
    said = re.compile(rf"(?<!\w){before}{pattern}(?!\w){behind}", re.IGNORECASE)
    return [i for i, (a, b) in enumerate(units) if said.search(text[a:b])]


def _overlap(one: Span, two: Span) -> int:
    return max(0, min(one[1], two[1]) - max(one[0], two[0]))


def _outside(span: Span, holes: Sequence[Span]) -> list[Span]:
    """What is left of a span without the holes in it."""
    edges = [span[0], *(x for a, b in sorted(holes) if _overlap(span, (a, b)) for x in (a, b))]
    edges.append(span[1])
    return [(a, b) for a, b in list(pairwise(edges))[::2] if a < b]
