"""The page of evidence says what the evidence files say."""

from __future__ import annotations

from benchmarks.evidence import PAGE, page, reported

from foveate.catalog import read_evidence
from foveate.catalog.verdicts import EVIDENCE


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == page(), "run `python -m benchmarks.evidence`"


def test_every_row_says_on_how_many_items() -> None:
    rows = [line.split(" | ") for line in page().splitlines() if line.startswith("| ")][1:]
    counts = [int(row[2]) for row in rows]
    assert len(rows) == len(list(EVIDENCE.glob("*.json"))) and min(counts) > 1
    assert f"{min(counts)} to {max(counts)} of them" in page()
    found = read_evidence("focus-directions")
    assert found is not None and reported(found) == found.details["items"]["report"]
