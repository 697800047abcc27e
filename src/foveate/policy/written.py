"""Methods as tables and back: a class by its name, every parameter by its own."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import is_dataclass
from functools import cache
from operator import attrgetter
from typing import Any

from torch import Tensor

from .. import decoding, methods
from ..decoding import Sampling
from ..errors import FoveateError
from ..find._model import ModelId
from ..methods._scope import Scope
from ..patterns.written import pattern_of, text_of
from .toml import plain

__all__ = ["known_methods", "read_method", "write_method"]

_SCOPE = ("layers", "heads", "phase", "stack", "steps")
# where a method keeps a parameter, if not under its own name
_ELSEWHERE = {
    "AttendAndExcite": {"subjects": "regions"},
    "AttendTo": {"queries": "where"},
    "Ablate": {"queries": "where"},
    "Hide": {"queries": "where"},
    "HyperAttention": {n: f"how.{n}" for n in ("block", "samples", "projections", "least")},
    "SetActivations": {"layer": "scope.layers"},
    "Shift": {"queries": "where"},
}
_NAMED = ("segments",)  # mappings of tensors by name; others are by layer
_ONLY_LOOK = ("Capture", "KeepResidual", "Measure")


@cache
def known_methods() -> dict[str, type]:
    """The public classes that are methods, or that generate by themselves, by name."""
    found: dict[str, type] = {}
    for room in (methods, decoding):
        for info in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            if any(part.startswith("_") for part in info.name.split(".")):
                continue
            module = importlib.import_module(info.name)
            for name in getattr(module, "__all__", ()):
                one = getattr(module, name)
                ways = ("rewrite", "generate")
                if isinstance(one, type) and any(callable(getattr(one, w, None)) for w in ways):
                    found[name] = one
    return dict(sorted(found.items()))


def write_method(
    method: Any, tensors: MutableMapping[str, Tensor] | None = None, place: str = "0"
) -> dict[str, Any]:
    """A method as a table: ``{"name": "Emphasize", "region": "question", "gain": 5.0}``.

    Every parameter is written, also where it is the default, which another version may change;
    what is None is left out, or named in ``none`` where the default is not None.

    Parameters
    ----------
    method : a method or an object that generates
    tensors : mutable mapping of str to Tensor, optional
        Where its tensors are put, under names that begin with ``place``.
    place : str

    Raises
    ------
    FoveateError
        For a method of one's own, one that only looks, and one that holds what is no plain data.
    """
    kind, kept = type(method), {} if tensors is None else tensors
    name = kind.__name__
    if name in _ONLY_LOOK:
        raise FoveateError(f"{method!r} only looks: a policy holds what changes something.")
    if known_methods().get(name) is not kind:
        raise FoveateError(
            f"{method!r:.200} is none of foveate's methods, so a file cannot name it: keep it in "
            "Python and attach it beside the policy."
        )
    table: dict[str, Any] = {"name": name}
    none: list[str] = []
    for one, default in _parameters(kind).items():
        value = _held(method, name, one)
        if value is None:
            none += [one] if default is not None else []
        else:
            table[one] = _written(one, value, name, kept, f"{place}.{one}")
    return {**table, "none": none} if none else table


def read_method(table: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> Any:
    """The method that :func:`write_method` wrote.

    Raises
    ------
    FoveateError
        For a name that is no method, parameters it does not take, and what it refuses.
    """
    given = dict(table) if isinstance(table, Mapping) else {}
    name = given.pop("name", None)
    if not isinstance(name, str):
        raise FoveateError('a [[method]] has no name; it begins with one: name = "Emphasize"')
    if name not in known_methods() or name in _ONLY_LOOK:
        there = ", ".join(one for one in known_methods() if one not in _ONLY_LOOK)
        raise FoveateError(f"there is no method {name!r} in this version; there are {there}")
    kind = known_methods()[name]
    takes = _parameters(kind)
    none = given.pop("none", [])
    if not isinstance(none, list) or not all(isinstance(one, str) for one in none):
        raise FoveateError(f'{name} has none = {none!r:.40}; names were wanted: none = ["every"]')
    nothing = dict.fromkeys(none)
    unknown = [one for one in (*given, *nothing) if one not in takes]
    missing = [one for one, default in takes.items() if default is _NEEDED and one not in given]
    if unknown or missing:
        what = f"does not take {', '.join(unknown)}" if unknown else f"wants {', '.join(missing)}"
        raise FoveateError(f"{name} {what}; it takes {', '.join(takes)}")
    values = {one: _read(one, value, name, tensors or {}) for one, value in given.items()}
    try:
        return kind(**{**values, **nothing})
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError,
            RuntimeError) as error:  # fmt: skip
        raise FoveateError(f"{name} does not take {given!r:.200}: {error}") from None


_NEEDED: Any = inspect.Parameter.empty


def _parameters(kind: type) -> dict[str, Any]:
    """The parameters of a class and their defaults, those of its scope included."""
    found: dict[str, Any] = {}
    for one in inspect.signature(kind).parameters.values():
        if one.kind is one.VAR_KEYWORD:
            found |= dict.fromkeys((n for n in _SCOPE if n not in found), None)
        elif one.kind is not one.VAR_POSITIONAL:
            found[one.name] = one.default
    return found


def _held(method: Any, kind: str, one: str) -> Any:
    if one == "heads" and not hasattr(method, "scope"):
        return None if method.heads is None else Scope.of(heads=method.heads).heads
    if one in _SCOPE and hasattr(method, "scope"):
        return getattr(method.scope, one)
    return attrgetter(_ELSEWHERE.get(kind, {}).get(one, one))(method)


def _written(one: str, value: Any, of: str, kept: MutableMapping[str, Tensor], place: str) -> Any:
    if one in _WRITE:
        return _WRITE[one](value)
    if isinstance(value, Tensor):
        if one in ("gain", "gamma") and not value.requires_grad:
            return value.tolist()
        kept[place] = value.detach().cpu().contiguous()
        return {"tensors": place}
    if isinstance(value, Mapping) and any(isinstance(t, Tensor) for t in value.values()):
        if one in ("gain", "gamma"):
            return {str(n): t.tolist() if isinstance(t, Tensor) else t for n, t in value.items()}
        for layer, t in value.items():
            kept[f"{place}.{layer}"] = t.detach().cpu().contiguous()
        return {"tensors": place}
    if is_dataclass(value):  # it may be more than its fields
        raise FoveateError(
            f"{of}({one}=…) holds a {type(value).__name__}, which is no plain data: keep it in "
            "Python and attach it beside the policy."
        )
    return plain(value, f"{of}({one}=…)")


def _read(one: str, value: Any, of: str, tensors: Mapping[str, Tensor]) -> Any:
    try:
        if one in _READ:
            return _READ[one](value)
        if isinstance(value, Mapping) and "tensors" in value:
            place = value["tensors"]
            if place in tensors:
                return tensors[place]
            begin = f"{place}."
            key = str if one in _NAMED else int
            found = {key(n[len(begin) :]): t for n, t in tensors.items() if n.startswith(begin)}
            if not found:
                raise FoveateError(f"there are no tensors {place!r} beside the file")
            return found
        if isinstance(value, Mapping):
            return {int(key): item for key, item in value.items()}
        return value
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise FoveateError(f"{of}({one}=…) was not understood: {error}") from None


def _choices(value: Any) -> list[dict[str, Any]]:
    return [{"pattern": text_of(p), "heads": plain(w, "Tuned")} for p, w in value]


def _found(value: Mapping[str, Any]) -> dict[str, Any]:
    """Of what the tuner found, what fits a line each: its figures stay in its own file."""
    fine = {k: v for k, v in value.items() if isinstance(v, bool | int | float | str)}
    return plain(fine, "Tuned")


_WRITE: dict[str, Callable[[Any], Any]] = {
    "pattern": text_of,
    "sampling": vars,
    "model": lambda value: {"class": "ModelId", **vars(value)},
    "choices": _choices,
    "found": _found,
    "entries": lambda value: [[*key, number] for key, number in value.items()],
    "layer": lambda value: value[0],
    "thresholds": lambda value: [[at, least] for at, least in value.items()],
}
_READ: dict[str, Callable[[Any], Any]] = {
    "pattern": pattern_of,
    "sampling": lambda value: Sampling(**value),
    "model": lambda value: ModelId(**{k: v for k, v in value.items() if k != "class"}),
    "choices": lambda value: [
        (pattern_of(one["pattern"]), {int(k): v for k, v in one["heads"].items()}) for one in value
    ],
    "found": dict,
    "entries": lambda value: {(int(a), int(b)): number for a, b, number in value},
    "thresholds": lambda value: {float(at): least for at, least in value},
}
