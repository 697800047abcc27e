"""The tables of the store of papers, and how a file gets them: see `foveate.catalog.database`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from foveate.catalog.follow_tables import SCHEMA as FOLLOW_TABLES
from foveate.catalog.seed import catalogue_version, seed
from foveate.errors import FoveateError

__all__ = ["INDEXED", "SCHEMA", "bring_up_to_date", "transaction"]

_VERSION = 1  # of SCHEMA, kept in the file's user_version

SCHEMA = """
CREATE TABLE papers(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    slug TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    title_key TEXT NOT NULL,      -- the title without case, accents and punctuation
    name TEXT NOT NULL,
    year INTEGER,
    date TEXT,                    -- YYYY-MM-DD
    authors TEXT,                 -- JSON list of names
    author_count INTEGER,         -- where only their number is known
    organisation TEXT,
    comments INTEGER,
    doi TEXT,                     -- lower case, without https://doi.org/
    arxiv TEXT,                   -- without version: 2403.12345, cs/0112017
    url TEXT,
    source TEXT NOT NULL,         -- 'foveate', or the name of the file it came in
    added TEXT NOT NULL,          -- YYYY-MM-DD
    area TEXT,                    -- the family: steer-text, sparse, probe, …; NULL if the user's
    tier INTEGER,
    stage TEXT,                   -- words separated by spaces
    needs TEXT,
    does TEXT,                    -- own summary
    claim TEXT,
    "check" TEXT,
    abstract TEXT,                -- as the user's file had it; never shipped
    shipped INTEGER NOT NULL,     -- 1: in the shipped catalogue
    own TEXT NOT NULL             -- JSON: what the user's files brought to a shipped one
);
CREATE INDEX papers_by_title ON papers(title_key);
CREATE INDEX papers_by_doi ON papers(doi) WHERE doi IS NOT NULL;
CREATE INDEX papers_by_arxiv ON papers(arxiv) WHERE arxiv IS NOT NULL;
CREATE INDEX papers_by_added ON papers(added);

CREATE TABLE vectors(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    paper INTEGER NOT NULL REFERENCES papers(id) ON DELETE CASCADE,
    encoder TEXT NOT NULL,        -- its fingerprint
    vector BLOB NOT NULL,         -- float16, of length 1
    UNIQUE(encoder, paper)
);
CREATE TRIGGER vectors_stale AFTER UPDATE OF title, does, claim, abstract ON papers
BEGIN DELETE FROM vectors WHERE paper = old.id; END;

CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

# The full-text index reads its text from papers; the triggers tell it of every change, whoever
# makes it. Apart from the rest, since a Python may lack FTS5 and still list papers.
INDEXED = ("slug", "name", "title", "does", "claim", "area", "stage", "needs", "check", "abstract")
_COLUMNS = ", ".join(f'"{column}"' for column in INDEXED)
_NEW, _OLD = (", ".join(f'{row}."{column}"' for column in INDEXED) for row in ("new", "old"))
_INDEX = f"""
CREATE VIRTUAL TABLE words USING fts5(
    {_COLUMNS}, content='papers', content_rowid='id', tokenize='porter unicode61'
);
CREATE TRIGGER words_insert AFTER INSERT ON papers BEGIN
    INSERT INTO words(rowid, {_COLUMNS}) VALUES (new.id, {_NEW});
END;
CREATE TRIGGER words_delete AFTER DELETE ON papers BEGIN
    INSERT INTO words(words, rowid, {_COLUMNS}) VALUES ('delete', old.id, {_OLD});
END;
CREATE TRIGGER words_update AFTER UPDATE OF {_COLUMNS} ON papers BEGIN
    INSERT INTO words(words, rowid, {_COLUMNS}) VALUES ('delete', old.id, {_OLD});
    INSERT INTO words(rowid, {_COLUMNS}) VALUES (new.id, {_NEW});
END;
INSERT INTO words(words) VALUES ('rebuild');
"""


@contextmanager
def transaction(db: sqlite3.Connection, begin: str) -> Iterator[None]:
    """All that is done within is kept if it ends well, and none otherwise."""
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def bring_up_to_date(db: sqlite3.Connection) -> None:
    """Make the tables, and seed them if the shipped catalogue is another than last time."""
    if _is_up_to_date(db):
        return
    with transaction(db, "BEGIN IMMEDIATE"):
        if _is_up_to_date(db):  # another process was quicker
            return
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise FoveateError(
                f"the store of papers was written by a newer foveate (format {version}, this one "
                f"knows {_VERSION}); update foveate, or set FOVEATE_PAPERS to another file"
            )
        if version == 0:
            _run(db, SCHEMA + FOLLOW_TABLES)
            db.execute(f"PRAGMA user_version = {_VERSION}")
        if not _has_index(db) and _has_fts5(db):
            _run(db, _INDEX)
        seed(db)


def _is_up_to_date(db: sqlite3.Connection) -> bool:
    if db.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
        return False
    found = db.execute("SELECT value FROM meta WHERE key = 'catalogue'").fetchone()
    return found is not None and found[0] == catalogue_version() and _has_index(db)


def _has_index(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'words'").fetchone())


def _has_fts5(db: sqlite3.Connection) -> bool:
    return any(name == "ENABLE_FTS5" for (name,) in db.execute("PRAGMA compile_options"))


def _run(db: sqlite3.Connection, script: str) -> None:
    """``executescript`` without its COMMIT."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""
