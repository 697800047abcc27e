"""Patterns as plain data or as a text: a class by its name, its parameters, and back."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ..errors import FoveateError
from ._algebra import And, Everything, Not, OnHeads, Or
from ._base import Pattern

__all__ = ["pattern_of", "read_pattern", "text_of", "write_pattern"]

_COMBINED = {kind.__name__: kind for kind in (And, Everything, Not, OnHeads, Or)}
_SIGNS = {"And": "&", "Or": "|"}
_LONGEST = 4000  # characters; the parser of a longer one could be made to recurse too deeply


def write_pattern(pattern: Pattern) -> dict[str, Any]:
    """A pattern as JSON holds it: ``{"class": "SlidingWindow", "window": 256, …}``.

    Raises
    ------
    FoveateError
        For a pattern of another class than those of :mod:`foveate.patterns` and what ``&``, ``|``
        and ``~`` make of them, and for parameters that are no plain values.
    """
    kind = type(pattern)
    if _known().get(kind.__name__) is not kind or not is_dataclass(pattern):
        raise FoveateError(
            f"{pattern!r} cannot be written down: patterns of fv.patterns, and what & | ~ make of "
            "them, can."
        )
    data: dict[str, Any] = {"class": kind.__name__}
    for one in fields(pattern):
        if one.init and one.compare:
            data[one.name] = _plain(getattr(pattern, one.name), pattern)
    return data


def read_pattern(data: Any) -> Pattern:
    """The pattern that :func:`write_pattern` wrote.

    Raises
    ------
    FoveateError
        For what names no pattern, or parameters that its class does not take.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("class"), str):
        raise FoveateError(
            f'{data!r:.80} names no pattern; {{"class": "SlidingWindow", "window": 256}} does.'
        )
    known, name = _known(), data["class"]
    if name not in known:
        raise FoveateError(
            f"There is no pattern {name!r} in this version; there are {', '.join(sorted(known))}."
        )
    given = {
        key: read_pattern(value) if isinstance(value, Mapping) else _tuples(value)
        for key, value in data.items()
        if key != "class"
    }
    try:
        return known[name](**given)
    except TypeError as error:
        raise FoveateError(f"{name} does not take {given!r:.200}: {error}.") from None


def text_of(pattern: Pattern) -> str:
    """A pattern as one writes it: ``SlidingWindow(window=256, sinks=4) & ~Strided(stride=8)``.

    Raises
    ------
    FoveateError
        As :func:`write_pattern`; for one that is longer than what :func:`pattern_of` reads.
    """
    text = _said(write_pattern(pattern), outermost=True)
    if len(text) > _LONGEST:
        raise FoveateError(
            f"{text:.80} … has {len(text):,} characters as a text; up to {_LONGEST:,} are read."
        )
    return text


def _said(data: Any, outermost: bool = False) -> str:
    if not isinstance(data, dict):
        return repr(data)
    name = data["class"]
    given = {key: value for key, value in data.items() if key != "class" and value is not None}
    if name == "Not":
        return f"~{_said(given['of'])}"
    if name in _SIGNS:
        both = f"{_said(given['left'])} {_SIGNS[name]} {_said(given['right'])}"
        return both if outermost else f"({both})"
    return f"{name}({', '.join(f'{key}={_said(value)}' for key, value in given.items())})"


def pattern_of(text: str) -> Pattern:
    """The pattern that a text says: names, numbers, ``&``, ``|``, ``~`` and brackets.

    Nothing is run: the text is parsed, and its names are looked up.

    Raises
    ------
    FoveateError
        For what is no such text, and as :func:`read_pattern`.
    """
    try:
        if len(text) > _LONGEST:
            raise ValueError("it is too long")
        return _meant(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        why = getattr(error, "msg", error)
        raise FoveateError(
            f"{text!r:.200} is no pattern ({why}); something such as "
            "'SlidingWindow(256, sinks=4) | ~Strided(8)' was wanted."
        ) from None


def _meant(node: ast.expr) -> Pattern:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
        left, right = _meant(node.left), _meant(node.right)
        return left & right if isinstance(node.op, ast.BitAnd) else left | right
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return ~_meant(node.operand)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError(f"{ast.unparse(node)!r} names no pattern with its parameters in brackets")
    known, name = _known(), node.func.id
    if name not in known:
        raise FoveateError(
            f"There is no pattern {name!r} in this version; there are {', '.join(sorted(known))}."
        )
    takes = [one.name for one in fields(known[name]) if one.init]  # type: ignore[arg-type]
    values = [_value(one) for one in node.args]
    if len(values) > len(takes) or any(one.arg is None for one in node.keywords):
        raise ValueError(f"{name} takes {', '.join(takes)}")
    named = {str(one.arg): _value(one.value) for one in node.keywords}
    return read_pattern({"class": name, **dict(zip(takes, values, strict=False)), **named})


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call | ast.BinOp) or (
        isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert)
    ):
        return _meant(node)
    return ast.literal_eval(node)


def _known() -> dict[str, type[Pattern]]:
    room = importlib.import_module(__package__ or "")
    public = {name: getattr(room, name) for name in room.__all__}
    kinds = {n: k for n, k in public.items() if isinstance(k, type) and issubclass(k, Pattern)}
    return {**kinds, **_COMBINED}


def _plain(value: Any, of: Pattern) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Pattern):
        return write_pattern(value)
    if isinstance(value, tuple | list):
        return [_plain(one, of) for one in value]
    raise FoveateError(f"{of!r} holds a {type(value).__name__}, which cannot be written down.")


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
