"""A diagnosis for a terminal and for a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ... import display

if TYPE_CHECKING:
    from .result import Diagnosis, Row

__all__ = ["page", "rows", "text"]

HEAD = ("figure", "failing", "passing", "difference, 95 %", "p")


def rows(given: Diagnosis) -> list[tuple[str, ...]]:
    """The figures as cells of text, under :data:`HEAD`."""
    return [
        (row.name, _number(row, "failing"), _number(row, "passing"), _interval(row), _p(row))
        for row in given.figures
    ]


def text(given: Diagnosis) -> str:
    """Sentences, then figures in columns."""
    table = [HEAD, *rows(given)] if given.figures else []
    wide = [max(len(row[i]) for row in table) for i in range(len(HEAD))] if table else []
    lines = [
        "  ".join(
            cell.ljust(size) if i == 0 else cell.rjust(size)
            for i, (cell, size) in enumerate(zip(row, wide, strict=True))
        ).rstrip()
        for row in table
    ]
    return "\n".join([*given.sentences, "", *lines] if lines else given.sentences)


def page(given: Diagnosis) -> str:
    """Sentences, then the figures by group, folded."""
    parts = [display.note(sentence) for sentence in given.sentences]
    groups: dict[str, list[tuple[str, ...]]] = {}
    for row, cells in zip(given.figures, rows(given), strict=True):
        groups.setdefault(row.group, []).append(cells)
    parts += [display.folded(group, display.table(HEAD, cells)) for group, cells in groups.items()]
    return display.lines(*parts)


def _number(row: Row, side: str) -> str:
    value, n = getattr(row, side), getattr(row, f"n_{side}")
    return "–" if value is None else f"{_said(value, row.unit)} ({n})"


def _said(value: float, unit: str) -> str:
    if unit.startswith("share"):
        return f"{100 * value:.1f} %"
    return f"{value:.0f}" if unit in ("tokens", "items") else f"{value:.2f}"


def _interval(row: Row) -> str:
    if row.low is None or row.high is None:
        return "–"
    scale, digits = (100, 1) if row.unit.startswith("share") else (1, 2)
    return f"{scale * row.low:+.{digits}f} to {scale * row.high:+.{digits}f}"


def _p(row: Row) -> str:
    return "–" if row.p is None else f"{row.p:.2g}"
