"""What a diagnosis found, as data: sentences, figures, items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ...errors import FoveateError

__all__ = ["GROUPS", "Diagnosis", "ItemDiagnosis", "Row"]

GROUPS = ("the data", "looked at", "by depth", "by heads", "injection", "did it matter")
"""The groups of figures, in the order they are shown."""


@dataclass(frozen=True)
class Row:
    """One figure: what it is on the items that fail, and on those that pass.

    Attributes
    ----------
    key : str
        Stable, such as ``evidence.last``: for programs.
    name : str
        The same in words.
    group : str
        One of :data:`GROUPS`.
    unit : str
        ``share of attention``, ``nats``, ``tokens``, ``share of items`` …
    failing, passing : float or None
        Means over the items; None where there are none.
    n_failing, n_passing : int
        The items that they come from.
    low, high : float or None
        95 % interval of failing less passing; None where there are too few to say.
    p : float or None
        Of the two-sided test named; None where there are too few to say, or nothing is compared.
    test : str
        ``permutation``, ``Fisher``, ``McNemar``; empty where there is none.
    """

    key: str
    name: str
    group: str
    unit: str
    failing: float | None
    passing: float | None
    n_failing: int
    n_passing: int
    low: float | None = None
    high: float | None = None
    p: float | None = None
    test: str = ""


@dataclass(frozen=True)
class ItemDiagnosis:
    """One item that was looked at.

    Attributes
    ----------
    id : str
    right : bool
        Whether the model, as it is, answered rightly: as it was told.
    located : str
        How the evidence was found: ``given`` (in the item's marks), ``text`` (the answer's words
        stand in one sentence or passage), ``text, several places`` (the one closest to the
        question was taken), ``heads`` (by where copying heads look while the right answer is put
        into the model's mouth), or ``nowhere``.
    evidence : str
        Its text; empty where it was found nowhere.
    passage, passages : int or None, int
        The number of its passage, from 0, and how many there are.
    place : float or None
        Where the middle of the evidence stands in the context, 0 to 1.
    tokens, evidence_tokens : int
        Of the prompt, and of the evidence in it.
    last, answer : dict of str to float
        Shares of attention, mean over all heads: ``evidence``, ``sink``, ``passages`` (other
        context), ``question``, ``rest``; they sum to 1. ``last``: of the last prompt token.
        ``answer``: mean over the tokens that chose the reply, the first of which is ``last``.
    reading, others : float or None
        Share that the reading heads, and all other heads, give the evidence at the last prompt
        token. The reading heads are the twentieth that look at it most in the other passing items.
    entropy : float
        Of the last prompt token's attention, mean over the heads, in nats.
    reply : str
        What was said while that was measured.
    suspicious : str
        The sentence of the context that reads like an instruction; empty without one.
    hidden, raised, control, disarmed : bool or None
        Whether the reply was right with the evidence hidden, with it raised, with another passage
        raised, with the suspicious sentence hidden; None where that was not asked.
    """

    id: str
    right: bool
    located: str
    evidence: str
    passage: int | None
    passages: int
    place: float | None
    tokens: int
    evidence_tokens: int
    last: dict[str, float]
    answer: dict[str, float]
    reading: float | None
    others: float | None
    entropy: float
    reply: str
    suspicious: str = ""
    hidden: bool | None = None
    raised: bool | None = None
    control: bool | None = None
    disarmed: bool | None = None


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """Why items fail, as far as attention can tell: words first, then figures.

    Attributes
    ----------
    sentences : tuple of str
    figures : tuple of Row
    items : tuple of ItemDiagnosis
        Those that were looked at: a seeded sample where time was short.
    failing, passing : int
        Items in all.
    verdict : str
        ``attention`` (raising the evidence mends failures, and raising another passage mends
        fewer), ``elsewhere`` (it mends few, or no context was found), or ``unknown`` (there was
        too little to tell, or no evidence to raise).
    settings : dict
        Seed, gain, seconds, how the evidence was located, which heads read.

    Examples
    --------
    >>> found = fv.diagnose(model, tokenizer, items, right)
    >>> print(found)
    """

    sentences: tuple[str, ...]
    figures: tuple[Row, ...]
    items: tuple[ItemDiagnosis, ...]
    failing: int = 0
    passing: int = 0
    verdict: str = "unknown"
    settings: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Row:
        """The figure of a key."""
        for row in self.figures:
            if row.key == key:
                return row
        there = ", ".join(repr(row.key) for row in self.figures) or "none"
        raise FoveateError(f"There is no figure {key!r}; the figures there are: {there}.")

    def __contains__(self, key: object) -> bool:
        return any(row.key == key for row in self.figures)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON holds it."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Diagnosis:
        """The diagnosis that :meth:`to_dict` gave.

        Raises
        ------
        FoveateError
            If that is no such data.
        """
        try:
            known = {one.name: data[one.name] for one in fields(cls) if one.name in data}
            known["sentences"] = tuple(known["sentences"])
            known["figures"] = tuple(Row(**row) for row in known["figures"])
            known["items"] = tuple(ItemDiagnosis(**item) for item in known["items"])
            return cls(**known)
        except (AttributeError, KeyError, TypeError) as error:
            raise FoveateError(
                f"Diagnosis.of takes what Diagnosis.to_dict gave; this is something else ({error})."
            ) from None

    def __repr__(self) -> str:
        from .show import text

        return text(self)

    def _repr_html_(self) -> str:
        from .show import page

        return page(self)
