"""A vector for every paper: shipped, computed where missing, compared with that of a query.

A paper's vector is the mean of those of its title, its summary and its claim, brought to length
1: each counts alike however long it is. Kept as float16 in the store; compared as one matrix in
memory, which takes 30 MB for 20,000 papers.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Sequence
from importlib import resources

import numpy as np
import numpy.typing as npt

from foveate.catalog.database import Database
from foveate.catalog.encoder import WIDTH, Encoder

__all__ = ["compute", "missing", "nearest", "parts", "shipped_vectors"]

Matrix = npt.NDArray[np.float32]
_BATCH = 64  # papers encoded between two writes: what is lost when it is stopped


def parts(title: str, does: str | None, claim: str | None, abstract: str | None) -> list[str]:
    """The texts whose mean is a paper's vector."""
    return [text for text in (title, does or abstract, claim) if text]


def shipped_vectors(fingerprint: str) -> dict[str, bytes]:
    """The vectors that come with foveate, by `key`; none if another encoder made them."""
    folder = resources.files(__package__).joinpath("data")
    index = json.loads(folder.joinpath("vectors.json").read_text("utf-8"))
    if index["encoder"] != fingerprint:
        return {}
    data = folder.joinpath("vectors.f16").read_bytes()
    size = 2 * WIDTH
    return {key: data[i * size : (i + 1) * size] for i, key in enumerate(index["keys"])}


def key(texts: Sequence[str]) -> str:
    """What tells the texts of one paper from those of another."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]


def missing(store: Database, encoder: Encoder) -> int:
    """How many papers have no vector of this encoder, once the shipped ones are put in."""
    with store.read() as db:
        left = _count_without(db, encoder)
        rows = _without(db, encoder, shipped=True) if left else []
    known = shipped_vectors(encoder.fingerprint) if rows else {}
    found = [(row["id"], known.get(key(_parts(row)))) for row in rows]
    ready = [(paper, vector) for paper, vector in found if vector is not None]
    if ready:
        _keep(store, encoder, ready)
    return left - len(ready)


def compute(
    store: Database, encoder: Encoder, progress: Callable[[int, int], None] | None = None
) -> int:
    """Compute the vectors that are missing and keep them; may be stopped and gone on with.

    Parameters
    ----------
    store, encoder
        Where, and by what.
    progress : callable, optional
        Told now and then how many are done, and of how many.

    Returns
    -------
    int
        How many were computed.
    """
    if not missing(store, encoder):
        return 0
    with store.read() as db:
        rows = _without(db, encoder)
    for start in range(0, len(rows), _BATCH):
        some = rows[start : start + _BATCH]
        _keep(
            store,
            encoder,
            list(zip([row["id"] for row in some], _encode(some, encoder), strict=True)),
        )
        if progress:
            progress(min(start + _BATCH, len(rows)), len(rows))
    return len(rows)


def nearest(store: Database, encoder: Encoder, query: str) -> tuple[npt.NDArray[np.int64], Matrix]:
    """How near every paper with a vector is to a query.

    Returns
    -------
    ids : array, int64, [n]
        Of the papers.
    cosines : array, float32, [n]
        In the same order.
    """
    ids, matrix = _matrix(store, encoder.fingerprint)
    return ids, matrix @ encoder.encode([query])[0]


_KEPT: dict[str, tuple[tuple[object, ...], tuple[npt.NDArray[np.int64], Matrix]]] = {}


def _matrix(store: Database, fingerprint: str) -> tuple[npt.NDArray[np.int64], Matrix]:
    place = str(store.path)
    with store.read() as db:
        # Ids of vectors are never used again: any change shows in one of the two.
        count, last = db.execute("SELECT count(*), max(id) FROM vectors").fetchone()
        state = (id(store), fingerprint, count, last)
        if place not in _KEPT or _KEPT[place][0] != state:
            rows = db.execute(
                "SELECT paper, vector FROM vectors WHERE encoder = ? ORDER BY paper", (fingerprint,)
            ).fetchall()
            ids = np.fromiter((row[0] for row in rows), np.int64, len(rows))
            joined = np.frombuffer(b"".join(row[1] for row in rows), np.float16)
            _KEPT[place] = state, (ids, joined.reshape(-1, WIDTH).astype(np.float32))
        return _KEPT[place][1]


def _count_without(db: sqlite3.Connection, encoder: Encoder) -> int:
    """Counting two indexes is quick; looking for the rows is not."""
    papers, vectors = db.execute(
        "SELECT (SELECT count(*) FROM papers), (SELECT count(*) FROM vectors WHERE encoder = ?)",
        (encoder.fingerprint,),
    ).fetchone()
    return int(papers - vectors)


def _without(db: sqlite3.Connection, encoder: Encoder, shipped: bool = False) -> list[sqlite3.Row]:
    return db.execute(
        "SELECT id, title, does, claim, abstract FROM papers WHERE shipped >= ? AND id NOT IN "
        "(SELECT paper FROM vectors WHERE encoder = ?) ORDER BY id",
        (int(shipped), encoder.fingerprint),
    ).fetchall()


def _parts(row: sqlite3.Row) -> list[str]:
    return parts(row["title"], row["does"], row["claim"], row["abstract"])


def _encode(rows: Sequence[sqlite3.Row], encoder: Encoder) -> list[bytes]:
    texts = [_parts(row) for row in rows]
    coded = encoder.encode([text for some in texts for text in some])
    ends = np.cumsum([len(some) for some in texts])
    means = [some.mean(0) for some in np.split(coded, ends[:-1])]
    return [(mean / np.linalg.norm(mean)).astype(np.float16).tobytes() for mean in means]


def _keep(store: Database, encoder: Encoder, vectors: list[tuple[int, bytes]]) -> None:
    with store.write(derived=True) as db:
        # A paper may have gone, or another process may have been here, since it was read.
        db.executemany(
            "INSERT OR IGNORE INTO vectors(paper, encoder, vector) "
            "SELECT id, ?, ? FROM papers WHERE id = ?",
            [(encoder.fingerprint, vector, paper) for paper, vector in vectors],
        )
