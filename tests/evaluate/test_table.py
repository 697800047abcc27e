"""The table: its ways out and back in; what it shows is escaped."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from foveate.errors import FoveateError
from foveate.evaluate import Cell, Table
from foveate.evaluate.page import settled

EVIL = "<script>alert('x')</script>|\n"


def cell(method: str, right: list[bool], against: list[bool] | None = None) -> Cell:
    n = len(right)
    return Cell.of(
        task=f"task {EVIL}",
        method=method,
        ids=[f"i{k}" for k in range(n)],
        answers=["a"] * n,
        replies=[EVIL] * n,
        right=right,
        seconds=0.5,
        memory=None if against else 3 * 2**20,
        against=against,
    )


@pytest.fixture
def table() -> Table:
    base = [True] + [False] * 11
    return Table(
        (cell("dense", base), cell("good", [True] * 12, base), cell("same", base, base)),
        "dense",
        {"model": EVIL},
    )


def test_cells(table: Table) -> None:
    assert table.methods == ["dense", "good", "same"] and len(table.tasks) == 1
    assert [settled(one) for one in table.cells] == [0, 1, 0]
    good = table[f"task {EVIL}", "good"]
    assert good.difference == pytest.approx(11 / 12) and good.p == pytest.approx(2 / 2**11)
    with pytest.raises(FoveateError, match="no cell"):
        table["task", "good"]


def test_there_and_back(table: Table, tmp_path: Path) -> None:
    path = table.save(tmp_path / "t.json")
    assert Table.load(path) == table
    assert table.save(tmp_path / "t.md").read_text().startswith("| task | method |")
    assert "<!doctype html>" in table.save(tmp_path / "t.html").read_text()


def test_text(table: Table) -> None:
    text = repr(table)
    assert "good" in text and "12/12" in text and "+91.7" in text and "< 0.001" in text
    lines = table.to_markdown().splitlines()
    assert len(lines) == 7, lines
    assert all(line.count("|") - line.count("\\|") == 11 for line in lines[:5])


def test_pages_are_whole_and_escaped(table: Table) -> None:
    class Check(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.seen: set[str] = set()

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.seen.add(tag)
            if tag != "meta":
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    for text in (table.to_html(), table._repr_html_()):
        check = Check()
        check.feed(text)
        assert not check.open and "script" not in check.seen and "table" in check.seen
        assert "&lt;script&gt;" in text and "http" not in text
        assert text.count('<tr style="background:#2a83">') == 1  # the one method that is better


def test_pandas(table: Table) -> None:
    pytest.importorskip("pandas")
    frame = table.to_pandas()
    assert list(frame["accuracy"]) == [1 / 12, 1.0, 1 / 12] and "replies" not in frame


def test_bad_files(table: Table, tmp_path: Path) -> None:
    with pytest.raises(FoveateError, match=r"\.json, \.md, \.html"):
        table.save(tmp_path / "t.csv")
    with pytest.raises(FoveateError, match="cannot be written"):
        table.save(tmp_path / "no" / "t.json")
    with pytest.raises(FoveateError, match="cannot be read"):
        Table.load(tmp_path / "none.json")
    for text in ("", "[]", '{"format": 1}', '{"format": 1, "cells": [{}], "base": "a"}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(FoveateError, match="holds no table"):
            Table.load(tmp_path / "bad.json")
    (tmp_path / "new.json").write_text('{"format": 99}')
    with pytest.raises(FoveateError, match="format 99"):
        Table.load(tmp_path / "new.json")
