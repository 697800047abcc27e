"""A digest as plain text, Markdown, a page and an Atom feed."""

from __future__ import annotations

import datetime
import textwrap
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .cards.text import plain
from .digest import FORMULA, Item
from .follow import MARK, stamp

__all__ = ["WRITERS", "Issue", "counted", "feed", "html", "markdown", "text"]

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://foveate.invalid/papers")
_SHOWN = 500  # characters of a summary


@dataclass(frozen=True)
class Issue:
    """One digest: when it was made, and what is in it.

    Attributes
    ----------
    at : datetime.datetime
        UTC.
    items : sequence of Item
        Best first.
    """

    at: datetime.datetime
    items: Sequence[Item]


def text(issues: Sequence[Issue]) -> str:
    """Plain text, for a terminal and for mail.

    Parameters
    ----------
    issues : sequence of Issue
        The newest first.

    Returns
    -------
    str
    """
    lines = []
    for issue in issues:
        lines += [f"{issue.at:%Y-%m-%d}: {counted(len(issue.items))}", ""]
        for n, item in enumerate(issue.items, start=1):
            lines += textwrap.wrap(
                f"{n}. {item.title}", 88, subsequent_indent="   ", break_long_words=False
            )
            lines += [f"   {_meta(item)}"] + ([f"   {item.url}"] if item.url else [])
            lines += textwrap.wrap(_short(item), 88, initial_indent="   ", subsequent_indent="   ")
            lines.append("")
    return "\n".join([*lines, *textwrap.wrap(FORMULA, 88)]) + "\n"


def markdown(issues: Sequence[Issue]) -> str:
    """Markdown; texts are shielded from it. As for `text`."""
    parts = [f"<!-- {MARK} -->\n# New papers"]
    for issue in issues:
        parts.append(f"## {issue.at:%Y-%m-%d}: {counted(len(issue.items))}")
        for n, item in enumerate(issue.items, start=1):
            title = plain(item.title)
            head = f"[{title}](<{item.url}>)" if item.url else title
            lines = [f"{n}. **{head}**", plain(_meta(item)), plain(_short(item))]
            parts.append("  \n   ".join(line for line in lines if line))
    return "\n\n".join([*parts, plain(FORMULA)]) + "\n"


def html(issues: Sequence[Issue]) -> str:
    """A page of its own; nothing of a paper is interpreted. As for `text`."""
    parts = []
    for issue in issues:
        items = "".join(_entry(item) for item in issue.items)
        parts.append(f"<h2>{issue.at:%Y-%m-%d}: {counted(len(issue.items))}</h2><ol>{items}</ol>")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="generator" '
        f'content="{MARK}"><meta name="viewport" content="width=device-width, initial-scale=1">'
        "<title>New papers</title><style>:root{color-scheme:light dark}body{font:15px/1.5 "
        "system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}li{margin:1rem 0}"
        ".meta,footer{opacity:.75;font-size:13px}</style></head><body><h1>New papers</h1>"
        f"{''.join(parts)}<footer>{escape(FORMULA)}</footer></body></html>\n"
    )


def feed(issues: Sequence[Issue], key: str = "foveate", since: str | None = None) -> str:
    """An Atom feed (RFC 4287): one entry a paper, its id the same for ever.

    Parameters
    ----------
    issues : sequence of Issue
        The newest first.
    key : str
        Tells one feed from every other, since the ids of its entries hang on it.
    since : str, optional
        When the feed began: its time while it is empty.

    Returns
    -------
    str
        XML in UTF-8.
    """
    root = ET.Element("feed", xmlns="http://www.w3.org/2005/Atom")
    _add(root, "id", _urn("feed", key))
    _add(root, "title", "New papers")
    _add(root, "subtitle", FORMULA)
    _add(root, "generator", MARK)
    updated = stamp(issues[0].at) if issues else since or "1970-01-01T00:00:00Z"
    _add(root, "updated", updated)
    _add(_add(root, "author"), "name", "foveate")
    for issue in issues:
        for item in issue.items:
            entry = _add(root, "entry")
            _add(entry, "id", _urn("paper", key, str(item.id)))
            _add(entry, "title", item.title)
            _add(entry, "updated", stamp(issue.at))
            if item.authors:
                _add(_add(entry, "author"), "name", item.authors)
            if item.url:
                _add(entry, "link").set("href", item.url)
            _add(entry, "summary", f"{_meta(item)}. {_short(item)}")
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


WRITERS = {".md": markdown, ".html": html, ".xml": feed, ".atom": feed, ".txt": text}
"""What writes a digest, by the ending of the file."""


def counted(n: int) -> str:
    """So many papers, in words."""
    return f"{n} new paper{'' if n == 1 else 's'}"


def _urn(*parts: str) -> str:
    return f"urn:uuid:{uuid.uuid5(_NAMESPACE, '/'.join(parts))}"


def _add(parent: ET.Element, tag: str, words: str | None = None) -> ET.Element:
    found = ET.SubElement(parent, tag)
    found.text = words
    return found


def _entry(item: Item) -> str:
    title = escape(item.title)
    if item.url:
        title = f'<a href="{escape(item.url)}">{title}</a>'
    return (
        f'<li><strong>{title}</strong><div class="meta">{escape(_meta(item))}</div>'
        f"<div>{escape(_short(item))}</div></li>"
    )


def _meta(item: Item) -> str:
    talk = "" if item.comments is None else f"{item.comments} comments"
    fits = f"fits “{item.query}” ({item.score:.2f})"
    return " · ".join(part for part in (item.authors, item.date, talk, item.slug, fits) if part)


def _short(item: Item) -> str:
    return textwrap.shorten(item.text, _SHOWN, placeholder=" …")
