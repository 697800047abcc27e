"""Digests on their way: each follower at most once a day, and no paper twice to the same one.

What is promised, and how. *A mail*: the digest and its papers are recorded as 'sending' before
anything leaves, and as 'sent' once the server has taken it. A process killed in between leaves
'sending', which counts as sent: **a crash may lose a digest, and never repeats one**. A server that
refuses takes the record back. *A file or feed*: it is written whole from the record within the
transaction that makes the record, so that the two cannot part. Two processes at once: the store
lets one of them have the day.
"""

from __future__ import annotations

import datetime
import os
import sqlite3
import stat
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import FoveateError
from .database import database
from .digest import Item, digest, items_of
from .digest_pages import WRITERS, Issue, counted, feed, html, text
from .follow import Follower, check_ours, followers, now, stamp
from .mail import Settings, Unsure, connect, message, settings

__all__ = ["Delivery", "deliver", "interrupted"]

KEPT = 30  # digests that a file or feed holds
_STALE = datetime.timedelta(minutes=15)  # no server is waited for that long


@dataclass(frozen=True)
class Delivery:
    """What became of one follower's digest.

    Attributes
    ----------
    follower : Follower
    state : str
        ``"sent"``, ``"would send"`` (a dry run), ``"nothing new"``, ``"already today"``,
        ``"mail not asked for"``, ``"failed"`` or ``"unsure"``.
    items : tuple of Item
        What it holds, or would hold.
    why : str
        What went wrong, if something did.
    """

    follower: Follower
    state: str
    items: tuple[Item, ...] = ()
    why: str = ""


def deliver(
    since: datetime.date,
    *,
    mail: bool = False,
    dry_run: bool = False,
    limit: int = 20,
) -> list[Delivery]:
    """Bring every follower what is new and fits what they follow.

    Parameters
    ----------
    since : datetime.date
        As for `foveate.catalog.digest.digest`.
    mail : bool
        Whether mail goes out; files and feeds are written without it too.
    dry_run : bool
        Say what would go out; nothing is recorded, written or connected to.
    limit : int
        Papers in one digest. Those beyond it come with the next, while they are new.

    Returns
    -------
    list of Delivery
        One a follower, files and feeds before mail; one that failed does not keep the others
        from theirs, nor do settings of mail that are no good.
    """
    # Files and feeds first: what is wrong with mail keeps nobody else from theirs.
    everybody = sorted(followers(), key=lambda one: one[0].by == "mail")
    given: Settings | FoveateError | None = None
    if mail and not dry_run and any(one.by == "mail" for one, _ in everybody):
        try:
            given = settings()
        except FoveateError as error:
            given = error
    found = []
    for follower, queries in everybody:
        items = tuple(digest(queries, since, skip=_sent_to(follower), limit=limit))
        if dry_run:
            sends = "already today" if _had_today(follower) else "would send"
            found.append(Delivery(follower, sends if items else "nothing new", items))
        elif follower.by == "mail" and given is None:
            found.append(Delivery(follower, "mail not asked for", items))
        elif follower.by == "mail" and isinstance(given, FoveateError):
            found.append(Delivery(follower, "failed", items, str(given)))
        else:
            try:
                found.append(
                    _mail(follower, items, given)
                    if isinstance(given, Settings) and follower.by == "mail"
                    else _write(follower, items)
                )
            except Unsure as error:
                found.append(Delivery(follower, "unsure", items, str(error)))
            except FoveateError as error:
                found.append(Delivery(follower, "failed", items, str(error)))
    return found


def interrupted() -> list[tuple[Follower, str, list[str]]]:
    """Mails that a crash cut off, each told once: they may have arrived or not.

    Returns
    -------
    list of (Follower, str, list of str)
        Whom it was for, the day, and the slugs it held. They are not sent again.
    """
    found = []
    before = stamp(now() - _STALE)
    with database().write() as db:
        rows = db.execute(
            "SELECT * FROM digests WHERE state = 'sending' AND at < ? ORDER BY id", (before,)
        ).fetchall()
        for row in rows:
            db.execute("UPDATE digests SET state = 'unsure' WHERE id = ?", (row["id"],))
            who = db.execute("SELECT * FROM followers WHERE id = ?", (row["follower"],)).fetchone()
            items = items_of(db, _held(db, row["id"]))
            found.append((Follower(**who), row["day"], [item.slug for item in items]))
    return found


def _mail(follower: Follower, items: tuple[Item, ...], given: Settings) -> Delivery:
    if not items:
        return Delivery(follower, "nothing new")
    if _had_today(follower):  # looked at again when it is claimed; this spares a connection
        return Delivery(follower, "already today", items)
    with connect(given) as server:
        with database().write() as db:
            claim, kept = _claim(db, follower, items, "sending")
        if claim is None:
            return Delivery(follower, "already today" if kept else "nothing new", kept)
        issue = [Issue(now(), kept)]
        letter = message(given.sender, follower.target, _subject(kept), text(issue), html(issue))
        with _taken_back_if_refused(claim):
            server.send(letter)
        with database().write() as db:
            db.execute("UPDATE digests SET state = 'sent' WHERE id = ?", (claim,))
    return Delivery(follower, "sent", kept)


@contextmanager
def _taken_back_if_refused(claim: int) -> Iterator[None]:
    try:
        yield
    except Unsure:  # it may be there: it stays on record
        with database().write() as db:
            db.execute("UPDATE digests SET state = 'unsure' WHERE id = ?", (claim,))
        raise
    except FoveateError:
        with database().write() as db:
            db.execute("DELETE FROM digests WHERE id = ?", (claim,))  # and what it held
        raise


def _subject(items: tuple[Item, ...]) -> str:
    title = textwrap.shorten(items[0].title, 80, placeholder=" …")
    return f"{counted(len(items))}: {title}"


def _write(follower: Follower, items: tuple[Item, ...]) -> Delivery:
    """Bring a file or feed up to the record, today's digest included."""
    with database().write() as db:
        claim, kept = _claim(db, follower, items, "sent")
        _replace(Path(follower.target), _document(db, follower))
    if claim is not None:
        return Delivery(follower, "sent", kept)
    return Delivery(follower, "already today" if kept else "nothing new", kept)


def _claim(
    db: sqlite3.Connection, follower: Follower, items: tuple[Item, ...], state: str
) -> tuple[int | None, tuple[Item, ...]]:
    """Take the day for a follower; None if it is taken or nothing is left to send."""
    sent = _papers_sent(db, follower)
    kept = tuple(item for item in items if item.id not in sent)
    if not kept:
        return None, kept
    moment = now()
    row = db.execute(
        "INSERT INTO digests(follower, day, state, at) VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING RETURNING id",
        (follower.id, moment.date().isoformat(), state, stamp(moment)),
    ).fetchone()
    if row is None:
        return None, kept
    db.executemany(
        "INSERT INTO sent(follower, paper, digest, query, score) VALUES (?, ?, ?, ?, ?)",
        [(follower.id, item.id, row["id"], item.query, item.score) for item in kept],
    )
    return int(row["id"]), kept


def _document(db: sqlite3.Connection, follower: Follower) -> str:
    rows = db.execute(
        "SELECT * FROM digests WHERE follower = ? ORDER BY id DESC LIMIT ?", (follower.id, KEPT)
    ).fetchall()
    issues = [
        Issue(datetime.datetime.fromisoformat(row["at"]), items_of(db, _held(db, row["id"])))
        for row in rows
    ]
    if follower.by == "atom":
        return feed(issues, f"{follower.created} {follower.target}", follower.created)
    writer: Callable[[list[Issue]], str] = WRITERS[Path(follower.target).suffix.lower()]
    return writer(issues)


def _held(db: sqlite3.Connection, digest_id: int) -> list[sqlite3.Row]:
    return db.execute(
        "SELECT * FROM sent WHERE digest = ? ORDER BY score DESC, paper", (digest_id,)
    ).fetchall()


def _sent_to(follower: Follower) -> set[int]:
    with database().read() as db:
        return _papers_sent(db, follower)


def _papers_sent(db: sqlite3.Connection, follower: Follower) -> set[int]:
    rows = db.execute("SELECT paper FROM sent WHERE follower = ?", (follower.id,))
    return {paper for (paper,) in rows}


def _had_today(follower: Follower) -> bool:
    with database().read() as db:
        found = db.execute(
            "SELECT 1 FROM digests WHERE follower = ? AND day = ?",
            (follower.id, now().date().isoformat()),
        ).fetchone()
    return found is not None


def _replace(path: Path, words: str) -> None:
    """Write a file whole or not at all: a reader never sees half of it."""
    check_ours(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(handle, "w", encoding="utf-8") as file:
                file.write(words)
            os.chmod(name, stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644)
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise FoveateError(
            f"{path} cannot be written ({error.strerror}); nothing is recorded as sent"
        ) from error
