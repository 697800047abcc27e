"""The shipped catalogue, put into the store."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import sqlite3
from importlib import resources
from typing import Any

from foveate.catalog.entry import BROUGHT, title_key

__all__ = ["catalogue_version", "seed", "shipped"]

_FIELDS = ("title", "name", "year", "area", "tier", "needs", "does", "claim", "check")


@functools.cache
def catalogue_version() -> str:
    """What tells one shipped catalogue from another: a hash of its text."""
    return hashlib.sha256(_text().encode()).hexdigest()


@functools.cache
def shipped() -> tuple[dict[str, Any], ...]:
    """Every row of the shipped catalogue, in its order."""
    return tuple(json.loads(line) for line in _text().splitlines())


def seed(db: sqlite3.Connection) -> None:
    """Make the shipped part of the store what is shipped now; runs within a transaction.

    A row keeps its ``id``, and what the user's files brought to it wins over what is shipped. A
    paper of the user's that is shipped by now becomes a shipped one under its new slug. A paper
    that is no longer shipped goes, unless the user's files know it too.
    """
    rows = shipped()
    slugs = {row["slug"] for row in rows}
    there = {row["slug"]: row for row in db.execute("SELECT * FROM papers WHERE shipped")}
    for row in rows:
        key = title_key(row["title"])
        old = there.pop(row["slug"], None)
        if old is None:  # one of the user's, or one that was shipped under another slug
            same = db.execute("SELECT * FROM papers WHERE title_key = ? ORDER BY id", (key,))
            old = next((o for o in same if not o["shipped"] or o["slug"] not in slugs), None)
            if old is not None:
                there.pop(old["slug"], None)
        values = {field: row[field] for field in _FIELDS} | {
            "slug": row["slug"],
            "title_key": key,
            "stage": " ".join(row["stage"]),
            "shipped": 1,
        }
        _make_room(db, row["slug"], None if old is None else old["id"])
        if old is None:
            day = datetime.date.today().isoformat()
            values |= {"source": "foveate", "added": day, "own": "{}"}
            names = ", ".join(f'"{name}"' for name in values)
            marks = ", ".join("?" * len(values))
            db.execute(f"INSERT INTO papers({names}) VALUES ({marks})", tuple(values.values()))
            continue
        own = json.loads(old["own"])
        if not old["shipped"]:
            own = {k: old[k] for k in (*BROUGHT, "comments") if old[k] is not None}
        values |= own | {"own": json.dumps(own)}
        changed = {name: value for name, value in values.items() if value != old[name]}
        if changed:
            sets = ", ".join(f'"{name}" = ?' for name in changed)
            db.execute(f"UPDATE papers SET {sets} WHERE id = ?", (*changed.values(), old["id"]))
    for old in there.values():
        if old["own"] == "{}":
            db.execute("DELETE FROM papers WHERE id = ?", (old["id"],))
        else:
            db.execute("UPDATE papers SET shipped = 0 WHERE id = ?", (old["id"],))
    db.execute("INSERT OR REPLACE INTO meta VALUES ('catalogue', ?)", (catalogue_version(),))


def _make_room(db: sqlite3.Connection, slug: str, own_id: int | None) -> None:
    """A paper of the user's gives up a slug that is shipped by now."""
    db.execute(
        "UPDATE papers SET slug = slug || '-' || id WHERE slug = ? AND id IS NOT ?", (slug, own_id)
    )


def _text() -> str:
    path = resources.files(__package__).joinpath("data", "catalog.jsonl")
    return path.read_text(encoding="utf-8")
