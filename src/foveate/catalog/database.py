"""The store of papers: one SQLite file of the user's, seeded from the shipped catalogue.

Where: ``$FOVEATE_PAPERS`` (a file) if set, else ``papers.sqlite`` in ``data_folder()``.

How to use it, for the other modules of this room::

    from foveate.catalog.database import database

    with database().read() as db:        # sqlite3.Connection, rows as sqlite3.Row
        rows = db.execute("SELECT id, slug, added FROM papers WHERE added >= ?", (day,)).fetchall()
    with database().write() as db:       # BEGIN IMMEDIATE … COMMIT; ROLLBACK on any exception
        db.execute("UPDATE papers SET comments = ? WHERE id = ?", (3, 17))

Beside it stand, for whoever works on the literature:

- ``foveate.catalog.search.search(words, how="both") -> list[Hit]``: every paper that fits, best
  first; a `Hit` has ``id``, ``slug`` and ``score``. ``how`` is ``"words"``, ``"meaning"`` or
  ``"both"``. ``foveate.catalog.papers(words, area=…, …)`` gives the same as `Paper` objects, with
  their computed status, ``date``, ``comments``, ``added``, ``authors``, ``url`` and ``summary``.
- ``foveate.catalog.add.add(path, dry_run=False) -> Added``: a file of papers put in.
- ``foveate.catalog.command.register(app)`` makes the command ``foveate papers``; the modules that
  have commands under it define ``register(papers_app: typer.Typer)``.

Nothing is opened at import. Both raise `FoveateError` on a store that is locked for too long,
damaged, or written by a newer foveate. Where the file cannot be written, reading works from a
copy in memory (a warning says so once) and ``write()`` refuses.

Tables (``SCHEMA`` of ``schema.py`` and of ``follow_tables.py``):

- ``papers``: one row a paper, shipped or the user's. ``id`` is never reused and survives a change
  of slug: refer to papers by it from other tables. ``added`` is the day it came in,
  ``YYYY-MM-DD``; ``date`` is that of publication, ``YYYY-MM-DD``, often missing; ``comments`` how
  much it is talked about, often missing. Status, basis, implements and evidence are never stored:
  `foveate.catalog.paper` computes them from the code.
- ``words``: the full-text index over ``papers``, kept by triggers.
- ``vectors``: what a sentence encoder makes of a paper's text; dropped by trigger when it changes.
- ``followers``, ``follows``, ``digests``, ``sent``: saved queries, and what each follower has been
  sent (``follow_tables.py``).
- ``meta``: text by key, such as the version of the shipped catalogue.

SQLite's rollback journal is used, not its write-ahead log: it also works on network homes and in
folders that may only be read, and leaves a single file. Writers take turns and readers wait for a
writer's last moment only, both at most ``WAIT`` seconds. A process killed in the middle of a
transaction leaves a journal that the next one to open the file rolls back.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from foveate.catalog.schema import bring_up_to_date, transaction
from foveate.errors import FoveateError

__all__ = ["WAIT", "Database", "data_folder", "database"]

WAIT = 10.0  # seconds to wait for another process before saying that the store is locked


def data_folder() -> Path:
    """The folder for what a user would miss if it were gone, unlike ``foveate.load.home()``.

    Returns
    -------
    Path
        ``$FOVEATE_HOME`` if set, else ``$XDG_DATA_HOME/foveate``, else
        ``~/.local/share/foveate``. It need not exist yet.
    """
    if own := os.environ.get("FOVEATE_HOME"):
        return Path(own).expanduser()
    if data := os.environ.get("XDG_DATA_HOME"):
        return Path(data).expanduser() / "foveate"
    return Path("~/.local/share/foveate").expanduser()


def database() -> Database:
    """The user's store; the same object as long as its place stays the same."""
    own = os.environ.get("FOVEATE_PAPERS")
    path = Path(own).expanduser() if own else data_folder() / "papers.sqlite"
    with _LOCK:
        if path not in _OPEN:
            _OPEN[path] = Database(path)
        return _OPEN[path]


_OPEN: dict[Path, Database] = {}
_LOCK = threading.Lock()


class Database:
    """A store of papers in one file; made, seeded and brought up to date when first used.

    Safe to use from several threads and processes: every ``read()`` and ``write()`` has a
    connection of its own.

    Parameters
    ----------
    path : Path
        The file; it and its folder need not exist.
    wait : float
        Seconds to wait for another process that holds the file.
    """

    def __init__(self, path: Path, wait: float = WAIT) -> None:
        self.path = path
        self._wait = wait
        self._lock = threading.RLock()
        self._ready = False
        self._memory: sqlite3.Connection | None = None
        self._why = ""  # why the file cannot be written, if it cannot

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of the store, whatever others write meanwhile.

        Raises
        ------
        FoveateError
            If the file is locked for longer than the wait, damaged or of a newer foveate.
        """
        with self._connection("BEGIN") as db:
            yield db

    @contextmanager
    def write(self, derived: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are all kept if the block ends well, and none otherwise.

        Parameters
        ----------
        derived : bool
            What is written can be computed anew: the copy in memory may take it.

        Raises
        ------
        FoveateError
            As ``read()``, and if the file cannot be written.
        """
        self._prepare()
        if self._memory is not None and not derived:
            raise FoveateError(
                f"the store of papers cannot be written ({self._why}); set FOVEATE_PAPERS to a "
                "file in a folder of yours"
            )
        with self._connection("BEGIN IMMEDIATE") as db:
            yield db

    @contextmanager
    def _connection(self, begin: str) -> Iterator[sqlite3.Connection]:
        self._prepare()
        with self._told():
            if self._memory is not None:
                with self._lock, transaction(self._memory, begin):
                    yield self._memory
                return
            db = self._connect()
            try:
                with transaction(db, begin):
                    yield db
            finally:
                db.close()

    def _prepare(self) -> None:
        with self._lock:
            # Somebody may have moved the file away since.
            if self._ready and (self._memory is not None or self.path.exists()):
                return
            with self._told():
                try:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    db = self._connect()
                    try:
                        bring_up_to_date(db)
                    finally:
                        db.close()
                except (OSError, sqlite3.OperationalError) as error:
                    if not _is_read_only(error):
                        raise
                    self._fall_back(error)
            self._ready = True

    def _fall_back(self, error: Exception) -> None:
        """Read from a copy in memory, and say so."""
        self._why = f"{self.path}: {getattr(error, 'strerror', None) or error}"
        self._memory = _connect(":memory:", self._wait)
        with suppress(sqlite3.Error):  # there may be no file yet
            there = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)
            try:
                there.backup(self._memory)
            finally:
                there.close()
        bring_up_to_date(self._memory)
        warnings.warn(
            f"the store of papers cannot be written ({self._why}); reading it from memory, and "
            "papers cannot be added. Set FOVEATE_PAPERS to a file in a folder of yours",
            stacklevel=2,
        )

    def _connect(self) -> sqlite3.Connection:
        return _connect(str(self.path), self._wait)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in a sentence what SQLite says in three words."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                fault = (
                    f"is locked: another process has been writing to it for more than "
                    f"{self._wait:g} seconds; try again when it has ended"
                )
            elif name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
                fault = f"is damaged or no store ({error}); move it away, and a new one is made"
            elif name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN")):
                fault = f"cannot be used ({error}); is the disk full, or the folder gone?"
            elif name.startswith("SQLITE_READONLY"):
                fault = "may only be read; set FOVEATE_PAPERS to a file in a folder of yours"
            else:
                raise
            raise FoveateError(f"the store of papers {self.path} {fault}") from error


def _connect(path: str, wait: float) -> sqlite3.Connection:
    # No isolation level: transactions begin and end where this file says.
    db = sqlite3.connect(path, timeout=wait, isolation_level=None, check_same_thread=False)
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA foreign_keys = ON")
    # A long import that ran out of its 2 MB of cache would write early and lock readers out until
    # its end; so it takes the memory of the pages it changes instead.
    db.execute("PRAGMA cache_spill = OFF")
    return db


def _is_read_only(error: Exception) -> bool:
    if isinstance(error, OSError):
        return True
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN"))
