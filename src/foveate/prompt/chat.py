"""A chat as the text that its template makes, and where in it the contents of each role stand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import FoveateError
from .given import contents_of, is_picture
from .item import Span
from .text import short

__all__ = ["render"]


def render(
    owner: Any,
    tokenizer: Any,
    messages: list[dict[str, Any]],
    add_generation_prompt: bool,
    template_args: Mapping[str, Any],
    *,
    pictures: bool = False,
) -> tuple[str, dict[str, list[Span]]]:
    """The chat as text, and where in it the contents of each role stand.

    Searching for the contents would be wrong: "user" is also a header, two messages may be alike,
    and templates strip or add. Instead the same chat is rendered a second time with a placeholder
    for every content; what stands between the placeholders is the template's own text.
    """
    # where both have one, the processor's knows how a picture is written
    first, second = (owner, tokenizer) if pictures else (tokenizer, owner)
    source = first if getattr(first, "chat_template", None) else second
    if not getattr(source, "chat_template", None):
        raise FoveateError(
            "This tokenizer has no chat template, so it cannot render a list of messages; pass "
            "the text itself as a str, or set tokenizer.chat_template."
        )

    def render(chat: list[dict[str, Any]]) -> str:
        return source.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=add_generation_prompt, **template_args
        )

    try:
        text = render(messages)
    except Exception as error:  # jinja's own errors, and whatever a template raises by itself
        raise FoveateError(
            "The chat template refuses these messages "
            f"({short(str(error)) or type(error).__name__}); their roles are "
            f"{', '.join(one['role'] for one in messages)}."
        ) from error

    stem = "fvslot"
    while stem in text.lower():
        stem += "x"
    contents: list[str] = []
    roles: list[str] = []

    def emptied(message: dict[str, Any]) -> dict[str, Any]:
        """The message with a placeholder for each of its texts."""
        slots = []
        for content in contents_of(message):
            slots.append(f"{stem}{len(contents)}e")
            contents.append(content)
            roles.append(message["role"])
        parts = message["content"]
        if isinstance(parts, str):
            return {**message, "content": slots[0]}
        left = iter(slots)
        filled = [part if is_picture(part) else {**part, "text": next(left)} for part in parts]
        return {**message, "content": filled}

    hollow = [emptied(message) for message in messages]
    spans: list[tuple[int, Span]] | None = None
    default: Span | None = None
    try:
        pieces = _split(rf"{stem}(\d+)e", render(hollow))
    except Exception:
        pieces = []  # the template looks into the contents
    if pieces:
        spans = _align(text, pieces, contents)
    if spans is not None and "system" not in roles:
        default = _default_system(render, hollow, pieces[0], stem)
    if spans is None:
        spans = _search(text, contents, roles)

    found: dict[str, list[Span]] = {}
    if default is not None:
        found["system"] = [default]
    for slot, span in spans:
        found.setdefault(roles[slot], []).append(span)
    return text, found


def _split(placeholder: str, text: str) -> list[str]:
    # A template may change the letters' case, of the placeholders too.
    return re.split(placeholder, text, flags=re.IGNORECASE)


def _align(text: str, pieces: list[str], contents: list[str]) -> list[tuple[int, Span]] | None:
    """Lay the template's own text over the rendered chat: ``[(slot, span), ...]`` or None.

    ``pieces`` alternates template text and slot numbers: ``[literal, slot, literal, ...]``.
    """
    if not text.startswith(pieces[0]):
        return None
    spans, cursor = [], len(pieces[0])
    for k in range(1, len(pieces), 2):
        slot, literal, last = int(pieces[k]), pieces[k + 1], k + 2 == len(pieces)

        def fits(end: int, literal: str = literal, last: bool = last) -> bool:
            return text.startswith(literal, end) and (not last or end + len(literal) == len(text))

        content = contents[slot]
        for variant in (content, content.strip(), content.rstrip(), content.lstrip()):
            end = cursor + len(variant)
            if text.startswith(variant, cursor) and fits(end):
                break
        else:  # the template rewrote the content: it is whatever stands up to its next own text
            end = len(text) - len(literal) if last else text.find(literal, cursor)
            if not literal or end < cursor or not fits(end):
                return None
        spans.append((slot, (cursor, end)))
        cursor = end + len(literal)
    return spans


def _default_system(render: Any, hollow: list[dict[str, Any]], head: str, stem: str) -> Span | None:
    """Where the template's own system prompt stands, if it adds one.

    With a system message of ours the chat begins ``before + ours + after``; without, it begins
    with ``head``. If that is ``before + something + after``, the something is the default.
    """
    try:
        with_ours = render([{"role": "system", "content": f"{stem}se"}, *hollow])
    except Exception:
        return None  # this template knows no system messages
    pieces = _split(rf"{stem}(s|\d+)e", with_ours)
    if len(pieces) < 5 or pieces[1].lower() != "s":
        return None
    before, after = pieces[0], pieces[2]
    a, b = len(before), len(head) - len(after)
    if a < b and head.startswith(before) and head.endswith(after):
        return a, b
    return None


def _search(text: str, contents: list[str], roles: list[str]) -> list[tuple[int, Span]]:
    """The contents one after the other, for templates that cannot be rendered hollow."""
    spans, cursor = [], 0
    for slot, content in enumerate(contents):
        wanted = content.strip()
        if not wanted:
            continue
        start = text.find(wanted, cursor)
        if start < 0:
            raise FoveateError(
                f"The chat template changes the {roles[slot]} message {short(content)!r} so that "
                "its tokens cannot be told; render the chat yourself and pass it as a str with "
                "add_special_tokens=False."
            )
        cursor = start + len(wanted)
        spans.append((slot, (start, cursor)))
    return spans
