"""*Papers*: search the literature, read a card, try what one object implements."""

from __future__ import annotations

from typing import Any

from ..catalog import cards, papers
from ..errors import FoveateError
from .frame import frame

__all__ = ["card", "found"]

# kinds of model that papers need; reading them off the catalogue would import every method first
NEEDS = (
    "causal-lm",
    "vlm",
    "vit",
    "encoder-decoder",
    "diffusion",
    "cnn",
    "train-from-scratch",
    "none",
)
MOST_WORDS = 500
SHOWN = 20


def found(words: str, status: str, needs: str, year: str) -> list[tuple[str, str]]:
    """The papers that fit, best first, as (label, slug).

    Parameters
    ----------
    words : str
        What is looked for, in any words; may be empty where a status, needs or a year is given.
    status, needs : str
        One of the catalogue's, or ``"any"``.
    year : str
        Such as 2024; empty is all.

    Raises
    ------
    FoveateError
        For no query at all or one that is too long, and values the catalogue does not know.
    """
    words = (words or "").strip()
    if len(words) > MOST_WORDS:
        raise FoveateError(
            f"The query has {len(words):,} characters; {MOST_WORDS} are enough to say what is "
            "looked for."
        )
    asked = {"status": status, "needs": needs}
    given: dict[str, Any] = {key: value for key, value in asked.items() if value != "any"}
    if year := (year or "").strip():
        if not (year.isascii() and year.isdigit() and len(year) == 4):
            raise FoveateError(f"The year {year[:20]!r} was given; four digits are, such as 2024.")
        given["year"] = int(year)
    if not words and not given:
        raise FoveateError(
            "Say in a few words what you are looking for, or choose a status, needs or a year."
        )
    rows = papers(words or None, **given, limit=SHOWN)
    return [(f"{row.title} ({row.year or 'no year'}) · {row.status}", row.slug) for row in rows]


def card(slug: str) -> str:
    """One paper's card, as a piece of HTML."""
    read = cards.card(slug)
    return frame(cards.page(read), read.paper.title)
