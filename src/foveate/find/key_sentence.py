"""Which sentence of a context does a model take for the one that answers the question?"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..attach import attach
from ..engine.measures import mass
from ..errors import FoveateError
from ..methods.measure import Measure
from ..tasks._task import Item, answer, prompts, score_answers
from .receiver import sentence_spans

__all__ = ["ASK", "Reading", "asked", "attended", "likely", "nearest", "spans"]

ASK = "{context}\n\nQuote the part of this text that one needs to answer the question: {question}"
"""How the model is asked to name the key sentence."""

Span = tuple[int, int]
Encoder = Callable[[list[str]], Any]


def spans(text: str, unit: str = "sentence") -> list[Span]:
    """The pieces of a text, as spans of its characters without the white space around them.

    Parameters
    ----------
    text : str
    unit : {"sentence", "passage"}
        Sentences are those of :func:`foveate.find.receiver.sentence_spans`. Passages are lines; a
        text of one line is cut into sentences.

    Raises
    ------
    FoveateError
        For another unit.
    """
    if unit not in ("sentence", "passage"):
        raise FoveateError(f'unit={unit!r} was given; it is "sentence" or "passage".')
    lines = [(m.start(), m.end()) for m in re.finditer(r"\S[^\n]*(?<=\S)", text)]
    return lines if unit == "passage" and len(lines) > 1 else sentence_spans(text)


@dataclass(frozen=True)
class Reading:
    """An item, with where its context's pieces and its question stand in its text.

    Attributes
    ----------
    item : Item
    text : str
        What the user says: the content, or the last user message of a chat.
    pieces : tuple of (int, int)
        Spans of ``text``.
    question : (int, int)
    """

    item: Item
    text: str
    pieces: tuple[Span, ...]
    question: Span

    @classmethod
    def of(cls, item: Item, unit: str = "sentence") -> Reading:
        """Read an item.

        Its marks ``context`` and ``question`` say what is what. Without them the question is the
        last sentence with a question mark and what follows it (else the last sentence), the context
        what stands before it, or behind it when it comes first.

        Raises
        ------
        FoveateError
            When there is nothing besides the question.
        """
        text = item.content if isinstance(item.content, str) else _last_user(item)
        context, question = _marked(item, text, "context"), _marked(item, text, "question")
        if question is None:
            question = _question(text) if context is None else (context[1], len(text))
        if context is None:
            before, behind = (0, question[0]), (question[1], len(text))
            context = before if text[: question[0]].strip() else behind
        start, end = context
        pieces = tuple((start + a, start + b) for a, b in spans(text[start:end], unit))
        if not pieces:
            raise FoveateError(
                f"Item {item.id!r} has no context besides its question; mark what is what: "
                'marks={"context": …, "question": …}.'
            )
        return cls(item, text, pieces, question)

    def says(self, span: Span) -> str:
        """The text of a span."""
        return self.text[slice(*span)]

    @property
    def sentences(self) -> list[str]:
        """The texts of the pieces."""
        return [self.says(span) for span in self.pieces]

    def mark(self, **regions: Span) -> Item:
        """The item with spans of its text marked as regions."""
        whole = isinstance(self.item.content, str)
        marks = {name: span if whole else self.says(span) for name, span in regions.items()}
        return replace(self.item, marks={**self.item.marks, **marks})


def asked(
    model: nn.Module,
    tokenizer: Any,
    readings: Sequence[Reading],
    *,
    ask: str = ASK,
    encoder: Encoder | None = None,
    max_new_tokens: int = 40,
    batch_size: int = 8,
) -> list[Tensor]:
    """Ask the model for the sentence, and compare its reply with each piece.

    Parameters
    ----------
    ask : str
        With ``{context}`` and ``{question}``.
    encoder : callable, optional
        A sentence encoder: texts to vectors ``[n, d]``, compared by their cosine. Default: the
        cosine of their three-letter groups (:func:`nearest`).

    Returns
    -------
    list of Tensor
        One score a piece, ``[pieces]``, an item each.
    """
    if not ("{context}" in ask and "{question}" in ask):
        raise FoveateError(f"ask= needs {{context}} and {{question}} in it; {ask!r} was given.")
    calls = []
    for one in readings:
        context = one.text[one.pieces[0][0] : one.pieces[-1][1]]
        text = ask.replace("{question}", one.says(one.question)).replace("{context}", context)
        calls.append(Item(one.item.id, text, ""))
    said = answer(model, tokenizer, calls, batch_size=batch_size, max_new_tokens=max_new_tokens)
    return [
        nearest(reply, one.sentences, encoder) for reply, one in zip(said, readings, strict=True)
    ]


def likely(
    model: nn.Module, tokenizer: Any, readings: Sequence[Reading], *, batch_size: int = 8
) -> list[Tensor]:
    """How likely the model finds the question behind each piece alone: log-probabilities.

    One forward over every piece with the question; nothing is generated.
    """
    flat = [
        (Item(one.item.id, f"{text}\n\n", one.says(one.question), raw=True))
        for one in readings
        for text in one.sentences
    ]
    # pieces of a length share a batch: padding costs as much as text
    order = sorted(range(len(flat)), key=lambda i: len(flat[i].content) + len(flat[i].answer))
    found = score_answers(model, tokenizer, [flat[i] for i in order], batch_size=4 * batch_size)
    scores = torch.empty_like(found)
    scores[torch.tensor(order)] = found
    return list(scores.split([len(one.pieces) for one in readings]))


def attended(
    model: nn.Module,
    tokenizer: Any,
    readings: Sequence[Reading],
    *,
    heads: Any = None,
    batch_size: int = 8,
) -> list[Tensor]:
    """Attention of the question's tokens on each piece, summed over tokens, layers and heads.

    One forward over the item as it is, the masses read on its way.

    Parameters
    ----------
    heads : optional
        Which heads; those that steer well look at the right piece, the mean of all does not.
    """
    most = max(len(one.pieces) for one in readings)
    names = [f"AutoPASTA.{k}" for k in range(most)]
    items = [
        one.mark(
            **{"AutoPASTA.question": one.question}, **dict(zip(names, one.pieces, strict=False))
        )
        for one in readings
    ]
    scores: list[Tensor] = []
    for batch, prompt in prompts(items, tokenizer, batch_size):
        there = [name for name in names if name in prompt.regions]
        reads = Measure(*map(mass, there), heads=heads, phase="prefill")
        with torch.no_grad(), attach(model, reads, prompt=prompt) as run:
            model(**prompt.inputs, logits_to_keep=1)
        rows = prompt.regions["AutoPASTA.question"].cpu()
        on = torch.stack([run.results[f"mass:{n}"].prefill.nansum((0, 2)).cpu() for n in there])
        for i in range(len(batch)):
            count = len(readings[len(scores)].pieces)
            scores.append(on[:count, i, rows[i]].sum(-1))
    return scores


def nearest(reply: str, sentences: Sequence[str], encoder: Encoder | None = None) -> Tensor:
    """Likeness of a reply to each sentence, ``[n]``: the cosine of vectors, in [-1, 1].

    Without an ``encoder`` the vectors count three-letter groups, weighted by how few of the
    sentences have them: what all share tells nothing apart.
    """
    if encoder is not None:
        vectors = torch.as_tensor(encoder([reply, *sentences])).float()
        return torch.cosine_similarity(vectors[:1], vectors[1:])
    bags = [_groups(text) for text in (reply, *sentences)]
    spread = Counter(group for bag in bags[1:] for group in bag)
    n = len(sentences)
    weight = {group: math.log((n + 1) / spread[group]) for group in spread}
    order = {group: i for i, group in enumerate(weight)}
    vectors = torch.zeros(n + 1, max(len(order), 1))
    for row, bag in zip(vectors, bags, strict=True):
        for group, count in bag.items():
            if group in order:
                row[order[group]] = count * weight[group]
    return torch.cosine_similarity(vectors[:1], vectors[1:])


def _groups(text: str) -> Counter[str]:
    words = " ".join(re.findall(r"\w+", text.lower()))
    plain = f" {words} "
    return Counter(plain[i : i + 3] for i in range(len(plain) - 2))


def _last_user(item: Item) -> str:
    for message in reversed(item.content):
        if isinstance(message, dict) and message.get("role") == "user":
            return message["content"]
    raise FoveateError(f"Item {item.id!r} is a chat in which the user says nothing.")


def _marked(item: Item, text: str, name: str) -> Span | None:
    piece = item.marks.get(name)
    if isinstance(piece, list):  # the first of several
        piece = piece[0] if piece else None
    if isinstance(piece, str):  # words of the question may stand in the context too
        start = text.rfind(piece) if name == "question" else text.find(piece)
        return None if start < 0 else (start, start + len(piece))
    return piece


def _question(text: str) -> Span:
    found = spans(text)
    if not found:
        raise FoveateError("The text is empty; a context and a question were wanted.")
    asks = [i for i, (a, b) in enumerate(found) if "?" in text[a:b]]
    last = asks[-1] if asks else len(found) - 1
    first = last == 0 and len(found) > 1  # the question comes first: it is that sentence alone
    return found[last][0], found[last][1] if first else len(text)
