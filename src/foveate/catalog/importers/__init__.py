"""Files of papers, read: what format a file is in is seen from what it holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from foveate.catalog.entry import Entry
from foveate.catalog.importers import atom, bibtex, page, records, ris
from foveate.catalog.importers._text import Fault, text_of

__all__ = ["FORMATS", "Fault", "read"]

FORMATS: dict[str, Callable[[Path], Iterator[Entry]]] = {
    "Atom": atom.read,
    "BibTeX": lambda path: bibtex.read(text_of(path)),
    "RIS": lambda path: ris.read(text_of(path)),
    "JSON": lambda path: records.read(text_of(path)),
    "text page": lambda path: page.read(text_of(path)),
}
_LOOKED_AT = 1 << 16  # bytes


def read(path: Path) -> tuple[str, Iterator[Entry]]:
    """Recognise a file's format and read its entries one after the other.

    Returns
    -------
    name : str
        One of ``FORMATS``.
    entries : iterator of Entry
        Raises `Fault` at the line that is wrong, when it comes to it.

    Raises
    ------
    Fault
        If the file is empty, binary or of no format known here.
    OSError
        If it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_LOOKED_AT)
    name = _format(start)
    return name, FORMATS[name](path)


def _format(start: bytes) -> str:
    utf16 = start.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = start.decode("utf-16" if utf16 else "utf-8-sig", errors="replace").lstrip()
    if not text:
        raise Fault(1, "the file is empty")
    if text.startswith("<"):
        # What the root is called, past the declaration, comments and a DOCTYPE.
        root = re.search(r"<([A-Za-z][\w:.-]*)", re.sub(r"(?s)<!--.*?-->", "", text))
        name = root[1].lower() if root else ""
        if name.rpartition(":")[2] in ("feed", "entry"):
            return "Atom"
        if "<!doctype html" in text[:1000].lower() or name == "html":
            raise Fault(1, "this is an HTML page; copy its text into a file and add that")
        raise Fault(1, f"this is XML with the root <{name or '?'}>; of XML, Atom feeds are known")
    if "\x00" in text:
        raise Fault(1, "this is no text")
    if re.search(r"(?m)^TY {1,2}- ?", text):
        return "RIS"
    if re.match(r"\{\s*[\"}]|\[\s*[{\[\]]", text):  # "[1] A title" is none
        return "JSON"
    if re.search(r"(?m)^\s*@\s*\w+\s*[{(]", text):
        return "BibTeX"
    return "text page"
