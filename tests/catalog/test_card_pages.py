"""The pages in ``docs/papers`` say what the code and the evidence say."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.cards import DOCS, FOLDER, method_pages, pages

from foveate.catalog import papers


@pytest.fixture(autouse=True)
def shipped_papers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOVEATE_PAPERS", str(tmp_path / "papers.sqlite"))


def test_the_pages_are_up_to_date() -> None:
    wanted, there = pages(), {path.name: path.read_text("utf-8") for path in FOLDER.iterdir()}
    assert there.keys() == wanted.keys(), "run `python -m benchmarks.cards`"
    for name, text in wanted.items():
        assert there[name] == text, f"{name} is stale: run `python -m benchmarks.cards`"


def test_every_paper_stands_in_the_table_once() -> None:
    text = pages()["index.md"]
    for row in papers():
        link = f"({row.slug}.md)" if row.implements else f"`{row.slug}` |"
        assert text.count(link) == 1, row.slug


def test_what_works_is_two_clicks_from_the_docs() -> None:
    """Documentation, a page on the method, the object: the page names the paper."""
    missing = [row.slug for row in papers() if row.implements and not method_pages(row.slug)]
    assert missing == []
    start = (DOCS / "README.md").read_text("utf-8")
    for row in papers():
        for page in method_pages(row.slug).values() if row.implements else ():
            assert page.removeprefix("../") in start, page
