"""One paper as a file brings it, and what tells whether two are the same."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from dataclasses import dataclass

__all__ = ["BROUGHT", "Entry", "arxiv_id", "doi_of", "title_key"]


# What a file may bring to a paper that is there already, where it has none.
BROUGHT = (
    "abstract",
    "year",
    "date",
    "authors",
    "author_count",
    "organisation",
    "doi",
    "arxiv",
    "url",
)


@dataclass
class Entry:
    """What an importer reads of one paper.

    Attributes
    ----------
    title : str
        Text as it is to be shown; never empty once imported.
    abstract, organisation, url : str or None
    year : int or None
    date : str or None
        ``YYYY-MM-DD``.
    authors : list of str
        Names in their order; empty where they are not known.
    author_count, comments : int or None
        How many authors, where only that is known; how many comments it has.
    doi, arxiv : str or None
        As `doi_of` and `arxiv_id` give them.
    line : int
        Where in its file it begins, from 1.
    """

    title: str
    abstract: str | None = None
    year: int | None = None
    date: str | None = None
    authors: list[str] = dataclasses.field(default_factory=list)
    author_count: int | None = None
    organisation: str | None = None
    comments: int | None = None
    doi: str | None = None
    arxiv: str | None = None
    url: str | None = None
    line: int = 1


def title_key(title: str) -> str:
    """A title without case, accents, spaces and punctuation: equal for the same paper.

    Letters and digits of every script count. A title of signs alone is its own key.
    """
    plain = unicodedata.normalize("NFKD", title).casefold()
    return re.sub(r"[\W_]+", "", "".join(c for c in plain if not unicodedata.combining(c))) or plain


_DOI = re.compile(r"\b(10\.\d{4,9}/[^\s\"<>{}]+)", re.ASCII)
_ARXIV = re.compile(
    r"(?:arxiv(?:\.org/(?:abs|pdf|html)/|[.:\s]\s*)|^)"
    r"(\d{4}\.\d{4,5}|[a-z-]+(?:\.[a-z]{2})?/\d{7})(?:v\d+)?",
    re.IGNORECASE | re.ASCII,
)


def doi_of(text: str | None) -> str | None:
    """The DOI in a text, lower case and without its resolver; None if there is none."""
    found = _DOI.search(text or "")
    return found[1].rstrip(".,;)").lower() if found else None


def arxiv_id(text: str | None) -> str | None:
    """The arXiv identifier in a text, without its version; None if there is none.

    Known forms: ``2403.12345v2``, ``arXiv:cs/0112017``, ``https://arxiv.org/abs/…``, and arXiv's
    own DOIs, ``10.48550/arXiv.2403.12345``.
    """
    found = _ARXIV.search((text or "").strip())
    return found[1].lower() if found else None
