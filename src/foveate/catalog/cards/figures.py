"""What every form of a card says in the same words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

from ..store import Paper

__all__ = ["ORACLE_ONLY", "details", "headline", "link", "number", "sections"]

ORACLE_ONLY = "Its formula was checked; its claim cannot be tried at this scale."

_LONGEST = 12  # entries of a list that are shown


def headline(row: Paper) -> str:
    """Whose it is, when, of what family, what it needs, and its slug, in one line."""
    names = ", ".join(row.authors[:4]) + (" and others" if len(row.authors) > 4 else "")
    if not names and row.author_count:
        names = f"{row.author_count} authors"
    talk = None if row.comments is None else f"{row.comments} comments"
    needs = f"needs {row.needs}" if row.needs else None
    parts = (names, row.organisation, row.date or row.year, row.area, needs, talk, row.slug)
    return " · ".join(str(part) for part in parts if part)


def sections(row: Paper) -> list[tuple[str, str]]:
    """What there is to read about a paper: headings and texts."""
    texts = [
        ("What it computes", row.does),
        ("What it claims", row.claim),
        ("How to tell whether it is right", row.check),
    ]
    if not row.does:
        texts.insert(0, ("Abstract", row.abstract or ""))
    return [(heading, text) for heading, text in texts if text]


def link(url: str | None, arxiv: str | None, doi: str | None) -> str | None:
    """Where to read a paper: an http address fit for a link, or None.

    Whatever a file brought as ``url``, nothing but http comes out, and nothing that could end
    the mark-up it stands in.
    """
    try:
        parts = urlsplit(url or "")
        good = parts.scheme in ("http", "https") and bool(parts.netloc)
    except ValueError:
        good = False
    if good:
        plain = "".join(c for c in url or "" if c.isprintable())
        return quote(plain, safe=":/?#[]@!$&'()*+,;=%~")
    if arxiv:
        return "https://arxiv.org/abs/" + quote(arxiv)
    return "https://doi.org/" + quote(doi) if doi else None


def number(value: float) -> str:
    """A figure as every card and its plot shows it."""
    return f"{value:.3g}"


def details(value: Any, depth: int = 0) -> Iterator[tuple[int, str]]:
    """The further figures of an experiment as lines with their depth."""
    for key, entry in value.items():
        if isinstance(entry, dict):
            yield depth, f"{key}:"
            yield from details(entry, depth + 1)
        else:
            yield depth, f"{key}: {_plain(entry)}"


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        shown = ", ".join(
            f"({_plain(one)})" if isinstance(one, list) else _plain(one) for one in value[:_LONGEST]
        )
        return shown if len(value) <= _LONGEST else f"{shown}, … ({len(value)} in all)"
    return str(value)
