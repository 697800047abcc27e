"""Files of papers put into the store: new ones added, known ones completed; all or nothing."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import re
import sqlite3
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.catalog.database import Database, database
from foveate.catalog.entry import BROUGHT, Entry, title_key
from foveate.catalog.importers import Fault, read
from foveate.errors import FoveateError

__all__ = ["Added", "add", "put", "rehearse"]

_LONGEST_TITLE = 1000  # characters; the longest of the catalogue has 187
_SMALL = set(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "by",
        "for",
        "from",
        "in",
        "is",
        "of",
        "on",
        "or",
        "the",
        "to",
        "via",
        "with",
    ]
)


@dataclass(frozen=True)
class Added:
    """What a file did to the store.

    Attributes
    ----------
    file, format : str
        Its name, and what was recognised: Atom, BibTeX, RIS, JSON or a text page.
    new, completed, known : int
        Papers added; papers of the store that got a field they had not; papers that were there
        with all that the file says of them. A paper that stands twice in the file counts twice.
    without_year : int
        New papers whose year is not known.
    """

    file: str
    format: str
    new: int
    completed: int
    known: int
    without_year: int

    def to_dict(self) -> dict[str, Any]:
        """All fields under their names, ready for JSON."""
        return dataclasses.asdict(self)


def add(
    path: str | Path,
    *,
    year: int | None = None,
    dry_run: bool = False,
    store: Database | None = None,
) -> Added:
    """Put the papers of a file into the store: all of them or, if anything is wrong, none.

    A paper is known if its DOI, its arXiv identifier or its title (without case, accents and
    punctuation) is; not if the title alone is and both have arXiv identifiers that differ. What
    is known gets the fields that it has not; none is overwritten, but for the count of comments,
    which only grows.

    Parameters
    ----------
    path : str or path
        BibTeX, RIS, an Atom feed, JSON (lines or a list) or the text of a reading list; seen from
        what the file holds, not from its name.
    year : int, optional
        Of papers for which the file names none, such as on pages that print "Jan 21".
    dry_run : bool
        Say what would happen, and change nothing.
    store : Database, optional
        Default: the user's.

    Returns
    -------
    Added

    Raises
    ------
    FoveateError
        If the file cannot be read, is of no known format or malformed (the sentence names the
        line), or the store is locked for too long or cannot be written.
    """
    if dry_run:
        [found] = rehearse([path], year=year, store=store)
        if isinstance(found, FoveateError):
            raise found
        return found
    _check_year(year)
    with (store or database()).write() as db:
        return _take(db, Path(path), year)


def rehearse(
    paths: Sequence[str | Path], *, year: int | None = None, store: Database | None = None
) -> list[Added | FoveateError]:
    """What adding these files, one after the other, would do; nothing is changed.

    Parameters
    ----------
    paths : sequence of str or path
        Each sees what those before it would have brought.
    year, store
        As for `add`.

    Returns
    -------
    list of Added or FoveateError
        One a file, in order; the error for one of which nothing would be added.

    Raises
    ------
    FoveateError
        If the year is none, or the store is locked for too long or cannot be written.
    """
    _check_year(year)
    found: list[Added | FoveateError] = []
    try:
        with (store or database()).write() as db:
            for path in paths:
                db.execute("SAVEPOINT file")
                try:
                    found.append(_take(db, Path(path), year))
                except FoveateError as error:
                    db.execute("ROLLBACK TO file")
                    found.append(error)
                db.execute("RELEASE file")
            raise _Undo
    except _Undo:
        return found


def _check_year(year: int | None) -> None:
    if year is not None and not (type(year) is int and 1500 <= year < 2200):
        raise FoveateError(f"year={year!r} must be a whole number such as 2024")


def _take(db: sqlite3.Connection, path: Path, year: int | None) -> Added:
    """Put every paper of a file into the store, within a transaction."""
    path = path.expanduser()
    counts = dict.fromkeys(("new", "completed", "known", "without_year"), 0)
    try:
        form, entries = read(path)
        for entry in entries:
            if entry.year is None:
                entry.year = year
            outcome = put(db, entry, path.name)
            counts[outcome] += 1
            counts["without_year"] += outcome == "new" and entry.year is None
    except Fault as fault:
        raise FoveateError(f"{path}, {fault}. Nothing of this file was added") from None
    except OSError as error:
        raise FoveateError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None
    return Added(path.name, form, **counts)


class _Undo(Exception):
    """Rolls a transaction back."""


def put(db: sqlite3.Connection, entry: Entry, source: str) -> str:
    """Put one entry into the store, within a transaction.

    Returns
    -------
    {"new", "completed", "known"}

    Raises
    ------
    Fault
        If its title is too long to be one.
    """
    if len(entry.title) > _LONGEST_TITLE:
        raise Fault(entry.line, f"a title of {len(entry.title):,} characters is none")
    values = _values(entry)
    row = _same(db, entry, values["title_key"])
    if row is None:
        values |= {
            "slug": _slug(db, entry.title, values["title_key"]),
            "name": _name(entry.title),
            "source": source,
            "added": datetime.date.today().isoformat(),
            "shipped": 0,
            "own": "{}",
        }
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        db.execute(f"INSERT INTO papers({names}) VALUES ({marks})", tuple(values.values()))
        return "new"
    better = {k: values[k] for k in BROUGHT if row[k] is None and values[k] is not None}
    if values["comments"] is not None and values["comments"] > (row["comments"] or -1):
        better["comments"] = values["comments"]
    if not better:
        return "known"
    # A row that is not shipped is the user's in all its fields.
    own = json.loads(row["own"]) | better if row["shipped"] else {}
    sets = ", ".join(f"{name} = ?" for name in better)
    db.execute(
        f"UPDATE papers SET {sets}, own = ? WHERE id = ?",
        (*better.values(), json.dumps(own), row["id"]),
    )
    return "completed"


def _values(entry: Entry) -> dict[str, Any]:
    values = dataclasses.asdict(entry)
    del values["line"]
    values["authors"] = json.dumps(entry.authors, ensure_ascii=False) if entry.authors else None
    values["title_key"] = title_key(entry.title)
    if values["year"] is None and entry.date is not None:
        values["year"] = int(entry.date[:4])
    return values


def _same(db: sqlite3.Connection, entry: Entry, key: str) -> sqlite3.Row | None:
    """The row of the same paper; None if there is none."""
    for field, value in (("doi", entry.doi), ("arxiv", entry.arxiv)):
        if value is not None:
            row = db.execute(f"SELECT * FROM papers WHERE {field} = ? LIMIT 1", (value,)).fetchone()
            if row is not None:
                found: sqlite3.Row = row
                return found
    for row in db.execute("SELECT * FROM papers WHERE title_key = ? ORDER BY id", (key,)):
        if entry.arxiv is None or row["arxiv"] in (None, entry.arxiv):
            found = row
            return found
    return None


def _slug(db: sqlite3.Connection, title: str, key: str) -> str:
    """A name for the command line, made of the first words of the title; not in use yet."""
    ascii_only = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    words = [word for word in re.findall(r"[a-z0-9]+", ascii_only) if word not in _SMALL]
    base = "-".join(words[:6])[:48].strip("-")
    digest = hashlib.sha256(key.encode()).hexdigest()
    base = base or f"paper-{digest[:8]}"
    tries = [base, f"{base}-{digest[:4]}", f"{base}-{digest[:8]}"]
    tries += [f"{base}-{digest[:8]}-{n}" for n in range(2, 100)]
    for slug in tries:
        if db.execute("SELECT 1 FROM papers WHERE slug = ?", (slug,)).fetchone() is None:
            return slug
    raise FoveateError(f"a hundred papers are called {title!r:.80}; is the file what it should be?")


def _name(title: str) -> str:
    """What a method is called: what stands before the colon of its title, or the title."""
    before, colon, _ = title.partition(": ")
    return before if colon and len(before) <= 30 else title
