"""Atom feeds, as arXiv serves them (RFC 4287, with arXiv's ``arxiv:doi``).

Read piece by piece with expat itself: a feed of any size takes the memory of its longest entry,
and every fault has its line. A document type declaration is refused, and with it entities that
blow up or read files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

from foveate.catalog.entry import Entry, arxiv_id, doi_of
from foveate.catalog.importers._text import Fault, clean, date_of, url_of, year_of

__all__ = ["read"]

_ATOM, _ARXIV = "http://www.w3.org/2005/Atom", "http://arxiv.org/schemas/atom"
_PIECE = 1 << 16  # bytes
_LONGEST = 200_000  # characters of one text: what keeps the memory bounded
# Where in an entry a text stands (its path below <entry>), and what it is called here.
_TEXTS = {
    (f"{_ATOM} title",): "title",
    (f"{_ATOM} summary",): "summary",
    (f"{_ATOM} content",): "content",
    (f"{_ATOM} id",): "id",
    (f"{_ATOM} published",): "published",
    (f"{_ATOM} updated",): "updated",
    (f"{_ATOM} author", f"{_ATOM} name"): "author",
    (f"{_ARXIV} doi",): "doi",
}


def read(path: Path) -> Iterator[Entry]:
    """The entries of a feed, in their order.

    Raises
    ------
    Fault
        At the line where it is no XML, has a document type declaration, or an entry no title.
    """
    feed = _Feed()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            feed.take(piece)
            yield from feed.entries()
        feed.take(b"", last=True)
        yield from feed.entries()
    if not feed.is_atom:
        raise Fault(1, "this is XML, but no Atom feed: nothing is in Atom's namespace")


class _Feed:
    """A feed so far: what expat says goes in, entries come out."""

    def __init__(self) -> None:
        self.is_atom = False
        self._ready: list[Entry] = []
        self._path: list[str] | None = None  # of elements below <entry>; None outside one
        self._texts: dict[str, list[str]] = {}
        self._field = ""  # the one that is being read
        self._line = 0
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.StartDoctypeDeclHandler = self._doctype

    def take(self, piece: bytes, last: bool = False) -> None:
        try:
            self._parser.Parse(piece, last)
        except expat.ExpatError as error:
            what = expat.errors.messages[error.code]
            raise Fault(error.lineno, f"this is not well-formed XML: {what}") from None
        except (LookupError, ValueError) as error:  # an encoding that it names and nobody knows
            raise Fault(self._parser.CurrentLineNumber, f"it cannot be decoded: {error}") from None

    def entries(self) -> Iterator[Entry]:
        ready, self._ready = self._ready, []
        yield from ready

    def _doctype(self, *_: object) -> None:
        raise Fault(
            self._parser.CurrentLineNumber,
            "there is a <!DOCTYPE>, which no feed needs and which can do harm; remove it",
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.is_atom |= name.startswith(_ATOM)
        if self._path is None:
            if name == f"{_ATOM} entry":
                self._path, self._texts = [], {}
                self._line = self._parser.CurrentLineNumber
            return
        self._path.append(name)
        # A text may hold markup of its own (type="xhtml"): its text belongs to the field.
        for length in (1, 2):
            if field := _TEXTS.get(tuple(self._path[:length])):
                if len(self._path) == length:
                    self._texts.setdefault(field, []).append("")
                self._field = field
        if name == f"{_ATOM} link" and attributes.get("rel", "alternate") == "alternate":
            self._texts.setdefault("link", []).append(attributes.get("href", ""))

    def _characters(self, text: str) -> None:
        if self._field:
            texts = self._texts[self._field]
            texts[-1] += text
            if len(texts[-1]) > _LONGEST:
                raise Fault(self._line, f"this <entry> has a text of over {_LONGEST:,} characters")

    def _end(self, name: str) -> None:
        if self._path is None:
            return
        if not self._path:
            self._path = None
            self._ready.append(self._entry())
            return
        self._path.pop()
        if not any(tuple(self._path[:length]) in _TEXTS for length in (1, 2)):
            self._field = ""

    def _entry(self) -> Entry:
        def first(field: str) -> str | None:
            return next((clean(text) for text in self._texts.get(field, [])), None)

        title = first("title")
        if title is None:
            raise Fault(self._line, "this <entry> has no <title>")
        day = first("published") or first("updated")
        address = url_of(first("link")) or url_of(first("id"))
        doi = doi_of(first("doi")) or doi_of(address)
        return Entry(
            title=title,
            abstract=first("summary") or first("content"),
            year=year_of(day),
            date=date_of(day),
            authors=[name for name in map(clean, self._texts.get("author", [])) if name],
            doi=doi,
            arxiv=arxiv_id(first("id")) or arxiv_id(address) or arxiv_id(doi),
            url=address,
            line=self._line,
        )
