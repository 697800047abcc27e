"""What a prompt is given, told apart: raw text, chats, batches of either; the parts of messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import FoveateError
from .text import brief

__all__ = ["ROLES", "batch", "contents_of", "is_picture", "messages_of"]

ROLES = ("system", "user", "assistant")

Message = Mapping[str, Any]


def batch(given: Any) -> list[Any]:
    """The items of the prompt: each a str or a list of messages."""
    wanted = (
        "a str, a list of messages ({'role': ..., 'content': ...}), or a list of one of these "
        "for a batch"
    )
    if isinstance(given, str):
        if not given:
            raise FoveateError("The prompt is an empty str; give it at least one token of text.")
        return [given]
    if not isinstance(given, Sequence) or isinstance(given, (bytes, bytearray)):
        raise FoveateError(f"Prompt got {type(given).__name__}, but wants {wanted}.")
    if not given:
        raise FoveateError(f"The prompt is an empty list; Prompt wants {wanted}.")
    if all(isinstance(one, Mapping) for one in given):
        return [given]
    if all(isinstance(one, str) for one in given):
        return list(given)
    if all(isinstance(one, Sequence) and not isinstance(one, (str, bytes)) for one in given):
        return list(given)
    kinds = ", ".join(sorted({type(one).__name__ for one in given}))
    raise FoveateError(f"Prompt got a list of {kinds}, but wants {wanted}.")


def messages_of(given: Any, system: str | None) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if system is not None:
        if not isinstance(system, str):
            raise FoveateError(f"system= is a str, not {type(system).__name__}.")
        if any(isinstance(one, Mapping) and one.get("role") == "system" for one in given):
            raise FoveateError("system= was given, but the chat has a system message already.")
        messages.append({"role": "system", "content": system})
    if not given:
        raise FoveateError("A chat of the prompt has no messages; give it at least one.")
    if all(isinstance(one, Mapping) and "type" in one and "role" not in one for one in given):
        sorts = ", ".join(dict.fromkeys(brief(one["type"], 40) for one in given))
        raise FoveateError(
            f"The chat is a list of parts of a message ({sorts}), not of messages; put the parts "
            "into one user message's content: [{'role': 'user', 'content': parts}]."
        )
    for number, one in enumerate(given):
        if not isinstance(one, Mapping) or "role" not in one or "content" not in one:
            raise FoveateError(
                f"Message {number} is {brief(one)}, but a message is a dict with 'role' and "
                "'content'."
            )
        if one["role"] not in ROLES:
            raise FoveateError(
                f"Message {number} has the role {brief(one['role'])}, but roles are 'system', "
                "'user' and 'assistant'."
            )
        for text in contents_of(one):
            if not isinstance(text, str):
                raise FoveateError(
                    f"Message {number} has content that is not text ({type(text).__name__}); "
                    "Prompt reads a str or a list of {'type': 'text', 'text': ...} and "
                    "{'type': 'image', 'image': picture}."
                )
        messages.append(dict(one))
    seen = any(is_picture(part) for one in messages for part in parts_of(one))
    if not seen and not any(text for one in messages for text in contents_of(one)):
        raise FoveateError(
            "Every message of the chat is empty; give it at least one token of text."
        )
    return messages


def contents_of(message: Message) -> list[Any]:
    """The texts of a message: one, or one for each of its parts that is no picture."""
    return [
        part.get("text") if isinstance(part, Mapping) else part
        for part in parts_of(message)
        if not is_picture(part)
    ]


def parts_of(message: Message) -> list[Any]:
    content = message["content"]
    whole = isinstance(content, Sequence) and not isinstance(content, str)
    return list(content) if whole else [content]


def is_picture(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "image"
