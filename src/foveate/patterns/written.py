"""Patterns as plain data: a class by its name, its parameters, and back."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ..errors import FoveateError
from ._algebra import And, Everything, Not, OnHeads, Or
from ._base import Pattern

__all__ = ["read_pattern", "write_pattern"]

_COMBINED = {kind.__name__: kind for kind in (And, Everything, Not, OnHeads, Or)}


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
