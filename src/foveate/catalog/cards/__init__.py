"""One page a paper: what it computes, what implements it here, what was seen of its claim.

Nothing on a card is written by hand: the words are the catalogue's, the objects those that
carry ``@implements``, the snippets their docstrings' examples, the figures the evidence file's,
and the labels follow from these.
"""

from __future__ import annotations

from .card import LABELS, Card, Implementation, card, labels
from .html import fragment, page
from .text import markdown, show

__all__ = [
    "LABELS",
    "Card",
    "Implementation",
    "card",
    "fragment",
    "labels",
    "markdown",
    "page",
    "show",
]
