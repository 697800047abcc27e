"""Which object implements which paper: the register behind ``foveate papers``.

A method, layer or measure says where it comes from where it is defined::

    @implements("pasta", "spa-selective-prompt-anchoring", basis="paper")
    class Emphasize: ...

The catalogue computes the status of every paper from these records; nobody writes a
status by hand. This module imports nothing of foveate, so every room may use it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

__all__ = ["Basis", "Maturity", "Record", "implementations", "implements"]

Basis = Literal["paper", "abstract"]
Maturity = Literal["stable", "experimental"]

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Record:
    """One object that implements one paper.

    Attributes
    ----------
    slug : str
        The paper's name in the catalogue.
    module, qualname : str
        Where the object is defined.
    basis : {"paper", "abstract"}
        What the implementation rests on: the full text or official code, or a
        reconstruction from the abstract.
    maturity : {"stable", "experimental"}
        Whether the object is supported on every model family and tested in the shared
        matrix, or not yet.
    """

    slug: str
    module: str
    qualname: str
    basis: Basis
    maturity: Maturity

    @property
    def dotted(self) -> str:
        """The object's full name, ``module.qualname``."""
        return f"{self.module}.{self.qualname}"

    @property
    def public(self) -> bool:
        """Whether a user may name the object: no part is private or local to a function."""
        return not any(part.startswith(("_", "<")) for part in self.dotted.split("."))


# slug -> dotted name -> (record, the object itself, to tell a second object from the first)
_REGISTRY: dict[str, dict[str, tuple[Record, object]]] = {}


def implements(*slugs: str, basis: Basis, maturity: Maturity = "experimental") -> Callable[[T], T]:
    """Record that a class or function implements one or several papers.

    Parameters
    ----------
    *slugs : str
        The papers' names in the catalogue (``foveate papers`` lists them). Several
        objects may implement one paper, and one object several.
    basis : {"paper", "abstract"}
        What the implementation was checked against. There is no default: it is a claim.
    maturity : {"stable", "experimental"}
        Default ``"experimental"``.

    Returns
    -------
    callable
        A decorator that returns its object unchanged but for the attribute
        ``__implements__``, the tuple of its own records. A subclass inherits that
        attribute as it does every other, but is registered only if it is decorated too.

    Raises
    ------
    TypeError
        If a slug is no string, or the decorated object is neither class nor function.
    ValueError
        If a slug is malformed, ``basis`` or ``maturity`` is unknown, the object was
        recorded differently before, or another object of the same name was.
    """
    if not slugs:
        raise TypeError(
            'implements() needs at least one slug, as in @implements("pasta", basis="paper"); '
            "got none"
        )
    for slug in slugs:
        if not isinstance(slug, str):
            raise TypeError(
                f"implements() takes slugs as strings, got {slug!r}; "
                'write @implements("slug", basis="paper")'
            )
        if not _SLUG.fullmatch(slug):
            raise ValueError(
                f"slug {slug!r} is not of the catalogue's form: lower-case letters and digits, "
                "joined by single hyphens"
            )
    if basis not in get_args(Basis):
        raise ValueError(f"basis={basis!r} is unknown; it is one of {_or(get_args(Basis))}")
    if maturity not in get_args(Maturity):
        raise ValueError(
            f"maturity={maturity!r} is unknown; it is one of {_or(get_args(Maturity))}"
        )

    def decorate(obj: T) -> T:
        module = getattr(obj, "__module__", None)
        qualname = getattr(obj, "__qualname__", None)
        if not (callable(obj) and isinstance(module, str) and isinstance(qualname, str)):
            raise TypeError(f"implements() decorates classes and functions, got {obj!r}")
        new = [Record(slug, module, qualname, basis, maturity) for slug in dict.fromkeys(slugs)]
        for record in new:  # all are checked before any is kept
            _refuse_clash(record, obj)
        for record in new:
            _REGISTRY.setdefault(record.slug, {})[record.dotted] = (record, obj)
        # vars(), not getattr: a subclass must not list its parent's records as its own.
        own = vars(obj).get("__implements__", ())
        obj.__implements__ = (*own, *(r for r in new if r not in own))  # type: ignore[attr-defined]
        return obj

    return decorate


def implementations() -> dict[str, list[Record]]:
    """Every record made so far, by slug: only of modules that have been imported.

    Returns
    -------
    dict of str to list of Record
        A copy; slugs in alphabetical order, records in that of their definition.
    """
    return {slug: [record for record, _ in _REGISTRY[slug].values()] for slug in sorted(_REGISTRY)}


def _refuse_clash(record: Record, obj: object) -> None:
    known, first = _REGISTRY.get(record.slug, {}).get(record.dotted, (None, None))
    if known is None:
        return
    if first is obj:
        if known != record:
            raise ValueError(
                f"{record.dotted} already implements {record.slug!r} with basis={known.basis!r}, "
                f"maturity={known.maturity!r}; it cannot also be basis={record.basis!r}, "
                f"maturity={record.maturity!r}"
            )
    elif record.module != "__main__" and _lookup(record) is first:
        # A name that no longer leads to its object may be taken again: a module whose
        # first import failed half way, a function's local. So may a notebook's own names.
        raise ValueError(
            f"another object named {record.dotted} already implements {record.slug!r}; "
            "give one of the two another name"
        )


def _lookup(record: Record) -> object:
    obj: object = sys.modules.get(record.module)
    for part in record.qualname.split("."):
        obj = getattr(obj, part, None)
    return obj


def _or(values: tuple[str, ...]) -> str:
    return " or ".join(map(repr, values))
