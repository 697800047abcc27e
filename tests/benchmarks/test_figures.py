"""The page of figures is what the recorded results say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import figures


def test_the_page_is_that_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = figures.PAGE.read_text()
    monkeypatch.setattr(figures, "PAGE", tmp_path / "figures.md")
    figures.main()
    assert figures.PAGE.read_text() == page
