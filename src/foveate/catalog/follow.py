"""Saved queries: what somebody follows, and where they want to hear of it."""

from __future__ import annotations

import datetime
import sqlite3
from dataclasses import dataclass
from email.errors import MessageError
from email.headerregistry import Address
from pathlib import Path

from ..errors import FoveateError
from .database import database

__all__ = [
    "BY",
    "MARK",
    "Follow",
    "Follower",
    "check_address",
    "check_ours",
    "follow",
    "followers",
    "follows",
    "now",
    "stamp",
    "unfollow",
]

BY = {"mail": "an address", "atom": "a file such as papers.xml", "file": "a file such as papers.md"}
"""How one may be told, with what ``to`` has to be."""

ENDINGS = {"atom": (".xml", ".atom"), "file": (".md", ".html")}
MARK = "foveate-digest"  # stands in every file of ours: others are never written over
_LONGEST = 1000  # characters of a query


@dataclass(frozen=True)
class Follower:
    """Somebody who is told.

    Attributes
    ----------
    id : int
    by : {"mail", "atom", "file"}
    target : str
        An address, or the absolute path of a file.
    created : str
        When they first followed something, ``YYYY-MM-DDTHH:MM:SSZ``.
    """

    id: int
    by: str
    target: str
    created: str


@dataclass(frozen=True)
class Follow:
    """One saved query.

    Attributes
    ----------
    id : int
        What ``unfollow`` takes.
    query : str
    by, target : str
        As of its `Follower`.
    created : str
        ``YYYY-MM-DDTHH:MM:SSZ``.
    """

    id: int
    query: str
    by: str
    target: str
    created: str


def now() -> datetime.datetime:
    """The time by which days are told apart: UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def follow(query: str, by: str, to: str) -> Follow:
    """Save a query.

    Parameters
    ----------
    query : str
        What is looked for, as in a search.
    by : {"mail", "atom", "file"}
        How new papers are told.
    to : str
        An address; or a file: ``.xml`` or ``.atom`` for a feed, ``.md`` or ``.html`` for a page.
        It is made at the first digest and rewritten whole at each.

    Returns
    -------
    Follow
        The one there is already, if it was saved before.

    Raises
    ------
    FoveateError
        For a query without a word, an unknown way, an address that is none, a file that cannot be
        written or holds something else.
    """
    words = " ".join(query.split()) if isinstance(query, str) else ""
    if not any(letter.isalnum() for letter in words) or len(words) > _LONGEST:
        raise FoveateError(
            f"query={query!r:.80} was given; some words to look for, at most {_LONGEST} "
            'characters, were wanted, such as "kv cache eviction"'
        )
    target = _target(by, to)
    day = stamp(now())
    with database().write() as db:
        row = _follower(db, by, target)
        if row is None:
            db.execute(
                "INSERT INTO followers(by, target, created) VALUES (?, ?, ?)", (by, target, day)
            )
            row = _follower(db, by, target)
        assert row is not None
        db.execute(
            "INSERT INTO follows(follower, query, created) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (row["id"], words, day),
        )
        found = db.execute(
            f"{_SELECT} WHERE follows.follower = ? AND query = ?", (row["id"], words)
        ).fetchone()
        return Follow(**found)


def follows() -> list[Follow]:
    """Every saved query, the oldest first."""
    with database().read() as db:
        return [Follow(**row) for row in db.execute(f"{_SELECT} ORDER BY follows.id")]


def followers() -> list[tuple[Follower, list[str]]]:
    """Everybody who follows something, with their queries."""
    with database().read() as db:
        everybody = [Follower(**row) for row in db.execute("SELECT * FROM followers ORDER BY id")]
        saved = db.execute("SELECT follower, query FROM follows ORDER BY id").fetchall()
    pairs = [(one, [query for follower, query in saved if follower == one.id]) for one in everybody]
    return [(one, queries) for one, queries in pairs if queries]


def unfollow(what: int | str) -> list[Follow]:
    """Forget a saved query.

    What was sent stays on record: following it anew repeats nothing.

    Parameters
    ----------
    what : int or str
        Its number, or its words: then for every follower that has it.

    Returns
    -------
    list of Follow
        Those forgotten.

    Raises
    ------
    FoveateError
        If nothing is saved under that number or those words.
    """
    words = " ".join(str(what).split())
    with database().write() as db:
        rows = db.execute(f"{_SELECT} WHERE follows.id = ?", (what,)) if words.isdigit() else None
        found = [Follow(**row) for row in rows or ()] or [
            Follow(**row) for row in db.execute(f"{_SELECT} WHERE query = ?", (words,))
        ]
        if not found:
            raise FoveateError(
                f"nothing is followed under {what!r:.80}; `foveate papers follow` lists what is, "
                "with its number"
            )
        db.executemany("DELETE FROM follows WHERE id = ?", [(one.id,) for one in found])
    return found


def check_ours(path: Path) -> None:
    """Refuse to write over a file that is not one of ours.

    Raises
    ------
    FoveateError
        If there is a file, and it is no digest.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            ours = MARK in file.read(4000)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FoveateError(
            f"{path} cannot be read ({error.strerror}); name another file"
        ) from error
    if not ours:
        raise FoveateError(
            f"{path} exists and is no digest of foveate's; it would be written over: name another"
        )


def stamp(moment: datetime.datetime) -> str:
    """A moment as it is kept and as Atom writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


_SELECT = (
    "SELECT follows.id AS id, query, by, target, follows.created AS created "
    "FROM follows JOIN followers ON followers.id = follower"
)


def _follower(db: sqlite3.Connection, by: str, target: str) -> sqlite3.Row | None:
    same = "lower(target) = lower(?)" if by == "mail" else "target = ?"
    found: sqlite3.Row | None = db.execute(
        f"SELECT * FROM followers WHERE by = ? AND {same}", (by, target)
    ).fetchone()
    return found


def _target(by: str, to: str) -> str:
    if by not in BY:
        raise FoveateError(f"by={by!r} was given; it is one of {', '.join(BY)}")
    if not isinstance(to, str) or not to.strip():
        raise FoveateError(f"to={to!r} was given; by={by!r} wants {BY[by]}")
    return check_address(to.strip(), "to") if by == "mail" else _file(by, to.strip())


def check_address(to: str, what: str) -> str:
    """The address itself, if it can be told to a server as it is.

    Raises
    ------
    FoveateError
        If it is none; the sentence says of ``what``.
    """
    try:
        address = Address(addr_spec=to)
        good = bool(address.username and address.domain) and to.isprintable() and " " not in to
    except (ValueError, IndexError, MessageError):  # whatever the parser stumbles on
        good = False
    if not good:
        raise FoveateError(
            f"{what}={to!r:.80} is no address; one such as ann@example.org was wanted"
        )
    return to


def _file(by: str, to: str) -> str:
    path = Path(to).expanduser().resolve()  # one file, one follower
    if path.suffix.lower() not in ENDINGS[by]:
        raise FoveateError(
            f"to={to!r} was given; by={by!r} wants a file ending in {' or '.join(ENDINGS[by])}"
        )
    if not path.parent.is_dir():
        raise FoveateError(f"the folder {path.parent} does not exist; make it, or name another")
    if path.is_dir():
        raise FoveateError(f"{path} is a folder; name a file")
    check_ours(path)
    return str(path)
