"""What stands on a paper's card, gathered from the catalogue, the code and the evidence."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import sys
from dataclasses import dataclass

from ..._implements import Record
from ...errors import FoveateError
from ..status import records_of
from ..store import Paper, paper
from ..verdicts import Evidence, read_evidence

__all__ = ["LABELS", "Card", "Implementation", "card", "labels"]

LABELS = {
    "faithful": "the paper or its authors' code was read, and every object here follows it",
    "reconstruction": "at least one object here rests on the abstract alone",
    "claim tested: observed": "its claim was tried here, and its direction showed",
    "claim tested: not observed": "its claim was tried here, and its direction did not show",
    "claim not tested": "it runs here, and its claim was not tried",
    "catalogue only": "nothing implements it here",
    "off topic": "it is not about attention in models",
}
"""Each label with what it says."""


@dataclass(frozen=True)
class Implementation:
    """One object that implements a paper.

    Attributes
    ----------
    name : str
        The shortest name that leads to it, such as ``"foveate.ACT"``.
    record : Record
        Where it is defined, what it rests on and how mature it is.
    summary : str
        The first line of its docstring.
    snippet : str or None
        A script that runs it, from the Examples of its docstring; None if it has none.
    """

    name: str
    record: Record
    summary: str
    snippet: str | None


@dataclass(frozen=True)
class Card:
    """One paper, and how far one can trust what runs here under its name.

    Attributes
    ----------
    paper : Paper
        Its row in the catalogue.
    labels : tuple of str
        Keys of ``LABELS``.
    implementations : tuple of Implementation
        Empty where nothing implements it yet.
    evidence : Evidence or None
        What was seen when its claim was tried.
    """

    paper: Paper
    labels: tuple[str, ...]
    implementations: tuple[Implementation, ...]
    evidence: Evidence | None

    def _repr_html_(self) -> str:
        from .html import fragment

        return fragment(self)


def card(of: str | Paper) -> Card:
    """Gather the card of one paper.

    Parameters
    ----------
    of : str or Paper
        Its slug, or its row.

    Returns
    -------
    Card

    Raises
    ------
    FoveateError
        If the catalogue has no such slug.
    """
    row = of if isinstance(of, Paper) else paper(of)
    records = records_of(row.slug)
    try:
        evidence = read_evidence(row.slug) if records else None
    except FoveateError:  # the row's note tells why it does not count
        evidence = None
    found = tuple(_implementation(record) for record in records)
    return Card(row, labels(row, evidence), found, evidence)


def labels(row: Paper, evidence: Evidence | None) -> tuple[str, ...]:
    """What may be said of a paper in two words, from code and evidence alone.

    Parameters
    ----------
    row : Paper
        Its basis is the weakest of all objects that implement it.
    evidence : Evidence or None
        Its evidence, if any counts.

    Returns
    -------
    tuple of str
        Keys of ``LABELS``: one for what it rests on, one for its claim; or one alone where
        nothing implements it.
    """
    if row.basis is None:
        return (row.status,)
    rests = "faithful" if row.basis == "paper" else "reconstruction"
    if evidence is None or evidence.verdict == "oracle only":
        return rests, "claim not tested"
    return rests, f"claim tested: {evidence.verdict}"


def _implementation(record: Record) -> Implementation:
    found: object = importlib.import_module(record.module)
    for part in record.qualname.split("."):
        found = getattr(found, part)
    doc = inspect.getdoc(found) or ""
    return Implementation(
        name=_shortest(record, found),
        record=record,
        summary=doc.partition("\n\n")[0].replace("\n", " "),
        snippet=_snippet(doc),
    )


def _shortest(record: Record, obj: object) -> str:
    """The name a user would write: ``foveate.ACT`` rather than ``foveate.methods.act.ACT``."""
    parts = record.module.split(".")
    if "." not in record.qualname:
        for n in range(1, len(parts)):
            package = ".".join(parts[:n])
            if getattr(sys.modules.get(package), record.qualname, None) is obj:
                return f"{package}.{record.qualname}"
    return record.dotted


def _snippet(doc: str) -> str | None:
    """The Examples of a docstring as a script."""
    _, _, after = doc.partition("\nExamples\n--------\n")
    examples = doctest.DocTestParser().get_examples(after)
    script = _printing("".join(example.source for example in examples))
    imports = re.match(r"(?:(?:import|from) .*\n)*", script)
    assert imports is not None  # it matches the empty text too
    return "\n".join((imports[0], script[imports.end() :])).strip() or None


def _printing(script: str) -> str:
    """A script whose last value, which an interpreter would show, is printed."""
    body = ast.parse(script).body
    last = body[-1] if body else None
    if not isinstance(last, ast.Expr) or _is_print(last.value):
        return script
    value = ast.get_source_segment(script, last)
    assert value is not None  # what was parsed has its place
    start = sum(map(len, script.splitlines(keepends=True)[: last.lineno - 1]))
    return f"{script[:start]}print({value}){script[start + len(value) :]}"


def _is_print(value: ast.expr) -> bool:
    called = value.func if isinstance(value, ast.Call) else None
    return isinstance(called, ast.Name) and called.id == "print"
