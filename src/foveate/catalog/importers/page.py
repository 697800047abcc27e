"""Text pages as reading lists print them: title, abstract, "• N authors", date; again and again.

Such a page is what a browser gives when its text is copied. There may be blank lines or none, an
organisation between abstract and authors, a number of comments behind the date, no year in the
date, and the word "Subscribe" glued to the first title. An entry ends with its lines of authors
and date; where a page has none of these, with the next line that looks like a title.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from foveate.catalog.entry import Entry
from foveate.catalog.importers._text import Fault, clean, date_of, year_of

__all__ = ["read"]

_BULLET = r"[•·∙▪◦*–-]"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?"
_DAY = rf"(?:Published on\s+)?(?:{_MONTH}\s+\d{{1,2}}(?:,?\s+\d{{4}})?|\d{{4}}-\d\d-\d\d)"
_AUTHORS = re.compile(rf"^(?:(?P<who>.{{2,80}}?)\s*)??{_BULLET}?\s*(?P<n>\d{{1,5}})\s+authors?\b")
_DATE = re.compile(rf"^{_BULLET}?\s*(?P<day>{_DAY})(?:\s+(?P<comments>\d{{1,6}}))?$")
_ONLY_BULLET = re.compile(rf"^{_BULLET}$")
_LONG = 200  # characters: what is longer is no title and no organisation
_ENDS = (".", ":", ";", ",")


def read(text: str) -> Iterator[Entry]:
    """The entries of a page, in their order.

    Raises
    ------
    Fault
        Where authors or a date stand without a title before them, and if nothing on the page
        looks like a title with an abstract or a date.
    """
    found = False
    for block in _blocks(text):
        for entry in _entries(block):
            found = True
            yield entry
    if not found:
        raise Fault(
            1,
            "no format that is known here: BibTeX, RIS, Atom, JSON, or a page of titles, abstracts "
            "and lines such as '• 5 authors' and 'Dec 18, 2024'",
        )


@dataclass
class _Block:
    """Lines up to and with those of authors and date; every line with its number."""

    paragraphs: list[list[tuple[int, str]]] = field(default_factory=list)
    author_count: int | None = None
    organisation: str | None = None
    day: str | None = None
    comments: int | None = None
    line: int = 1

    @property
    def has_end(self) -> bool:
        return self.author_count is not None or self.day is not None


def _blocks(text: str) -> Iterator[_Block]:
    block, gap = _Block(), True
    for number, raw in enumerate(text.split("\n"), 1):
        line = clean(raw)
        if line is None or _ONLY_BULLET.match(line):
            gap = True
            continue
        if block.has_end and not _take(block, line, number):
            yield block
            block, gap = _Block(), True
        elif block.has_end:
            continue
        if _take(block, line, number):
            continue
        if glued := re.match(r"Subscribe(?=$|[^a-z\s])", line):
            line = line[glued.end() :].strip()
            block.paragraphs, gap = [], True  # what stands before is the head of the page
            if not line:
                continue
        if gap:
            block.paragraphs.append([])
        block.paragraphs[-1].append((number, line))
        gap = False
    yield block


def _take(block: _Block, line: str, number: int) -> bool:
    """Take a line of authors, date or comments; False if it is none, or the next entry's."""
    if block.author_count is None and block.day is None and (found := _AUTHORS.match(line)):
        rest = re.sub(rf"^\s*{_BULLET}?\s*", "", line[found.end() :])
        who = (found["who"] or "").rstrip("•·∙▪◦*–- ")
        # "We surveyed 12 authors …" is a sentence of an abstract.
        if rest and not _DATE.match(rest):
            return False
        block.author_count, block.line = int(found["n"]), number
        block.organisation = who or None
        if rest:
            _take(block, rest, number)
        return True
    if block.day is None and (found := _DATE.match(line)):
        block.day, block.line = found["day"].removeprefix("Published on").strip(), number
        block.comments = int(found["comments"]) if found["comments"] else None
        return True
    if block.day is not None and block.comments is None and re.fullmatch(r"\d{1,6}", line):
        block.comments = int(line)
        return True
    return False


def _entries(block: _Block) -> Iterator[Entry]:
    lines = _unwrapped(block.paragraphs)
    if not lines:
        if block.has_end:
            raise Fault(block.line, "authors or a date without a title before them")
        return
    if not block.has_end:
        yield from _pairs(lines)
        return
    # Entries without authors and date may stand before the one that has them.
    *before, mine = _split(lines)
    for some in before:
        yield _entry(some, _Block())
    yield _entry(mine, block)


def _unwrapped(paragraphs: list[list[tuple[int, str]]]) -> list[tuple[int, str]]:
    """Lines as they were before they were broken to a width: a text each."""
    lines: list[tuple[int, str]] = []
    for paragraph in paragraphs:
        number, _first = paragraph[0]
        longest = max(len(line) for _, line in paragraph)
        if len(paragraph) > 1 and longest < _LONG and len(paragraphs) > 1:
            lines.append((number, " ".join(line for _, line in paragraph)))
        else:
            lines += paragraph
    return lines


def _split(lines: list[tuple[int, str]]) -> list[list[tuple[int, str]]]:
    """A list of lines for each entry: a title follows an abstract and has one behind it."""
    groups: list[list[tuple[int, str]]] = [[]]
    for i, (number, line) in enumerate(lines):
        begins = (
            groups[-1]
            and len(groups[-1][-1][1]) >= _LONG
            and _like_title(line)
            and i + 1 < len(lines)
            and len(lines[i + 1][1]) >= _LONG
        )
        if begins:
            groups.append([])
        groups[-1].append((number, line))
    return groups


def _pairs(lines: list[tuple[int, str]]) -> Iterator[Entry]:
    for group in _split(lines):
        if len(group) >= 2 and _like_title(group[0][1]) and len(group[1][1]) >= _LONG:
            yield _entry(group, _Block())


def _like_title(line: str) -> bool:
    return len(line) < _LONG and not line.endswith(_ENDS)


def _entry(lines: list[tuple[int, str]], block: _Block) -> Entry:
    (number, title), rest = lines[0], [line for _, line in lines[1:]]
    organisation = block.organisation
    if len(rest) > 1 and len(rest[-1]) < 80 and _like_title(rest[-1]) and not organisation:
        organisation = rest.pop()
    return Entry(
        title=title,
        abstract=" ".join(rest) or None,  # an identifier in it may be of a paper it cites
        year=year_of(block.day),
        date=date_of(block.day),
        author_count=block.author_count,
        organisation=organisation,
        comments=block.comments,
        line=number,
    )
