"""Regions by rule: which words of a question a method may speak of, without knowing the answer.

A rule's name is the name of its region: ``fv.Emphasize("closest passage", gain=5)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..errors import FoveateError
from ..tasks import Item
from .parts import Parts, Span, mark_of

__all__ = ["RULES", "Rule"]

_NO_CONTEXT = (
    "there is no context: give it as context (a text or a list of passages), or as paragraphs "
    "before the question"
)


@dataclass(frozen=True)
class Rule:
    """A region of an item, found from what is there when a model is asked.

    Attributes
    ----------
    name : str
        Of the region in the prompt.
    why : str
        What a gain on it is for.
    """

    name: str
    why: str
    _find: Callable[[Parts], Sequence[Span] | str]

    def spans(self, item: Item) -> tuple[Span, ...]:
        """Where the region stands in what the user says (:attr:`.parts.Parts.text`).

        Raises
        ------
        FoveateError
            Where the item has no such region, with the reason.
        """
        found = self._found(item)
        if isinstance(found, str):
            raise FoveateError(f"Item {item.id!r} has no region {self.name!r}: {found}.")
        return tuple(found)

    def item(self, item: Item) -> Item:
        """The item with the region marked; a mark of that name that was there is replaced.

        Raises
        ------
        FoveateError
            Where the item has no such region: ask :meth:`fits` before.
        """
        parts = Parts.of(item)
        marks = mark_of(parts, self.spans(item))
        if self.name == "instruction" and parts.system:
            marks.append(parts.system)
        return replace(item, marks={**item.marks, self.name: marks})

    def fits(self, item: Item) -> bool:
        """Whether the item has such a region."""
        return self.refusal(item) is None

    def refusal(self, item: Item) -> str | None:
        """Why an item has no such region; None if it has."""
        found = self._found(item)
        return found if isinstance(found, str) else None

    def _found(self, item: Item) -> Sequence[Span] | str:
        parts = Parts.of(item)
        found = self._find(parts)
        if isinstance(found, str) or parts.message is None:
            return found
        # regions of a chat are marked by their words, wherever these stand
        whole = "\n".join(str(m["content"]) for m in item.content)  # type: ignore[index]
        for span in found if self.name not in ("question", "instruction") else ():
            if whole.count(words := parts.says(span)) > 1:
                return f"its words {words[:40]!r} stand in the chat more than once"
        return found


def _closest_passage(parts: Parts) -> Sequence[Span] | str:
    if parts.context is None:
        return _NO_CONTEXT
    if not parts.separate:
        return "its context is one passage: see 'closest sentence'"
    return _closest(parts, parts.passages)


def _closest_sentence(parts: Parts) -> Sequence[Span] | str:
    if parts.context is None:
        return _NO_CONTEXT
    if len(parts.sentences) < 2:
        return "its context is one sentence"
    return _closest(parts, parts.sentences)


def _closest(parts: Parts, spans: Sequence[Span]) -> Sequence[Span] | str:
    if parts.question is None:
        return "nothing is asked besides the context"
    best = parts.closest(spans)
    return "no word of the question stands in its context" if best is None else [spans[best]]


def _all(parts: Parts) -> Sequence[Span] | str:
    return list(parts.passages) if parts.passages else _NO_CONTEXT


def _question(parts: Parts) -> Sequence[Span] | str:
    return [parts.question] if parts.question else "nothing is asked besides the context"


def _instruction(parts: Parts) -> Sequence[Span] | str:
    if parts.instruction or parts.system:
        return list(parts.instruction)
    return "nothing is said besides the question and its context"


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("closest passage", "the passage that shares most words with the question, rare words "
             "counting more: most likely it holds the answer", _closest_passage),
        Rule("closest sentence", "the same among the sentences of the context", _closest_sentence),
        Rule("passages", "the whole context: where a model answers out of its own head", _all),
        Rule("question", "what is asked, where a model loses it over a long context", _question),
        Rule("instruction", "how to answer, where a model does not keep to it", _instruction),
    )
}  # fmt: skip
"""The rules by the names of their regions."""
