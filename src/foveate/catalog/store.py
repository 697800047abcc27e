"""The list of papers: every row of the catalogue with its computed status."""

from __future__ import annotations

import difflib
import functools
import json
import sqlite3
import warnings
from collections.abc import Iterable
from typing import Any

from foveate.catalog.database import database
from foveate.catalog.listing import Paper, Papers
from foveate.catalog.search import notes, search
from foveate.catalog.status import STATUSES, Status, off_topic, status_of
from foveate.errors import FoveateError

__all__ = ["Paper", "Papers", "off_topic", "paper", "papers"]


def papers(
    words: str | None = None,
    *,
    area: str | None = None,
    tier: int | None = None,
    year: int | None = None,
    needs: str | None = None,
    status: str | None = None,
    mine: bool = False,
    limit: int | None = None,
) -> Papers:
    """List papers, best match first: those that foveate ships and those a user has added.

    Parameters
    ----------
    words : str, optional
        What is looked for, in plain words or as keywords: papers in which any of the words
        occurs, in any inflection, and with the extra ``search`` those that mean the like. A whole
        slug, name or title puts that paper first. Without words: all, in the catalogue's order.
    area, needs, status : str, optional
        Only papers with exactly this value. The area is the paper's family.
    tier, year : int, optional
        Only papers of this tier (1 to 3), of this year.
    mine : bool
        Only papers that the user added.
    limit : int, optional
        At most so many.

    Returns
    -------
    Papers
        A list of `Paper`; empty if nothing matches.

    Raises
    ------
    FoveateError
        If a value is not one the catalogue knows; the sentence lists those it does. If the store
        is locked for too long or damaged.

    Warns
    -----
    UserWarning
        Once, if words are given and the search is by words alone; once, if the store of papers
        cannot be written and is read from memory.

    Examples
    --------
    >>> papers("reduce hallucination without training", needs="vlm", limit=5)  # doctest: +SKIP
    """
    if year is not None and type(year) is not int:
        raise FoveateError(f"year={year!r} must be a whole number such as 2024")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise FoveateError(f"limit={limit!r} must be a whole number of at least 1")
    _check("status", status, STATUSES)
    asked = {"area": area, "tier": tier, "year": year, "needs": needs}
    wanted = {field: value for field, value in asked.items() if value is not None}
    with database().read() as db:
        for field, value in wanted.items():
            if field != "year":
                known = db.execute(f"SELECT DISTINCT {field} FROM papers ORDER BY {field}")
                _check(field, value, [row[0] for row in known if row[0] is not None])
    if mine:
        wanted["shipped"] = 0
    if words is not None and not wanted and status is None:
        ids = [hit.id for hit in search(words)]
    else:
        ids = _ids(wanted, status)
        if words is not None:
            ids = [hit.id for hit in search(words, among=ids)]
    if words is not None:
        _say_once()
    return _read(ids[:limit])


def paper(slug: str) -> Paper:
    """Return one paper by its slug.

    Raises
    ------
    FoveateError
        If the store has no such slug; the sentence names the nearest ones.
    """
    with database().read() as db:
        row = db.execute("SELECT * FROM papers WHERE slug = ?", (str(slug),)).fetchone()
        slugs = [] if row else [slug for (slug,) in db.execute("SELECT slug FROM papers")]
    if row is not None:
        return _paper(row)
    near = difflib.get_close_matches(str(slug), slugs, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`foveate papers WORDS` searches it"
    raise FoveateError(f"the catalogue has no paper {slug!r}; {hint}")


def _ids(wanted: dict[str, Any], status: str | None) -> list[int]:
    """The papers that fit, in the catalogue's order: what is shipped, then what was added."""
    clause = " AND ".join(f"{field} = ?" for field in wanted) or "1"
    with database().read() as db:
        rows = db.execute(
            f"SELECT id, slug FROM papers WHERE {clause} ORDER BY shipped DESC, id",
            tuple(wanted.values()),
        ).fetchall()
    # The status comes from the code, which takes seconds to import the first time: not while
    # the store is held.
    return [row["id"] for row in rows if status is None or _status(row["slug"]).status == status]


def _read(ids: list[int]) -> Papers:
    """The papers with these ids, in this order."""
    rows: dict[int, sqlite3.Row] = {}
    with database().read() as db:
        for start in range(0, len(ids), 500):  # an SQLite may take no more than 999 parameters
            some = ids[start : start + 500]
            marks = ", ".join("?" * len(some))
            found = db.execute(f"SELECT * FROM papers WHERE id IN ({marks})", some)
            rows |= {row["id"]: row for row in found}
    return Papers(_paper(rows[paper]) for paper in ids if paper in rows)


_TEXTS = ("area", "needs", "does", "claim", "check")  # empty where a row has none
_SAME = (
    *("slug", "title", "name", "year", "tier", "date", "author_count", "organisation"),
    *("comments", "doi", "arxiv", "url", "abstract", "source", "added"),
)


def _paper(row: sqlite3.Row) -> Paper:
    fields: dict[str, Any] = {field: row[field] for field in _SAME}
    fields |= {field: row[field] or "" for field in _TEXTS}
    fields["stage"] = tuple((row["stage"] or "").split())
    fields["authors"] = tuple(json.loads(row["authors"] or "[]"))
    return Paper(**fields, **vars(_status(row["slug"])))


def _status(slug: str) -> Status:
    return status_of(slug, off_topic().get(slug))


@functools.cache
def _say_once() -> None:
    for note in notes():
        warnings.warn(note, stacklevel=3)


def _check(field: str, value: object, known: Iterable[object]) -> None:
    values = list(known)
    if value is not None and value not in values:
        raise FoveateError(
            f"{field}={value!r} is unknown; it is one of {', '.join(map(str, values))}"
        )
