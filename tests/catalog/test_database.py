"""The store: one file, seeded, shared, and whole whatever happens to who writes it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from foveate.catalog import database as module
from foveate.catalog import paper, papers, schema, seed
from foveate.catalog.add import put
from foveate.catalog.database import Database, data_folder, database
from foveate.catalog.entry import Entry
from foveate.catalog.search import search
from foveate.errors import FoveateError

pytestmark = pytest.mark.usefixtures("words_only")

FORK = multiprocessing.get_context("fork")


def count(store: Database) -> int:
    with store.read() as db:
        return int(db.execute("SELECT count(*) FROM papers").fetchone()[0])


def put_one(store: Database, title: str, **fields: Any) -> None:
    with store.write() as db:
        put(db, Entry(title, **fields), "mine.bib")


# --- where it is


def test_the_folder_is_one_for_data_and_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FOVEATE_HOME", "/a/b")
    assert data_folder() == Path("/a/b")
    monkeypatch.delenv("FOVEATE_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/x")
    assert data_folder() == Path("/x/foveate")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert data_folder() == Path.home() / ".local/share/foveate"
    monkeypatch.delenv("FOVEATE_PAPERS")
    assert database().path == data_folder() / "papers.sqlite"


def test_importing_foveate_opens_no_store(tmp_path: Path) -> None:
    path = tmp_path / "papers.sqlite"
    subprocess.run(
        [sys.executable, "-c", "import foveate, foveate.catalog.command"],
        env={**os.environ, "FOVEATE_PAPERS": str(path)},
        check=True,
    )
    assert not path.exists()


# --- the seed


def test_a_new_store_holds_the_shipped_catalogue(store: Database) -> None:
    assert count(store) == len(seed.shipped()) == 308
    with store.read() as db:
        rows = db.execute("SELECT * FROM papers ORDER BY id").fetchall()
    assert [row["slug"] for row in rows] == [row["slug"] for row in seed.shipped()]
    assert all(row["shipped"] and row["own"] == "{}" for row in rows)
    stored = set(rows[0].keys())
    assert not stored & {"status", "basis", "maturity", "implements", "evidence"}


@contextmanager
def other_catalogue(change: Callable[[list[dict[str, Any]]], None]) -> Iterator[None]:
    """Another version of the catalogue is shipped."""
    rows = [dict(row) for row in seed.shipped()]
    change(rows)
    text = "\n".join(json.dumps(row) for row in rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seed, "_text", lambda: text)
        for cached in (seed.shipped, seed.catalogue_version):
            cached.cache_clear()
        try:
            yield
        finally:
            patch.undo()
            for cached in (seed.shipped, seed.catalogue_version):
                cached.cache_clear()


def test_another_catalogue_is_taken_over_and_the_users_papers_stay(fresh: Path) -> None:
    put_one(database(), "A paper of mine", year=2020)
    put_one(database(), "Shipped some day", doi="10.1000/x", year=2019)
    put_one(database(), "Pointer Networks", doi="10.1000/pointer")  # completes a shipped one
    put_one(database(), "Mega: Moving Average Equipped Gated Attention", comments=7)
    with database().read() as db:
        ids = dict(db.execute("SELECT title, id FROM papers").fetchall())

    def change(rows: list[dict[str, Any]]) -> None:
        by_slug = {row["slug"]: row for row in rows}
        by_slug["pointer-networks"]["does"] = "Points."
        by_slug["pointer-networks"]["slug"] = "pointers"  # goes, and comes under another name
        rows.remove(by_slug["densediffusion"])  # nobody's
        rows.remove(by_slug["mega"])  # the user's too
        rows.append({**by_slug["cswin"], "slug": "some-day", "title": "Shipped: some day!"})
        rows.append({**by_slug["cswin"], "slug": "paper-mine", "title": "Took the user's slug"})

    with other_catalogue(change):
        module._OPEN.clear()  # as in the next process
        shown = {row.slug: row for row in papers()}
        assert len(shown) == 308 + 2 - 1 + 1  # mine; densediffusion; paper-mine
        assert shown["pointers"].does == "Points." and shown["pointers"].doi == "10.1000/pointer"
        assert "densediffusion" not in shown
        assert (shown["mega"].comments, shown["mega"].area) == (7, "operator")
        assert shown["some-day"].doi == "10.1000/x" and shown["some-day"].source == "mine.bib"
        assert shown["some-day"].year == 2019  # what the user's file said
        assert shown["paper-mine"].title == "Took the user's slug"
        with database().read() as db:
            now = dict(db.execute("SELECT slug, id FROM papers").fetchall())
        assert now["some-day"] == ids["Shipped some day"]
        assert now["mega"] == ids["Mega: Moving Average Equipped Gated Attention"]
        [mine] = [row for row in shown.values() if row.title == "A paper of mine"]
        assert mine.slug.startswith("paper-mine-")
    module._OPEN.clear()
    assert paper("densediffusion").tier == 1  # and back again
    assert len(papers()) == 308 + 1 + 1


# --- several at once, and what befalls them


def add_many(path: Path, first: int, turns: int) -> None:
    store = Database(path)
    for turn in range(turns):
        with store.write() as db:
            for n in range(10):
                put(db, Entry(f"Paper number {first + 10 * turn + n}"), "many")


def test_processes_that_write_at_once_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "papers.sqlite"  # not there yet: both seed it, too
    both = [FORK.Process(target=add_many, args=(path, first, 20)) for first in (0, 100)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert count(Database(path)) == 308 + 300  # 100 of them were the same


def die_in_the_middle(path: Path, ready: Any) -> None:
    db = module._connect(str(path), 5)
    db.execute("PRAGMA cache_spill = ON")  # so that half of it is in the file already
    db.execute("PRAGMA cache_size = 10")
    with schema.transaction(db, "BEGIN IMMEDIATE"):
        for n in range(3000):
            put(db, Entry(f"Paper number {n}", abstract="word " * 100), "many")
        ready.set()
        signal.pause()


def test_a_killed_import_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "papers.sqlite"
    store = Database(path, wait=5)
    before = count(store)
    size = path.stat().st_size
    ready = FORK.Event()
    process = FORK.Process(target=die_in_the_middle, args=(path, ready))
    process.start()
    assert ready.wait(60) and process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert path.stat().st_size > size and path.with_name("papers.sqlite-journal").exists()
    assert count(store) == before
    with store.read() as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert not db.execute("SELECT 1 FROM words WHERE words MATCH 'number AND 2999'").fetchall()
    put_one(store, "Life goes on")
    assert count(store) == before + 1


def test_an_exception_undoes_all_of_a_transaction(store: Database) -> None:
    before = count(store)
    with pytest.raises(KeyboardInterrupt), store.write() as db:
        put(db, Entry("Half an import"), "mine")
        raise KeyboardInterrupt
    assert count(store) == before


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_locked_store_says_so_after_the_wait(store: Database, how: str) -> None:
    count(store)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute(f"BEGIN {how}")
    with pytest.raises(FoveateError, match=r"is locked: another process .* more than 0.2 seconds"):
        put_one(store, "Mine")
    if how == "IMMEDIATE":
        assert count(store) == 308  # who only reads does not wait for who only prepares
    else:
        with pytest.raises(FoveateError, match="is locked"):
            count(store)
    other.execute("ROLLBACK")
    other.close()
    put_one(store, "Mine")


def test_a_place_that_cannot_be_written_is_read_from_memory_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FOVEATE_PAPERS", str(tmp_path / "file" / "papers.sqlite"))
    with pytest.warns(UserWarning, match=r"cannot be written \(.*Set FOVEATE_PAPERS") as said:
        assert len(papers()) == 308
        assert search("pointer networks", "words")[0].slug == "pointer-networks"
    assert len([one for one in said if "cannot be written" in str(one.message)]) == 1
    with pytest.raises(FoveateError, match="cannot be written"):
        put_one(database(), "Mine")


def test_a_store_that_may_only_be_read_is_copied_with_what_the_user_added(
    monkeypatch: pytest.MonkeyPatch, store: Database
) -> None:
    put_one(store, "Mine")
    with store.write() as db:
        db.execute("UPDATE meta SET value = 'older' WHERE key = 'catalogue'")
    monkeypatch.setattr(
        module, "_connect", lambda path, wait, really=module._connect: really(
            path if path == ":memory:" else f"file:{path}?mode=ro", wait
        )
    )  # fmt: skip
    real = sqlite3.connect
    monkeypatch.setattr(module.sqlite3, "connect", lambda p, **k: real(p, **{**k, "uri": True}))
    again = Database(store.path)
    with pytest.warns(UserWarning, match="reading it from memory"):
        assert count(again) == 309


@pytest.mark.parametrize(
    "data", [b"no store at all" * 100, b"SQLite format 3\x00" + b"\xff" * 4000]
)
def test_a_damaged_file_is_told_and_left_alone(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "papers.sqlite"
    path.write_bytes(data)
    with pytest.raises(FoveateError, match=r"papers.sqlite is damaged or no store .* move it away"):
        count(Database(path))
    assert path.read_bytes() == data


def test_a_store_that_was_moved_away_is_made_anew(store: Database) -> None:
    put_one(store, "Mine")
    store.path.rename(store.path.with_name("elsewhere.sqlite"))
    assert count(store) == 308
    assert count(Database(store.path.with_name("elsewhere.sqlite"))) == 309


def test_a_store_of_a_newer_foveate_is_left_alone(store: Database) -> None:
    count(store)
    with store.write() as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(FoveateError, match="written by a newer foveate"):
        count(Database(store.path))


def test_without_fts5_papers_are_listed_and_searching_says_why(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_has_fts5", lambda db: False)
    assert len(papers(year=2017)) == 1
    with pytest.raises(FoveateError, match=r"FTS5, which this Python lacks .*leave the words out"):
        papers("sinks")
    monkeypatch.undo()
    monkeypatch.setenv("FOVEATE_PAPERS", str(fresh))
    module._OPEN.clear()  # another Python, which has it
    assert papers("sinks")


def test_the_index_follows_every_change(store: Database) -> None:
    def found(word: str) -> int:
        with store.read() as db:
            sql = "SELECT count(*) FROM words WHERE words MATCH ?"
            return int(db.execute(sql, (word,)).fetchone()[0])

    put_one(store, "Zyzzyva attention")
    assert found("zyzzyva") == 1
    with store.write() as db:
        db.execute("UPDATE papers SET title = 'Quokka attention' WHERE title LIKE 'Zyzz%'")
        db.execute("UPDATE papers SET name = 'Quokka', slug = 'quokka' WHERE title LIKE 'Quokka%'")
    assert (found("zyzzyva"), found("quokka")) == (0, 1)
    with store.write() as db:
        db.execute("DELETE FROM papers WHERE slug = 'quokka'")
        db.execute("INSERT INTO words(words) VALUES ('integrity-check')")  # raises if they differ
    assert found("quokka") == 0
