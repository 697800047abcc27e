"""A card as Markdown, and printed in a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.padding import Padding
from rich.syntax import Syntax
from rich.text import Text

from .card import LABELS, Card, Implementation
from .figures import ORACLE_ONLY, details, headline, link, number, sections

__all__ = ["markdown", "plain", "show"]

# What Markdown would read as its own, as entities: a backslash does not shield all of these in
# every dialect.
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>#|~$&]")


def plain(text: str) -> str:
    """A text on one line in which Markdown and HTML find nothing to interpret."""
    return _shielded(" ".join(text.split()))


def _shielded(text: str) -> str:
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", text)


def markdown(card: Card, *, plot: str | None = None, pages: Mapping[str, str] | None = None) -> str:
    """A card as a Markdown page.

    Parameters
    ----------
    card : Card
    plot : str, optional
        Where the plot of its evidence stands, relative to the page.
    pages : mapping of str to str, optional
        Further pages on its method: title and place, relative to the page.

    Returns
    -------
    str
    """
    return "\n\n".join(_blocks(card, plot, pages or {})) + "\n"


def _blocks(card: Card, plot: str | None, pages: Mapping[str, str]) -> Iterator[str]:
    row = card.paper
    yield f"# {plain(row.title)}"
    at = link(row.url, row.arxiv, row.doi)
    yield plain(headline(row)) + (f" · [read it](<{at}>)" if at else "")
    yield "\n".join(f"- **{label}**: {LABELS.get(label, '')}" for label in card.labels)
    if row.note:
        yield plain(row.note)
    for heading, text in sections(row):
        yield f"## {heading}\n\n{plain(text)}"
    yield "## Here"
    if not card.implementations:
        yield "Not implemented yet."
    for one in card.implementations:
        record = one.record
        yield f"`{one.name}` (basis: {record.basis}; {record.maturity}): {_summary(one)}"
        if one.snippet:
            yield f"```python\n{one.snippet}\n```"
    if pages:
        yield "More: " + ", ".join(f"[{plain(title)}]({at})" for title, at in pages.items()) + "."
    if card.implementations:
        yield from _seen(card, plot)


def _summary(one: Implementation) -> str:
    """A docstring's line with its code kept as code."""
    parts = one.summary.split("``")
    return "".join(f"`{part}`" if n % 2 else _shielded(part) for n, part in enumerate(parts))


def _seen(card: Card, plot: str | None) -> Iterator[str]:
    yield "## What was seen"
    found = card.evidence
    if found is None:
        yield "Its claim was not tried yet."
        return
    yield f"`{found.command}`: **{found.verdict}** ({found.date}, commit `{found.commit}`)."
    if found.baseline is None or found.method is None or found.interval is None:
        yield ORACLE_ONLY
    else:
        low, high = found.interval
        yield (
            "| | |\n|---|---:|\n"
            f"| {plain(found.baseline['name'])} | {number(found.baseline['value'])} |\n"
            f"| {plain(found.method['name'])} | {number(found.method['value'])} |\n"
            f"| difference, 95 % interval | {number(low)} to {number(high)} |"
        )
        if plot:
            yield f"![Both values, and the interval of their difference]({plot})"
    lines = [f"{'    ' * depth}- {plain(text)}" for depth, text in details(found.details)]
    if lines:
        yield "All figures:\n\n" + "\n".join(lines)


def show(card: Card, console: Console) -> None:
    """Print a card.

    Parameters
    ----------
    card : Card
    console : rich.console.Console
    """
    row = card.paper

    def put(text: str, style: str = "", indent: int = 2) -> None:
        console.print(Padding(Text(text, style=style), (0, 0, 0, indent)))

    put(row.title, "bold", 0)
    put(headline(row), "dim", 0)
    if at := link(row.url, row.arxiv, row.doi):
        put(at, "dim", 0)
    for label in card.labels:
        console.print(Text.assemble((label, "bold cyan"), f": {LABELS.get(label, '')}"))
    if row.note:
        put(row.note, "yellow", 0)
    for heading, text in sections(row):
        put(f"\n{heading}", "bold", 0)
        put(text)
    put("\nHere", "bold", 0)
    if not card.implementations:
        put("Not implemented yet.")
        return
    for one in card.implementations:
        rests = f"(basis: {one.record.basis}; {one.record.maturity})"
        put(f"{one.name} {rests}: {one.summary.replace('``', '')}")
        if one.snippet:
            code = Syntax("", "python", theme="ansi_dark", background_color="default")
            # Code is there to be copied: neither cropped nor broken, however narrow the window.
            script = code.highlight(textwrap.indent(one.snippet, "    "))
            console.print(script, soft_wrap=True)
    put("\nWhat was seen", "bold", 0)
    _show_seen(card, put)


def _show_seen(card: Card, put: Callable[..., None]) -> None:
    found = card.evidence
    if found is None:
        put("Its claim was not tried yet.")
        return
    put(f"{found.command}: {found.verdict} ({found.date}, commit {found.commit})")
    for side in (found.baseline, found.method):
        if side is not None:
            put(f"{side['name']}: {number(side['value'])}")
    if found.interval is not None:
        low, high = map(number, found.interval)
        put(f"difference, 95 % interval: {low} to {high}")
    for depth, text in details(found.details):
        put(text, "dim", 2 + 2 * depth)
