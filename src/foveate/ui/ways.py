"""The ways to steer that the page offers: methods that need one piece of the prompt, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..methods import ACT, PASTA, AttendTo, Emphasize, Hide, ZeroTuning

__all__ = ["WAYS", "Strength", "Way", "way_for"]


@dataclass(frozen=True)
class Strength:
    """A slider: what it means, and its numbers."""

    label: str
    low: float
    high: float
    usual: float
    step: float


@dataclass(frozen=True)
class Way:
    """One way to steer.

    Attributes
    ----------
    about : str
        What it does, in a sentence.
    kind : type
        The method's class: what papers it implements is read from it.
    make : callable
        ``(region, strength, scope) -> method``, ``scope`` being ``layers=`` and ``heads=``.
    piece : bool
        Whether it speaks of a piece of the prompt.
    strength : Strength or None
    """

    about: str
    kind: type
    make: Callable[[str, float, Mapping[str, Any]], Any]
    piece: bool = True
    strength: Strength | None = None


WAYS: Mapping[str, Way] = {
    "Emphasize": Way(
        "Multiplies the attention that the piece receives; every row is renormalised.",
        Emphasize,
        lambda region, s, scope: Emphasize(region, s, **scope),
        strength=Strength("times more attention", 1, 50, 5, 0.5),
    ),
    "Suppress": Way(
        "Divides the attention that the piece receives; every row is renormalised.",
        Emphasize,
        lambda region, s, scope: Emphasize(region, 1 / s, **scope),
        strength=Strength("times less attention", 1, 50, 5, 0.5),
    ),
    "PASTA": Way(
        "Scales the attention to all of the prompt but the piece down. The paper does so at a few "
        "heads; without heads below, all are steered, which is more than most models bear.",
        PASTA,
        lambda region, s, scope: PASTA(region, 1 / s, **scope),
        strength=Strength("times less for all else (1/α; the paper: 100)", 1, 200, 100, 1),
    ),
    "Hide": Way(
        "Nobody can look at the piece.",
        Hide,
        lambda region, s, scope: Hide(region, **scope),
    ),
    "AttendTo": Way(
        "The last token and every new one look at the piece and at nothing else, each head "
        "spreading its attention over it as it would. Meant for a few heads: name them below.",
        AttendTo,
        lambda region, s, scope: AttendTo(region, weights="own", **scope),
    ),
    "ACT": Way(
        "Finds tokens in mid-sequence that soak up attention and gives most of it to the others. "
        "Needs no piece.",
        ACT,
        lambda region, s, scope: ACT(beta=s, **scope),
        piece=False,
        strength=Strength("share that such tokens keep (β; the paper: 0.4)", 0.05, 1, 0.4, 0.05),
    ),
    "ZeroTuning": Way(
        "Multiplies the first token's attention; all others share what is left. Needs no piece.",
        ZeroTuning,
        lambda region, s, scope: ZeroTuning(s, **scope),
        piece=False,
        strength=Strength("times the first token's attention (γ)", 0.1, 5, 1.7, 0.1),
    ),
}


def way_for(slug: str) -> str | None:
    """The way whose own class implements a paper of the catalogue, if one does."""
    for name, way in WAYS.items():
        if any(record.slug == slug for record in vars(way.kind).get("__implements__", ())):
            return name
    return None
