"""What the importers share: decoding, cleaning and dates."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

__all__ = ["Fault", "clean", "date_of", "text_of", "url_of", "year_of"]

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"


class Fault(Exception):
    """What is wrong with a file, and in which of its lines."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(f"line {line}: {what}")
        self.line = line
        self.what = what


def text_of(path: Path) -> str:
    """A file's text, lines ended by ``\\n``: UTF-8, or UTF-16 where a byte order mark says so.

    Raises
    ------
    Fault
        At the line that is in no such encoding. Guessing another one would turn names to
        rubbish without a word.
    """
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Fault(
            line,
            f"byte 0x{data[error.start]:02x} is not {encoding.removesuffix('-sig').upper()}; save "
            f"the file as UTF-8, such as by: iconv -f latin1 -t utf-8 {path.name}",
        ) from None
    if "\x00" in text:
        raise Fault(text.count("\n", 0, text.index("\x00")) + 1, "this is no text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def clean(text: str | None) -> str | None:
    """One line of text without control characters, which a terminal would obey; None if empty."""
    # Spaces of every kind become one; what is left below U+0020 or between U+007F and U+009F goes.
    line = re.sub(r"[\x00-\x1f\x7f-\x9f]", "", " ".join((text or "").split()))
    return line.strip() or None


def url_of(text: str | None) -> str | None:
    """A web address; None for anything else, such as ``javascript:``."""
    url = clean(text)
    return url if url and re.match(r"https?://[^\s<>\"]+$", url, re.IGNORECASE) else None


def year_of(text: str | None) -> int | None:
    """The first number of four digits from 1500 to 2199; None if there is none."""
    found = re.search(r"(?<!\d)(1[5-9]\d\d|2[01]\d\d)(?!\d)", text or "")
    return int(found[1]) if found else None


def date_of(text: str | None, year: int | None = None) -> str | None:
    """A day as ``YYYY-MM-DD``, from ISO 8601, ``Dec 18, 2024`` or ``18 December 2024``.

    Parameters
    ----------
    text : str or None
        With anything behind it.
    year : int, optional
        For a day without one, such as ``Jan 21``.

    Returns
    -------
    str or None
        None if it names no day of the calendar, or no year.
    """
    text = (text or "").strip().lower()
    if found := re.match(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?!\d)", text):
        parts = (found[1], found[2], found[3])
    elif found := re.match(
        rf"{_MONTH}\s+(\d{{1,2}})(?:st|nd|rd|th)?(?:\s*,\s*(\d{{4}}))?(?!\d)", text
    ):
        parts = (found[3], str(_MONTHS.index(found[1]) + 1), found[2])
    elif found := re.match(rf"(\d{{1,2}})\.?\s+{_MONTH}(?:,?\s+(\d{{4}}))?(?!\d)", text):
        parts = (found[3], str(_MONTHS.index(found[2]) + 1), found[1])
    else:
        return None
    if not parts[0] and year is None:
        return None
    try:
        return datetime.date(int(parts[0] or year or 0), int(parts[1]), int(parts[2])).isoformat()
    except ValueError:
        return None
