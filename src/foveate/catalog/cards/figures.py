"""What every form of a card says in the same words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..store import Paper

__all__ = ["ORACLE_ONLY", "details", "headline", "number"]

ORACLE_ONLY = "Its formula was checked; its claim cannot be tried at this scale."

_LONGEST = 12  # entries of a list that are shown


def headline(row: Paper) -> str:
    """Year, area, needs and slug in one line."""
    parts = (row.year, row.area, f"needs {row.needs}" if row.needs else None, row.slug)
    return " · ".join(str(part) for part in parts if part)


def number(value: float) -> str:
    """A figure as every card and its plot shows it."""
    return f"{value:.3g}"


def details(value: Any, depth: int = 0) -> Iterator[tuple[int, str]]:
    """The further figures of an experiment as lines with their depth."""
    for key, entry in value.items():
        if isinstance(entry, dict):
            yield depth, f"{key}:"
            yield from details(entry, depth + 1)
        else:
            yield depth, f"{key}: {_plain(entry)}"


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        shown = ", ".join(
            f"({_plain(one)})" if isinstance(one, list) else _plain(one) for one in value[:_LONGEST]
        )
        return shown if len(value) <= _LONGEST else f"{shown}, … ({len(value)} in all)"
    return str(value)
