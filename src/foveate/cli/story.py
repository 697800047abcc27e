"""What the stories of ``foveate demo --vision`` share: a remedy, and how a case is picked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..report.vision import Count

__all__ = ["Remedy", "case", "counted"]


@dataclass(frozen=True)
class Remedy:
    """What is attached in the second telling or decodes it, and how to write it."""

    written: str
    methods: tuple[Any, ...] = ()
    decoder: Any = None


def case(ranks: Sequence[int], kinds: Sequence[str]) -> tuple[int, str]:
    """The first of the best cases (0 is best), and how it was chosen; ``kinds`` tells the ranks."""
    best = min(ranks)
    at, n = ranks.index(best), len(ranks)
    if best >= len(kinds):
        return at, f"Case 1 of {n}: none of them goes wrong as it is."
    return at, (
        f"Case {at + 1} of {n}, picked to show: the first in which {kinds[best]}. There are "
        f"{ranks.count(best)} such; the counts below are of all {n}."
    )


def counted(what: str, before: Iterable[Any], after: Iterable[Any], *, more: bool = True) -> Count:
    """Cases that hit, without and with a method; ``more`` of them is better."""
    return Count(what, tuple(map(float, before)), tuple(map(float, after)), more)
