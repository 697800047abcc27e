"""A processor run on texts with pictures, and where each picture then stands in its text.

A processor puts many tokens, and often marks around them, in the place of each picture's
placeholder. Which characters of the text those are it does not tell in all versions. So it is run
once more with signs before and after each placeholder, and stopped where it hands the text to its
tokenizer: what stands between the signs is the picture.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import FoveateError

__all__ = ["Prepared", "prepare"]

Span = tuple[int, int]


@dataclass(frozen=True)
class Prepared:
    """What a processor made of texts with pictures.

    Attributes
    ----------
    outputs : dict
        What goes to the model; texts are padded.
    texts : list of str
        What was tokenized: placeholders are replaced by the pictures' tokens.
    places : list of list of (int, int)
        Characters of each picture in the text given (its placeholder), by item.
    spans : list of list of (int, int)
        Characters of each picture in what was tokenized, by item.
    added : bool
        Whether the tokenizer added special tokens of its own.
    """

    outputs: dict[str, Any]
    texts: list[str]
    places: list[list[Span]]
    spans: list[list[Span]]
    added: bool

    def moved(self, item: int, span: Span) -> Span:
        """Characters of the text given as characters of what was tokenized."""

        def at(position: int) -> int:
            grown = 0
            for (a, b), (c, d) in zip(self.places[item], self.spans[item], strict=True):
                if b <= position:
                    grown += (d - c) - (b - a)
            return position + grown

        return at(span[0]), at(span[1])


def prepare(
    processor: Any,
    texts: Sequence[str],
    pictures: Sequence[Sequence[Any]],
    *,
    add_special_tokens: Sequence[bool],
    padding_side: str,
) -> Prepared:
    """Run a processor on texts, each with its pictures.

    Parameters
    ----------
    processor : transformers processor
        With a tokenizer and an image processor.
    texts : sequence of str
        With the processor's placeholder for each picture.
    pictures : sequence of sequence of PIL image
        Those of each text.
    add_special_tokens : sequence of bool
        Whether the tokenizer adds its own, by text; all alike.
    padding_side : {"left", "right"}

    Raises
    ------
    FoveateError
        The texts have not as many placeholders as pictures, or the processor refuses them.
    """
    places = [_placeholders(processor, text, len(own), i)
              for i, (text, own) in enumerate(zip(texts, pictures, strict=True))]  # fmt: skip
    if len(set(add_special_tokens)) > 1:
        raise FoveateError(
            "Some texts of this batch begin with the tokenizer's own special token and others do "
            "not; pass add_special_tokens=True or False."
        )
    options = {
        "images": [list(own) for own in pictures] if len(texts) > 1 else list(pictures[0]),
        "return_tensors": "pt",
        "padding": True,
        "padding_side": padding_side,
        "add_special_tokens": add_special_tokens[0],
    }
    try:
        outputs = dict(processor(text=list(texts), **options))
        texts, spans = _heard(processor, list(texts), places, options)
    except FoveateError:
        raise
    except Exception as error:  # whatever a processor raises by itself
        raise FoveateError(
            f"{type(processor).__name__} refuses this prompt with pictures "
            f"({str(error) or type(error).__name__})."
        ) from error
    return Prepared(outputs, texts, places, spans, add_special_tokens[0])


def _placeholders(processor: Any, text: str, count: int, item: int) -> list[Span]:
    """Where a text has its pictures."""
    # Gemma's processors put one token in the place of another
    known = [getattr(processor, name, None) for name in ("image_token", "boi_token")]
    tokens = [token for token in dict.fromkeys(known) if isinstance(token, str) and token]
    if not tokens:
        raise FoveateError(
            f"{type(processor).__name__} names no token for a picture (image_token), so where the "
            "pictures stand cannot be told; run it yourself and pass "
            'regions={"image": mask} to fv.attach.'
        )
    counts = {token: text.count(token) for token in tokens}
    token = next((token for token in tokens if counts[token] == count), None)
    if token is None:
        raise FoveateError(
            f"Item {item} of the prompt has {count} picture(s), but its text "
            f"{max(counts.values())} place(s) for one ({' or '.join(map(repr, tokens))}): the chat "
            "template leaves pictures out, or a message has the token written out; change it there."
        )
    found: list[Span] = []
    for _ in range(count):
        start = text.index(token, found[-1][1] if found else 0)
        found.append((start, start + len(token)))
    return found


class _Heard(Exception):
    """The texts that a processor was about to tokenize."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__("heard")
        self.texts = texts


class _Ear:
    """Stands for a tokenizer until the text comes that bears the signs."""

    def __init__(self, tokenizer: Any, sign: str) -> None:
        self._tokenizer, self._sign = tokenizer, sign

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        texts = [text] if isinstance(text, str) else text
        if isinstance(texts, list) and any(self._sign in str(one) for one in texts):
            raise _Heard(texts)
        return self._tokenizer(text, *args, **kwargs)


def _heard(
    processor: Any, texts: list[str], places: Sequence[Sequence[Span]], options: dict[str, Any]
) -> tuple[list[str], list[list[Span]]]:
    """What the processor tokenizes, and the pictures' characters in it."""
    sign = next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in "".join(texts))
    signed = []
    for text, own in zip(texts, places, strict=True):
        for a, b in reversed(own):
            text = f"{text[:a]}{sign}{text[a:b]}{sign}{text[b:]}"
        signed.append(text)
    listener = copy.copy(processor)
    listener.tokenizer = _Ear(processor.tokenizer, sign)
    try:
        listener(text=signed, **options)
    except _Heard as heard:
        told = heard.texts
    else:
        raise FoveateError(
            f"{type(processor).__name__} does not hand its text to a tokenizer of transformers, so "
            "where the pictures stand in it cannot be told; run it yourself and pass "
            'regions={"image": mask} to fv.attach.'
        )
    clean, spans = [], []
    for text in told:
        pieces = text.split(sign)
        starts = [0]
        for piece in pieces:
            starts.append(starts[-1] + len(piece))
        clean.append("".join(pieces))
        spans.append([(starts[i], starts[i + 1]) for i in range(1, len(pieces), 2)])
    return clean, spans
