"""How to tell whether a reply is right, by name.

``contains`` (the answer stands in it as whole words, whatever the case), ``exact`` (it is the
answer, but for white space around it), ``regex`` (the answer, a pattern, is found in it),
``choices`` (it names the answer and no other choice), ``json-schema`` (it holds JSON that the
answer, a schema, accepts), or ``package.module.function`` (called with the reply and the record).
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import FoveateError
from ._task import says

__all__ = ["CHECKS", "Check", "check_of"]

Check = Callable[[str], bool]


def check_of(
    how: Any, answer: Any, choices: Any = None, record: Mapping[str, Any] | None = None
) -> Check:
    """The check of one question.

    Parameters
    ----------
    how : str
        One of :data:`CHECKS`, or the dotted path of a function ``(reply, record) -> bool``.
    answer : str or number; for ``json-schema`` a mapping
    choices : sequence of str, optional
        For ``choices``: what can be answered, the answer among it.
    record : mapping, optional
        What a function of one's own is given beside the reply.

    Raises
    ------
    FoveateError
        An unknown name, an answer that does not go with it, a function that cannot be found.
    """
    if not isinstance(how, str):
        raise FoveateError(f"check={how!r}: a name was wanted, {_names()}")
    if how in CHECKS:
        return CHECKS[how](answer, choices)
    if "." in how or ":" in how:
        return _own(how, dict(record or {}))
    raise FoveateError(f"check={how!r} is unknown; it is {_names()}")


def _names() -> str:
    return f"one of {', '.join(CHECKS)}, or the dotted path of a function"


def _text(answer: Any, how: str) -> str:
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or answer == "":
        raise FoveateError(f"answer={answer!r}: for check {how!r} a text was wanted")
    return str(answer)


def _contains(answer: Any, choices: Any) -> Check:
    wanted = _text(answer, "contains")
    return lambda reply: says(reply, wanted)


def _exact(answer: Any, choices: Any) -> Check:
    wanted = _text(answer, "exact").strip()
    return lambda reply: reply.strip() == wanted


def _regex(answer: Any, choices: Any) -> Check:
    try:
        pattern = re.compile(_text(answer, "regex"))
    except re.error as error:
        raise FoveateError(f"answer={answer!r} is no regular expression ({error})") from None
    return lambda reply: pattern.search(reply) is not None


def _choices(answer: Any, choices: Any) -> Check:
    wanted = _text(answer, "choices")
    fine = isinstance(choices, Sequence) and not isinstance(choices, str) and len(choices) > 1
    if not fine or not all(isinstance(one, str) and one for one in choices):
        raise FoveateError(f"choices={choices!r}: a list of two texts or more was wanted")
    if wanted not in choices:
        raise FoveateError(f"the answer {wanted!r} is none of the choices: {', '.join(choices)}")
    others = [one for one in choices if one != wanted]

    def named(reply: str) -> bool:
        rest = reply
        # "New York" is named where "York" is a choice too: the longest is taken first, and away
        found = set()
        for one in sorted((wanted, *others), key=len, reverse=True):
            if says(rest, one):
                found.add(one)
                rest = re.sub(rf"(?<!\w){re.escape(one)}(?!\w)", " ", rest, flags=re.IGNORECASE)
        return found == {wanted}

    return named


def _schema(answer: Any, choices: Any) -> Check:
    try:
        import jsonschema
    except ImportError:
        raise FoveateError(
            "check 'json-schema' needs the package jsonschema: pip install jsonschema"
        ) from None
    if isinstance(answer, str):
        try:
            answer = json.loads(answer)
        except json.JSONDecodeError:
            raise FoveateError("for check 'json-schema' the answer is a schema, as JSON") from None
    try:
        kind = jsonschema.validators.validator_for(answer)
        kind.check_schema(answer)
    except jsonschema.SchemaError as error:
        raise FoveateError(f"the answer is no JSON schema ({error.message})") from None
    validator = kind(answer)
    return lambda reply: any(validator.is_valid(value) for value in _json_in(reply))


def _json_in(reply: str) -> list[Any]:
    """The outermost JSON values of a reply: alone, or with words or a fence around them."""
    decoder, found, at = json.JSONDecoder(), [], 0
    try:
        return [json.loads(reply)]
    except json.JSONDecodeError:
        pass
    while (start := min((i for i in (reply.find(c, at) for c in "{[") if i >= 0), default=-1)) >= 0:
        try:
            value, at = decoder.raw_decode(reply, start)
            found.append(value)
        except json.JSONDecodeError:
            at = start + 1
    return found


def _own(path: str, record: dict[str, Any]) -> Check:
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise FoveateError(
            f"check={path!r}: no such function ({error}); write it as module.function, and run "
            "where the module can be imported"
        ) from None
    if not callable(function):
        raise FoveateError(f"check={path!r} is no function: it is {function!r}")

    def checked(reply: str) -> bool:
        found = function(reply, record)
        if not isinstance(found, bool):
            raise FoveateError(f"{path} must give True or False; it gave {found!r}.")
        return found

    return checked


CHECKS: dict[str, Callable[[Any, Any], Check]] = {
    "contains": _contains,
    "exact": _exact,
    "regex": _regex,
    "choices": _choices,
    "json-schema": _schema,
}
