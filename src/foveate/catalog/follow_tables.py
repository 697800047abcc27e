"""The tables of saved queries and of what each follower was sent; part of the store's schema."""

from __future__ import annotations

__all__ = ["SCHEMA"]

SCHEMA = """
-- Who is told: an address or a file. It stays when nothing is followed any more, so that following
-- anew repeats nothing.
CREATE TABLE followers(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    by TEXT NOT NULL CHECK(by IN ('mail', 'atom', 'file')),
    target TEXT NOT NULL,         -- an address, or the absolute path of a file
    created TEXT NOT NULL         -- YYYY-MM-DDTHH:MM:SSZ
);
CREATE UNIQUE INDEX followers_once
    ON followers(by, CASE by WHEN 'mail' THEN lower(target) ELSE target END);

CREATE TABLE follows(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    follower INTEGER NOT NULL REFERENCES followers(id) ON DELETE CASCADE,
    query TEXT NOT NULL,
    created TEXT NOT NULL,        -- YYYY-MM-DDTHH:MM:SSZ
    UNIQUE(follower, query)
);

-- One digest a follower and day (UTC). 'sending' is written before anything leaves and 'sent'
-- afterwards, so that a crash in between loses a digest and never repeats one; 'unsure' is one
-- that was cut off, once its follower's owner has been told.
CREATE TABLE digests(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    follower INTEGER NOT NULL REFERENCES followers(id) ON DELETE CASCADE,
    day TEXT NOT NULL,            -- YYYY-MM-DD
    state TEXT NOT NULL CHECK(state IN ('sending', 'sent', 'unsure')),
    at TEXT NOT NULL,             -- YYYY-MM-DDTHH:MM:SSZ
    UNIQUE(follower, day)
);
CREATE TABLE sent(
    follower INTEGER NOT NULL REFERENCES followers(id) ON DELETE CASCADE,
    paper INTEGER NOT NULL,       -- papers.id, which is never reused
    digest INTEGER NOT NULL REFERENCES digests(id) ON DELETE CASCADE,
    query TEXT NOT NULL,          -- the one it fits best
    score REAL NOT NULL,
    PRIMARY KEY(follower, paper)
) WITHOUT ROWID;
"""
