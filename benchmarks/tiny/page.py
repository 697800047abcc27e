"""docs/architectures.md, written from the sweep's results."""

from __future__ import annotations

from typing import Any


def write_page(payload: dict[str, Any]) -> None:
    """To be written."""
