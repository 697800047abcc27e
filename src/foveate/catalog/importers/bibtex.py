"""BibTeX: ``@article{key, title = {…}, …}``, with nested braces, strings, macros and ``#``.

Own code, since bibtexparser 2.1 reads ``title={x} year=2020`` and ``title=`` without a word, and
needs 2 ms an entry where it decodes LaTeX.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from foveate.catalog.entry import Entry, arxiv_id, doi_of
from foveate.catalog.importers._text import Fault, clean, date_of, url_of, year_of

__all__ = ["plain", "read"]

_SPACE = re.compile(r"[\s]*")
_NAME = re.compile(r"[^\s\"#%'(),={}]+")
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]


def read(text: str) -> Iterator[Entry]:
    """The entries of a text, in their order; what stands between them is a comment.

    Raises
    ------
    Fault
        At the line of an entry that is not closed or has no title, and where a field is not
        ``name = value`` with a comma behind it.
    """
    scanner = _Scanner(text)
    macros = {month: str(number) for number, month in enumerate(_MONTHS, 1)}
    while (line := scanner.next_entry()) is not None:
        kind = scanner.name("the kind of an entry").lower()
        if kind == "comment":
            continue
        close = scanner.open()
        if kind == "preamble":
            scanner.value(macros, line)
            scanner.close(close, line)
            continue
        if kind == "string":
            macros |= scanner.fields(close, macros, line)
            continue
        key = "" if scanner.peek() == "," else scanner.name("the key of the entry")
        if scanner.peek() == ",":
            scanner.at += 1
        elif scanner.peek() != close:
            raise Fault(scanner.line(), f"a comma is wanted behind the key {key!r}")
        fields = {name: plain(value) for name, value in scanner.fields(close, macros, line).items()}
        yield _entry(fields, line)


def _entry(fields: dict[str, str], line: int) -> Entry:
    title = clean(fields.get("title"))
    if title is None:
        raise Fault(line, "this entry has no title")
    names = re.split(r"\s+and\s+", fields.get("author", "").strip())
    day = date_of(fields.get("date"))
    address = url_of(fields.get("url"))
    doi = doi_of(fields.get("doi")) or doi_of(address)
    arxiv = None
    if "arxiv" in (fields.get("archiveprefix", "") + fields.get("eprinttype", "")).lower():
        arxiv = arxiv_id(fields.get("eprint"))
    for field in ("journal", "url", "note", "eprint", "volume", "doi"):
        text = fields.get(field, "")
        if arxiv is None and "arxiv" in text.lower():
            arxiv = arxiv_id(text) or arxiv_id(text[text.lower().index("arxiv") :])
    return Entry(
        title=title,
        abstract=clean(fields.get("abstract")),
        year=year_of(fields.get("year")) or year_of(fields.get("date")),
        date=day,
        authors=[name for name in map(_first_last, names) if name and name.lower() != "others"],
        organisation=clean(fields.get("organization")),
        doi=doi,
        arxiv=arxiv,
        url=address,
        line=line,
    )


def _first_last(name: str) -> str | None:
    """``Last, First`` as ``First Last``."""
    parts = [part.strip() for part in name.split(",")]
    return clean(" ".join([*parts[1:][::-1], parts[0]]))


class _Scanner:
    """A text and how far it has been read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self._counted = (0, 1)  # a place, and its line: lines are counted from the last asked for

    def line(self) -> int:
        place, line = self._counted
        line += self.text.count("\n", place, self.at)
        self._counted = (self.at, line)
        return line

    def peek(self) -> str:
        found = _SPACE.match(self.text, self.at)
        assert found
        self.at = found.end()
        return self.text[self.at : self.at + 1]

    def next_entry(self) -> int | None:
        """Go behind the next ``@`` that begins an entry; its line, or None at the end."""
        found = re.compile(r"@(?=\s*\w+\s*[{(])").search(self.text, self.at)
        if found is None:
            return None
        self.at = found.start()
        line = self.line()
        self.at = found.end()
        return line

    def name(self, what: str) -> str:
        self.peek()
        found = _NAME.match(self.text, self.at)
        if found is None:
            raise Fault(self.line(), f"{what} is wanted, not {self._here()}")
        self.at = found.end()
        return found[0]

    def open(self) -> str:
        self.at += self.peek() in ("{", "(")
        return "}" if self.text[self.at - 1] == "{" else ")"

    def close(self, bracket: str, line: int) -> None:
        if self.peek() != bracket:
            raise Fault(self.line(), self._unclosed(line))
        self.at += 1

    def fields(self, bracket: str, macros: dict[str, str], line: int) -> dict[str, str]:
        """``name = value, …`` up to the closing bracket; the first of two same names counts."""
        found: dict[str, str] = {}
        while self.peek() != bracket:
            if not self.peek():
                raise Fault(line, "this entry is not closed")
            name = self.name("the name of a field").lower()
            if self.peek() != "=":
                raise Fault(self.line(), f"'=' is wanted behind {name!r}, not {self._here()}")
            self.at += 1
            found.setdefault(name, self.value(macros, line))
            if self.peek() == ",":
                self.at += 1
            elif self.peek() != bracket:
                raise Fault(self.line(), self._unclosed(line))
        self.at += 1
        return found

    def value(self, macros: dict[str, str], line: int) -> str:
        parts = []
        while True:
            sign = self.peek()
            if sign == "{":
                parts.append(self._braced(line))
            elif sign == '"':
                parts.append(self._quoted(line))
            else:
                word = self.name("a value, in braces or quotes,")
                # A macro nobody defined (a journal's, mostly) stands for itself.
                parts.append(word if word.isdigit() else macros.get(word.lower(), word))
            if self.peek() != "#":
                return "".join(parts)
            self.at += 1

    def _braced(self, line: int) -> str:
        start, depth = self.at, 0
        for found in re.compile(r"\\.|[{}]", re.DOTALL).finditer(self.text, start):
            depth += {"{": 1, "}": -1}.get(found[0], 0)
            if depth == 0 and found[0] == "}":
                self.at = found.end()
                return self.text[start + 1 : self.at - 1]
        raise Fault(line, "a brace of this entry is never closed")

    def _quoted(self, line: int) -> str:
        start, depth = self.at, 0
        for found in re.compile(r'\\.|[{}"]', re.DOTALL).finditer(self.text, start + 1):
            depth += {"{": 1, "}": -1}.get(found[0], 0)
            if depth == 0 and found[0] == '"':
                self.at = found.end()
                return self.text[start + 1 : self.at - 1]
        raise Fault(line, "a quotation mark of this entry is never closed")

    def _here(self) -> str:
        rest = self.text[self.at : self.at + 20].split("\n")[0]
        return repr(rest) if rest else "the end of the file"

    def _unclosed(self, line: int) -> str:
        return f"a comma or the end of the entry of line {line} is wanted, not {self._here()}"


# LaTeX's accents as Unicode's combining signs, and its letters.
_ACCENTS = {
    "`": "\u0300", "'": "\u0301", "^": "\u0302", "~": "\u0303", "=": "\u0304", "u": "\u0306",
    ".": "\u0307", '"': "\u0308", "r": "\u030a", "H": "\u030b", "v": "\u030c", "d": "\u0323",
    "c": "\u0327", "k": "\u0328", "b": "\u0331",
}  # fmt: skip
_LETTERS = {
    "ss": "ß", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "aa": "å", "AA": "Å", "o": "ø", "O": "Ø",
    "l": "ł", "L": "Ł", "i": "ı", "j": "ȷ", "textendash": "–", "textemdash": "—",
    "textasciitilde": "~",
    "alpha": "α", "beta": "β", "gamma": "γ", "lambda": "λ", "mu": "μ", "infty": "∞", "times": "×",
}  # fmt: skip
_ACCENT = re.compile(
    r"\\(?:([`'^~=.\"])|([uvHcdbkr])(?![A-Za-z]))\s*(?:\{\s*(\\?[A-Za-z])\s*\}|(\\?[A-Za-z]))"
)
_COMMAND = re.compile(r"\\([A-Za-z]+)\*?\s*|\\([^A-Za-z\s])")


def plain(text: str) -> str:
    """LaTeX as Unicode: accents, special letters and dashes; other commands leave their argument.

    Mathematics keeps its letters: ``$O(n^2)$`` is ``O(n^2)``.
    """
    if "\\" in text:
        text = _ACCENT.sub(_accented, text)
        text = _COMMAND.sub(lambda found: _LETTERS.get(found[1] or "", found[2] or ""), text)
    text = text.replace("---", "—").replace("--", "–").replace("~", " ")
    return re.sub(r"[{}]|(?<!\\)\$", "", text).replace("``", "“").replace("''", "”")


def _accented(found: re.Match[str]) -> str:
    letter = (found[3] or found[4]).removeprefix("\\")  # \'{\i} is an i with an accent
    return unicodedata.normalize("NFC", letter + _ACCENTS[found[1] or found[2]])
