"""Write ``docs/papers``: a page for each paper that runs here, and the status of every paper.

``python -m benchmarks.cards`` writes them anew; a test fails while they and the code disagree.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from foveate.catalog import papers
from foveate.catalog.cards import LABELS, Card, card, markdown
from foveate.catalog.cards.plot import svg
from foveate.catalog.cards.text import plain

DOCS = Path(__file__).parent.parent / "docs"
FOLDER = DOCS / "papers"
HEAD = """# Papers and their status

Every paper of the catalogue, and how far it runs here. No label is written by hand: they follow
from the objects that carry `@implements` and from the evidence that `foveate reproduce SLUG` wrote.
This page and those it links are written by `python -m benchmarks.cards`; a test fails while they
and the code disagree. [What was seen of each claim](../evidence.md) has all verdicts in one table.
"""


def pages() -> dict[str, str]:
    """What ``docs/papers`` has to hold, by file name."""
    cards = [card(row) for row in papers()]
    done = [one for one in cards if one.implementations]
    found = {"index.md": _index(cards, done)}
    for one in done:
        slug = one.paper.slug
        plot = svg(one.evidence, ink="#777") if one.evidence else None
        if plot:
            found[f"{slug}.svg"] = plot + "\n"
        found[f"{slug}.md"] = markdown(
            one, plot=f"{slug}.svg" if plot else None, pages=method_pages(slug)
        )
    return found


def method_pages(slug: str) -> dict[str, str]:
    """The pages on methods that speak of a paper: title and place, relative to its own page."""
    word = re.compile(rf"(?<![\w-]){re.escape(slug)}(?![\w-])")
    found = {}
    for page in sorted((DOCS / "methods").glob("*.md")):
        text = page.read_text("utf-8")
        if word.search(text):
            found[text.partition("\n")[0].removeprefix("# ")] = f"../methods/{page.name}"
    return found


def _index(cards: list[Card], done: list[Card]) -> str:
    counts = Counter(label for one in cards for label in one.labels)
    meanings = _table(
        ("label", "papers", "it says"),
        ((label, str(counts[label]), meaning) for label, meaning in LABELS.items()),
    )
    runs = _table(
        ("paper", "year", "label", "objects"),
        (
            (
                f"[{plain(one.paper.title)}]({one.paper.slug}.md)",
                str(one.paper.year or ""),
                "; ".join(one.labels),
                ", ".join(f"`{part.name}`" for part in one.implementations),
            )
            for one in sorted(done, key=_title)
        ),
    )
    parts = [HEAD, meanings, f"## What runs here: {len(done)} of {len(cards)}\n", runs]
    rest = [one for one in cards if not one.implementations]
    for area in sorted({one.paper.area or "" for one in rest}):
        inside = sorted((one for one in rest if one.paper.area == area), key=_title)
        rows = (
            (plain(one.paper.title), str(one.paper.year or ""), "; ".join(one.labels), f"`{slug}`")
            for one in inside
            for slug in (one.paper.slug,)
        )
        parts += [
            f"## Not implemented yet: {area} ({len(inside)})\n",
            _table(("paper", "year", "label", "slug"), rows),
        ]
    return "\n".join(parts)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _title(one: Card) -> str:
    return one.paper.title.casefold()


def main() -> None:
    """Write the pages; what stands there and belongs to no paper that runs goes."""
    with tempfile.TemporaryDirectory() as folder:
        # the shipped papers alone, not the user's own
        os.environ["FOVEATE_PAPERS"] = str(Path(folder) / "papers.sqlite")
        found = pages()
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.iterdir():
        if path.name not in found:
            path.unlink()
    for name, text in found.items():
        (FOLDER / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
