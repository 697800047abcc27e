"""RIS: ``TY  - …`` begins an entry, ``ER  -`` ends it, a tag and a value a line between them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from foveate.catalog.entry import Entry, arxiv_id, doi_of
from foveate.catalog.importers._text import Fault, clean, date_of, url_of, year_of

__all__ = ["read"]

_TAG = re.compile(r"([A-Z][A-Z0-9]) {1,2}-(?: (.*))?$")


def read(text: str) -> Iterator[Entry]:
    """The entries of a text, in their order.

    A line without a tag goes on with the one before.

    Raises
    ------
    Fault
        At a line outside an entry, an entry without a title or without its end.
    """
    fields: dict[str, list[str]] | None = None
    last: list[str] = []
    began = 0
    for number, line in enumerate(text.split("\n"), 1):
        found = _TAG.match(line.rstrip())
        tag, value = (found[1], found[2] or "") if found else ("", line.strip())
        if tag == "TY":
            if fields is not None:
                raise Fault(number, f"the entry of line {began} has no 'ER  -' before this one")
            fields, began, last = {}, number, []
        elif fields is None:
            if line.strip():
                raise Fault(number, f"'TY  - …' is wanted at the begin of an entry: {line!r:.60}")
        elif tag == "ER":
            yield _entry(fields, began)
            fields = None
        elif tag:
            last = fields.setdefault(tag, [])
            last.append(value)
        elif value:
            if not last:
                raise Fault(number, f"a tag such as 'TI  - …' is wanted, not {line!r:.60}")
            last[-1] += f" {value}"
    if fields is not None:
        raise Fault(began, "this entry has no end, 'ER  -'")


def _entry(fields: dict[str, list[str]], line: int) -> Entry:
    def first(*tags: str) -> str | None:
        return next((clean(value) for tag in tags for value in fields.get(tag, []) if value), None)

    title = first("TI", "T1", "CT", "BT")
    if title is None:
        raise Fault(line, "this entry has no title ('TI  - …')")
    names = [clean(name) for tag in ("AU", "A1") for name in fields.get(tag, [])]
    addresses = [url for tag in ("UR", "L1", "L2") for url in fields.get(tag, [])]
    doi = doi_of(first("DO")) or next(filter(None, map(doi_of, addresses)), None)
    arxiv = next(filter(None, map(arxiv_id, [doi or "", *addresses, first("AN") or ""])), None)
    return Entry(
        title=title,
        abstract=first("AB", "N2"),
        year=year_of(first("PY", "Y1", "DA")),
        date=date_of(first("DA", "Y1", "PY")),
        authors=[name for name in names if name],
        doi=doi,
        arxiv=arxiv,
        url=next(filter(None, map(url_of, addresses)), None),
        line=line,
    )
