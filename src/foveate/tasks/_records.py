"""One line of a file of questions as an item with its regions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from ..errors import FoveateError
from ._task import Item
from .replies import Check, check_of

FIELDS = ("id", "prompt", "messages", "context", "evidence", "answer", "check", "choices")
_BETWEEN = "\n\n"


def item_of(number: int, row: Any, check: str | None) -> tuple[Item, Check]:
    """The question of a line, and how its reply is checked; see :class:`.questions.Questions`."""
    if not isinstance(row, Mapping):
        raise FoveateError(f"an object with prompt and answer was wanted, not {type(row).__name__}")
    _one_way(row)
    if "answer" not in row:
        has = ", ".join(map(str, row))
        raise FoveateError(f"there is no answer; the line has {has}{_meant(row, 'answer')}")
    choices = row.get("choices")
    how = check_of(row.get("check") or ("choices" if choices else check) or "contains",
                   row["answer"], choices, dict(row))  # fmt: skip
    wrong = tuple(c for c in choices or () if c != row["answer"])
    return replace(question_of(number, row), wrong=wrong), how


def question_of(number: int, row: Mapping[str, Any]) -> Item:
    """The same where nobody will check the reply: an answer may be missing."""
    _one_way(row)
    passages = _passages(row.get("context"))
    context = _BETWEEN.join(passages)
    evidence = _evidence(row.get("evidence"), passages, row)
    info = {"line": number, **{k: v for k, v in row.items() if k not in FIELDS}}
    answer = row.get("answer", "")
    answer = answer if isinstance(answer, str) else json.dumps(answer)
    known: dict[str, Any] = {"id": str(row.get("id", number)), "answer": answer, "info": info}
    if "messages" in row:
        said = _messages(row["messages"], context)
        marks: dict[str, Any] = {"context": context} if context else {}
        if evidence:
            marks["evidence"] = [passages[i][a:b] for i, a, b in evidence]
        return Item(content=said, marks=marks, **known)
    prompt = row["prompt"]
    if not isinstance(prompt, str) or not prompt.strip():
        raise FoveateError(f"prompt={prompt!r}: a text was wanted")
    text, start = _placed(prompt, context)
    return Item(content=text, marks=_spans(prompt, text, start, passages, evidence), **known)


def _one_way(row: Mapping[str, Any]) -> None:
    if ("prompt" in row) == ("messages" in row):
        has = ", ".join(map(str, row)) or "nothing"
        meant = "" if "prompt" in row else _meant(row, "prompt") or _meant(row, "messages")
        raise FoveateError(f"one of prompt and messages was wanted; there is {has}{meant}")


def _meant(row: Mapping[str, Any], field: str) -> str:
    """A hint where a field's name is misspelt."""
    near = get_close_matches(field, [str(key) for key in row if key not in FIELDS], 1)
    return f" (did you mean {field}, not {near[0]}?)" if near else ""


def _placed(prompt: str, context: str) -> tuple[str, int]:
    """The whole text, and where the context begins in it."""
    if not context:
        return prompt, 0
    if "{context}" in prompt:
        return prompt.replace("{context}", context, 1), prompt.index("{context}")
    return f"{context}{_BETWEEN}{prompt}", 0


def _spans(
    prompt: str,
    text: str,
    start: int,
    passages: Sequence[str],
    evidence: Sequence[tuple[int, int, int]],
) -> dict[str, Any]:
    if not passages:
        return {"question": (0, len(text))}
    at, starts = start, []
    for passage in passages:
        starts.append(at)
        at += len(passage) + len(_BETWEEN)
    stop = at - len(_BETWEEN)
    marks: dict[str, Any] = {"context": (start, stop)}
    for i, (first, passage) in enumerate(zip(starts, passages, strict=True)):
        marks[f"passage {i}"] = (first, first + len(passage))
    if evidence:
        marks["evidence"] = [(starts[i] + a, starts[i] + b) for i, a, b in evidence]
    around = [(0, start), (stop, len(text))]
    marks["question"] = [(a, b) for a, b in around if text[a:b].strip()]
    return marks


def _passages(given: Any) -> list[str]:
    if given is None or given == "":
        return []
    passages = [given] if isinstance(given, str) else given
    if not isinstance(passages, list) or not all(
        isinstance(p, str) and p.strip() for p in passages
    ):
        raise FoveateError(f"context={given!r}: a text or a list of texts was wanted")
    return passages


def _evidence(
    given: Any, passages: Sequence[str], row: Mapping[str, Any]
) -> list[tuple[int, int, int]]:
    """Where the evidence stands: (passage, first character, one past the last)."""
    if given is None or given == "":
        return []
    if not passages:
        raise FoveateError("there is evidence and no context: evidence is a piece of the context")
    found = []
    for piece in given if isinstance(given, list) else [given]:
        if isinstance(piece, int) and not isinstance(piece, bool):
            if not 0 <= piece < len(passages):
                raise FoveateError(
                    f"evidence={piece}: the number of a passage was wanted, 0 to "
                    f"{len(passages) - 1}"
                )
            found.append((piece, 0, len(passages[piece])))
            continue
        if not isinstance(piece, str) or not piece:
            raise FoveateError(f"evidence={piece!r}: a piece of the context was wanted")
        here = [(i, p.index(piece)) for i, p in enumerate(passages) if piece in p]
        if not here:
            raise FoveateError(f"the evidence {piece[:60]!r} stands nowhere in the context")
        i, a = here[0]
        found.append((i, a, a + len(piece)))
    return found


def _messages(given: Any, context: str) -> list[dict[str, str]]:
    fine = isinstance(given, list) and given and all(
        isinstance(m, Mapping) and isinstance(m.get("role"), str)
        and isinstance(m.get("content"), str) for m in given
    )  # fmt: skip
    if not fine:
        raise FoveateError('messages: a list of {"role": …, "content": …} was wanted')
    messages = [{"role": m["role"], "content": m["content"]} for m in given]
    if messages[-1]["role"] == "assistant":
        raise FoveateError("messages end with the assistant's: the question was wanted last")
    if context:
        asked = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=None)
        if asked is None:
            raise FoveateError("messages hold no user's message for the context to stand in")
        messages[asked]["content"] = _placed(messages[asked]["content"], context)[0]
    return messages
