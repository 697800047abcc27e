"""What a visitor typed, checked and bounded, as prompts and marks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from ..cli.common import make_prompt
from ..errors import FoveateError
from ..prompt import Prompt
from ..prompt.text import nearest

__all__ = ["CHAT", "PLAIN", "chat", "marks", "number", "read"]

MOST_CHARACTERS = 20_000
MOST_TOKENS = 1024
MOST_MARKS = 12
ALIKE = 0.6  # of difflib's ratio; below, a text is not proposed for another
CHAT, PLAIN = "chat", "plain text"

_ROLE = re.compile(r"^(system|user|assistant):[ \t]*", re.IGNORECASE | re.MULTILINE)


def read(tokenizer: Any, text: str, form: str, pieces: Sequence[tuple[str, str]] = ()) -> Prompt:
    """The prompt that was typed, with its marks.

    Parameters
    ----------
    tokenizer
    text : str
        At most 20,000 characters and 1,024 tokens.
    form : {"chat", "plain text"}
        Of a chat, lines that begin with ``system:``, ``user:`` or ``assistant:`` begin a message.
    pieces : sequence of (name, text)

    Raises
    ------
    FoveateError
        For no text or too much, and pieces that are not in it.
    """
    if not isinstance(text, str) or not text.strip():
        raise FoveateError("The prompt is empty: type what the model is to read.")
    if len(text) > MOST_CHARACTERS:
        raise FoveateError(
            f"The prompt has {len(text):,} characters; the page takes {MOST_CHARACTERS:,}. Nothing "
            "was cut off: shorten it, or use `foveate see --file`, which has no such bound."
        )
    if form not in (CHAT, PLAIN):
        raise FoveateError(f"The text is read as {CHAT!r} or as {PLAIN!r}; {form!r} was given.")
    plain = form == PLAIN or not getattr(tokenizer, "chat_template", None)
    said: Any = text if plain else chat(text)
    if not said:
        raise FoveateError("Every message of the chat is empty: type what somebody says.")
    prompt = make_prompt(tokenizer, said, plain, ())
    for name, piece in pieces:
        if piece not in prompt.text:
            raise FoveateError(_missing(piece, [text] if plain else [m["content"] for m in said]))
        prompt.mark(name, piece)
    if prompt.length > MOST_TOKENS:
        raise FoveateError(
            f"The prompt has {prompt.length:,} tokens; the page takes {MOST_TOKENS:,}. Shorten it, "
            "or use `foveate see --file`, which has no such bound."
        )
    return prompt


def chat(text: str) -> list[dict[str, str]]:
    """``system: …``, ``user: …``, ``assistant: …`` as messages; what has no role, a user says."""
    parts = _ROLE.split(text)  # text, role, text, role, text …
    said = [("user", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]
    return [
        {"role": role.lower(), "content": words.strip()} for role, words in said if words.strip()
    ]


def marks(text: str) -> list[tuple[str, str]]:
    r"""Lines of ``NAME = text`` as pairs; ``\n`` in a line is a line break.

    Raises
    ------
    FoveateError
        For a line that is none, a name given twice, and more than 12.
    """
    text = text or ""
    if len(text) > MOST_CHARACTERS:
        raise FoveateError(
            f"The marks have {len(text):,} characters; the page takes {MOST_CHARACTERS:,}."
        )
    pairs: list[tuple[str, str]] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        name, equals, piece = line.partition("=")
        name, piece = name.strip(), piece.strip().replace("\\n", "\n")
        if not equals or not name or not piece:
            raise FoveateError(
                f"The mark {_short(line)!r} is no NAME = text, such as: evidence = It was built "
                "in 1877."
            )
        if name in dict(pairs):
            raise FoveateError(f"The name {_short(name)!r} was given to two pieces; use two names.")
        pairs.append((name, piece))
    if len(pairs) > MOST_MARKS:
        raise FoveateError(f"{len(pairs)} pieces were marked; the page takes {MOST_MARKS}.")
    return pairs


def number(what: str, value: Any, low: float, high: float, whole: bool = False) -> Any:
    """A number within bounds; the page's own sliders keep them, other callers may not."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if not fits or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise FoveateError(f"{what}: {value!r} was given; {kind} from {low:g} to {high:g} is.")
    return int(value) if whole else float(value)


def _missing(piece: str, texts: Sequence[str]) -> str:
    """That a piece is not there, and what of one's own texts comes nearest, if anything does."""

    def likeness(near: str) -> float:
        return SequenceMatcher(None, near.lower(), piece[:300].lower(), autojunk=False).ratio()

    sentence = f"The piece {_short(piece)!r} does not stand in the prompt"
    around = max((nearest(text, piece) for text in texts), key=likeness)
    words = [word.span() for word in re.finditer(r"\S+", around)][:60]
    near = max(
        (around[a:b] for i, (a, _) in enumerate(words) for _, b in words[i:]),
        key=likeness,
        default="",
    )
    if likeness(near) < ALIKE:
        return f"{sentence}; select it there, or copy it letter by letter."
    return f"{sentence}; the nearest there is {_short(near)!r}."


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
