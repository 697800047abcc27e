"""JSON: an object a line, or one list of objects, each a paper with at least a ``title``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from foveate.catalog.entry import Entry, arxiv_id, doi_of
from foveate.catalog.importers._text import Fault, clean, date_of, url_of, year_of

__all__ = ["read"]

# Names under which a field is looked for, the first that is there counts. Others are passed over.
_NAMES = {
    "title": ("title",),
    "abstract": ("abstract", "summary"),
    "year": ("year",),
    "date": ("date", "published", "publication_date"),
    "authors": ("authors", "author"),
    "author_count": ("author_count",),
    "organisation": ("organisation", "organization"),
    "comments": ("comments", "comment_count", "num_comments"),
    "doi": ("doi", "DOI"),
    "arxiv": ("arxiv", "arxiv_id", "eprint"),
    "url": ("url", "URL", "link"),
}


def read(text: str) -> Iterator[Entry]:
    """The entries of a text, in their order.

    Raises
    ------
    Fault
        At a line that is not JSON or no object, or where a field is of the wrong kind.
    """
    if text.lstrip().startswith("["):
        yield from _list(text)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                data = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise Fault(number, f"this is not JSON: {error}") from None
            yield _entry(data, number)


def _list(text: str) -> Iterator[Entry]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise Fault(error.lineno, f"this is not JSON: {error.msg}") from None
    except RecursionError:
        raise Fault(1, "this is JSON, but nested too deep to be a list of papers") from None
    # Where in its file an object of a list begins is not known once it is read.
    for number, data in enumerate(rows, 1):
        yield _entry(data, 1, f"paper {number} of the list: ")


def _entry(data: Any, line: int, where: str = "") -> Entry:
    if not isinstance(data, dict):
        raise Fault(line, f"{where}an object with a 'title' is wanted, not {data!r:.60}")
    found: dict[str, Any] = {}
    for field, names in _NAMES.items():
        values = [data[name] for name in names if data.get(name) not in (None, "", [])]
        found[field] = values[0] if values else None
    for field, kinds in _KINDS.items():
        value = found[field]
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise Fault(line, f"{where}{field!r} must be {_SAID[kinds]}, not {value!r:.60}")
    title = clean(found["title"])
    if title is None:
        raise Fault(line, f"{where}there is no 'title'")
    authors, count = _authors(found["authors"], line, where)
    day = clean(found["date"]) or ""
    # Reading lists print how many comments a paper has behind its date: "Oct 15, 2024 2".
    behind = re.search(r"\d\s+(\d{1,5})$", re.sub(r",\s*\d{4}\b", ",0", day))
    year = found["year"]
    comments = found["comments"]
    return Entry(
        title=title,
        abstract=clean(found["abstract"]),
        year=year_of(str(year)) if year is not None else year_of(day),
        date=date_of(day),
        authors=authors,
        author_count=found["author_count"] or count,
        organisation=clean(found["organisation"]),
        comments=comments if comments is not None else int(behind[1]) if behind else None,
        doi=doi_of(found["doi"]),
        arxiv=arxiv_id(found["arxiv"]) or arxiv_id(found["doi"]) or arxiv_id(found["url"]),
        url=url_of(found["url"]),
        line=line,
    )


_TEXT, _WHOLE, _EITHER, _NAMED = (str,), (int,), (str, int), (str, list)
_SAID = {
    _TEXT: "text",
    _WHOLE: "a whole number",
    _EITHER: "a year",
    _NAMED: "a list of names",
}
_KINDS = {
    **dict.fromkeys(("title", "abstract", "date", "organisation", "doi", "arxiv", "url"), _TEXT),
    **dict.fromkeys(("author_count", "comments"), _WHOLE),
    "year": _EITHER,
    "authors": _NAMED,
}


def _authors(value: Any, line: int, where: str) -> tuple[list[str], int | None]:
    """Names, or how many there are: "5 authors"."""
    if value is None:
        return [], None
    if isinstance(value, str):
        if counted := re.fullmatch(r"\s*(\d{1,5}) authors?\s*", value):
            return [], int(counted[1])
        value = re.split(r"\s*;\s*|\s+and\s+", value)
    names = [name.get("name") if isinstance(name, dict) else name for name in value]
    if not all(isinstance(name, str) for name in names):
        raise Fault(line, f"{where}'authors' must be a list of names, not {value!r:.60}")
    return [name for name in map(clean, names) if name], None
