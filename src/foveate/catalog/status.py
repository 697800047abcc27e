"""The status of a paper, computed from the code and from the evidence shipped with it.

========================  =======================================================
works                     a public object implements it and valid evidence is shipped
partial                   a public object implements it, evidence is missing
off topic                 nothing implements it, and ``data/off_topic.json`` says why
                          it is not about attention
catalogue only            nothing implements it
========================  =======================================================

An installed package carries no tests, so the third thing "works" asks for, an oracle that
discriminates, is held up by the test-suite: it fails while a working row has no
``tests/rows/test_SLUG.py``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import pkgutil
from dataclasses import dataclass
from importlib import resources
from typing import TypeVar, get_args

from foveate._implements import Basis, Maturity, Record, implementations
from foveate.catalog.verdicts import evidence_path, read_evidence
from foveate.errors import FoveateError

__all__ = ["STATUSES", "Status", "import_rooms", "off_topic", "records_of", "status_of"]

STATUSES = ("works", "partial", "catalogue only", "off topic")

# Where methods live. A decorator only runs when its module is imported.
ROOMS = ("engine", "patterns", "methods", "cache", "decoding", "find", "layers", "tasks")


Word = TypeVar("Word", bound=str)


@dataclass(frozen=True)
class Status:
    """How far one paper works, and why.

    Attributes
    ----------
    status : {"works", "partial", "catalogue only", "off topic"}
    basis : {"paper", "abstract"} or None
    maturity : {"stable", "experimental"} or None
        Where several objects implement the paper, the weaker word of all, so that a row
        promises no more than each of them keeps. None where nothing implements it.
    implements : tuple of str
        Dotted names of the objects.
    evidence : str or None
        Path of the evidence file.
    note : str or None
        What a reader should know about the above.
    """

    status: str
    basis: Basis | None = None
    maturity: Maturity | None = None
    implements: tuple[str, ...] = ()
    evidence: str | None = None
    note: str | None = None


@functools.cache
def off_topic() -> dict[str, str]:
    """Why each paper that is not about attention is not, by slug."""
    text = resources.files(__package__).joinpath("data", "off_topic.json").read_text("utf-8")
    reasons: dict[str, str] = json.loads(text)
    return reasons


def status_of(slug: str, off_topic: str | None = None) -> Status:
    """Compute the status of one paper.

    Parameters
    ----------
    slug : str
        The paper's name in the catalogue.
    off_topic : str, optional
        Why the paper is not about attention, if it is not. An implementation overrules it.

    Returns
    -------
    Status
    """
    notes = list(import_rooms())
    records = records_of(slug)
    if not records:
        if off_topic:
            return Status("off topic", note=off_topic)
        return Status("catalogue only", note=" ".join(notes) or None)
    try:
        evidence = read_evidence(slug)
    except FoveateError as error:
        evidence = None
        notes.append(f"The evidence does not count: {error}.")
    return Status(
        status="works" if evidence else "partial",
        basis=_weakest([record.basis for record in records], get_args(Basis)),
        maturity=_weakest([record.maturity for record in records], get_args(Maturity)),
        implements=tuple(record.dotted for record in records),
        evidence=str(evidence_path(slug)) if evidence else None,
        note=" ".join(notes) or None,
    )


def records_of(slug: str) -> list[Record]:
    """What foveate itself ships for one paper and a user may name.

    Parameters
    ----------
    slug : str
        The paper's name in the catalogue.

    Returns
    -------
    list of Record
        In the order of their definition; empty where nothing implements the paper.
    """
    import_rooms()
    return [record for record in implementations().get(slug, []) if _counts(record)]


@functools.cache
def import_rooms() -> tuple[str, ...]:
    """Import every module that may implement a paper, once.

    Returns
    -------
    tuple of str
        A sentence for each module that could not be imported: what it implements is not
        counted, and the catalogue says so instead of failing.
    """
    failures: dict[str, str] = {}
    for room in ROOMS:
        name = f"foveate.{room}"
        if importlib.util.find_spec(name) is None:
            continue
        _import(name, failures)
        path = getattr(importlib.util.find_spec(name), "submodule_search_locations", None)
        if name in failures or path is None:
            continue
        # walk_packages imports packages itself; _import comes first and has told the failure.
        for module in pkgutil.walk_packages(path, f"{name}.", onerror=lambda _: None):
            _import(module.name, failures)
    return tuple(
        f"{name} could not be imported ({why}); what it implements is not counted."
        for name, why in failures.items()
    )


def _import(name: str, failures: dict[str, str]) -> None:
    try:
        importlib.import_module(name)
    except Exception as error:  # a missing extra shows as ImportError, OSError, RuntimeError
        failures[name] = f"{type(error).__name__}: {error}"


def _counts(record: Record) -> bool:
    # Users may decorate their own classes; the status is about what foveate itself ships.
    return record.public and record.module.startswith("foveate.")


def _weakest(values: list[Word], strongest_first: tuple[Word, ...]) -> Word:
    return max(values, key=strongest_first.index)
