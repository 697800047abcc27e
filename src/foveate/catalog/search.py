"""Search by keywords: BM25 over SQLite's full-text index, held in memory."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Sequence

from foveate.errors import FoveateError

__all__ = ["Index"]

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


class Index:
    """A full-text index over documents of several fields.

    Parameters
    ----------
    documents : sequence of sequence of str
        One row per document, one text per field.
    weights : sequence of float
        How much a match in each field counts.

    Raises
    ------
    FoveateError
        If this Python's sqlite3 was built without FTS5.
    """

    def __init__(self, documents: Sequence[Sequence[str]], weights: Sequence[float]) -> None:
        self._weights = ", ".join(map(str, weights))
        fields = [f"field{i}" for i in range(len(weights))]
        # Queries only read, and SQLite serialises them: any thread may ask.
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        try:
            self._db.execute(
                "CREATE VIRTUAL TABLE docs USING fts5("
                f"{', '.join(fields)}, tokenize='porter unicode61')"
            )
        except sqlite3.OperationalError as error:
            raise FoveateError(
                f"searching by words needs SQLite with FTS5, which this Python lacks ({error}); "
                "leave the words out and narrow the list by area, year, needs or status instead"
            ) from error
        marks = ", ".join("?" * (len(fields) + 1))
        self._db.executemany(
            f"INSERT INTO docs(rowid, {', '.join(fields)}) VALUES ({marks})",
            [(i, *document) for i, document in enumerate(documents)],
        )

    def search(self, words: str) -> list[int]:
        """Rank the documents that hold any of the words.

        Documents that hold more of the words come first, then those in which they weigh
        more. Words are stemmed ("sinks" finds "sink"), and one of four letters or more also
        finds what begins with it, for less.

        Parameters
        ----------
        words : str
            What is looked for, in any order.

        Returns
        -------
        list of int
            Numbers of the documents, best first; empty if none of the words occurs.

        Raises
        ------
        FoveateError
            If ``words`` holds no letter and no digit.
        """
        tokens = [word.lower() for word in _WORD.findall(words)]
        if not tokens:
            raise FoveateError(
                f"words={words!r} holds no letter and no digit to search for; "
                "give a keyword, or leave it out to list everything"
            )
        tokens = [token for token in tokens if token not in _STOP] or tokens
        # Quoted, so that no word is read as an operator of the query language. A word's
        # exact form stands beside its beginning and so counts twice.
        terms = [f'("{t}" OR "{t}"*)' if len(t) >= 4 else f'"{t}"' for t in dict.fromkeys(tokens)]
        # bm25 alone lets a document that repeats one word overtake one that has them all.
        hits = Counter(number for term in terms for number in self._match(term))
        best_first = self._match(" OR ".join(terms))
        return sorted(best_first, key=lambda number: -hits[number])

    def _match(self, query: str) -> list[int]:
        rows = self._db.execute(
            "SELECT rowid FROM docs WHERE docs MATCH ? "
            f"ORDER BY bm25(docs, {self._weights}), rowid",
            (query,),
        )
        return [number for (number,) in rows]
