"""What is new, ranked by how well it fits the saved queries and how much it is talked about."""

from __future__ import annotations

import datetime
import json
import math
import sqlite3
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import FoveateError
from .cards.figures import link
from .database import database
from .follow import now
from .search import search

__all__ = ["FORMULA", "Item", "day_of", "digest", "items_of", "score"]

DEPTH = 50  # how far down the search over all papers one still fits a query
K = 10  # how fast the fit falls with the rank
TALK = 5.0  # what e ** 5 - 1 = 147 comments double
HALF_LIFE = 14.0  # days

FORMULA = (
    f"score = (1 + {K}) / (rank + {K}) × (1 + ln(1 + comments) / {TALK:g}) "
    f"× 2^(−age / {HALF_LIFE:g} days); rank: its place among all papers in the search for your "
    f"query, 1 to {DEPTH}; age: days since its date, else since the end of its year, else since it "
    "was added"
)
"""The ranking in one sentence; every digest states it."""


@dataclass(frozen=True)
class Item:
    """One paper in a digest.

    Attributes
    ----------
    id : int
        Of the paper in the store.
    slug, title : str
    authors : str
        As a line; empty where they are not known.
    date : str
        ``YYYY-MM-DD`` or a year; empty where neither is known.
    comments : int or None
    url : str or None
        An http address that may stand in a link.
    text : str
        The summary, or the abstract.
    query : str
        The saved query that it fits best.
    score : float
        By ``FORMULA``.
    """

    id: int
    slug: str
    title: str
    authors: str
    date: str
    comments: int | None
    url: str | None
    text: str
    query: str
    score: float


def score(rank: int, comments: int | None, age: float) -> float:
    """The ranking of ``FORMULA``.

    Parameters
    ----------
    rank : int
        From 1.
    comments : int or None
        None counts as 0.
    age : float
        In days; below 0 counts as 0.

    Returns
    -------
    float
        1 for the best fit of today that nobody talks about.
    """
    fit = (1 + K) / (rank + K)
    talk = 1 + math.log1p(max(comments or 0, 0)) / TALK
    return float(fit * talk * 2 ** (-max(age, 0.0) / HALF_LIFE))


def digest(
    queries: Iterable[str],
    since: datetime.date,
    *,
    skip: Collection[int] = (),
    today: datetime.date | None = None,
    limit: int = 20,
) -> list[Item]:
    """Rank what is new.

    Parameters
    ----------
    queries : iterable of str
        A paper counts for the one that it fits best.
    since : datetime.date
        New is what was added or is dated on this day or later. The papers that foveate brought
        along at first use are not new by having been added.
    skip : collection of int
        Papers, by id, that are left out.
    today : datetime.date, optional
        From which ages are counted; default: today, UTC.
    limit : int
        At most so many.

    Returns
    -------
    list of Item
        Best first.
    """
    day = today or now().date()
    with database().read() as db:
        new = {row["id"]: row for row in db.execute(_NEW, {"since": since.isoformat()})}
    best: dict[int, tuple[float, str]] = {}
    for query in queries if new else ():
        for rank, hit in enumerate(search(query)[:DEPTH], start=1):
            row = new.get(hit.id)
            if row is None or hit.id in skip:
                continue
            value = score(rank, row["comments"], (day - _born(row)).days)
            best[hit.id] = max(best.get(hit.id, (0.0, "")), (value, query))
    order = sorted(best, key=lambda one: (-best[one][0], one))[:limit]
    with database().read() as db:
        rows = {one: db.execute("SELECT * FROM papers WHERE id = ?", (one,)) for one in order}
        found = {one: row.fetchone() for one, row in rows.items()}
    return [_item(row, best[one][1], best[one][0]) for one, row in found.items() if row]


def items_of(db: sqlite3.Connection, rows: Iterable[sqlite3.Row]) -> list[Item]:
    """What was sent, as items again.

    Parameters
    ----------
    db : sqlite3.Connection
    rows : iterable of sqlite3.Row
        Of ``sent``.

    Returns
    -------
    list of Item
        In the same order, without papers that are no longer there.
    """
    found = []
    for row in rows:
        paper = db.execute("SELECT * FROM papers WHERE id = ?", (row["paper"],)).fetchone()
        if paper is not None:
            found.append(_item(paper, row["query"], row["score"]))
    return found


def day_of(text: str) -> datetime.date:
    """Read a day.

    Raises
    ------
    FoveateError
        If it is none, or lies in the future.
    """
    try:
        day = datetime.date.fromisoformat(text)
    except (TypeError, ValueError):
        raise FoveateError(
            f"since={text!r:.40} is no day; one such as 2026-03-01 was wanted"
        ) from None
    if day > now().date():
        raise FoveateError(f"since={text} lies in the future; nothing can be new since then")
    return day


# What foveate brought along counts as added only if a later version of it brought it.
_NEW = """
SELECT id, date, year, added, comments FROM papers WHERE date >= :since OR added >= :since AND (
    NOT shipped OR added > (SELECT min(added) FROM papers WHERE shipped))
"""


def _born(row: sqlite3.Row) -> datetime.date:
    if row["date"]:
        return datetime.date.fromisoformat(row["date"])
    added = datetime.date.fromisoformat(row["added"])
    return min(datetime.date(row["year"], 12, 31), added) if row["year"] else added


def _item(row: sqlite3.Row, query: str, value: float) -> Item:
    return Item(
        id=row["id"],
        slug=row["slug"],
        title=clean(row["title"]),
        authors=clean(_authors(row)),
        date=row["date"] or str(row["year"] or ""),
        comments=row["comments"],
        url=link(row["url"], row["arxiv"], row["doi"]),
        text=clean(row["does"] or row["abstract"] or ""),
        query=query,
        score=value,
    )


def _authors(row: sqlite3.Row) -> str:
    names: list[Any] = json.loads(row["authors"] or "[]")
    shown = ", ".join(str(name) for name in names[:4]) + (" and others" if len(names) > 4 else "")
    if not names and row["author_count"]:
        shown = f"{row['author_count']} authors"
    return " · ".join(part for part in (shown, row["organisation"]) if part)


def clean(text: str) -> str:
    """A text on one line, without control characters and marks that turn the writing round."""
    return " ".join("".join(c for c in text if c.isspace() or not _hidden(c)).split())


def _hidden(c: str) -> bool:
    return unicodedata.category(c) in ("Cc", "Cs", "Cn", "Co") or c in _TURNS


_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
