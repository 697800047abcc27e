"""Who is asked: a live model, or a matrix of recorded answers that stands for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..errors import FoveateError
from ..tasks import Item

if TYPE_CHECKING:
    from .candidates import Candidate

__all__ = ["Answered", "Ask", "OutOfTime", "Recorded"]


@dataclass(frozen=True)
class Answered:
    """One reply: whether it is right, its share of its batch's seconds, the batch's peak bytes;
    and, where they were taken, the seconds and bytes of the model as it is just before.
    """

    id: str
    reply: str
    right: bool
    seconds: float
    memory: int | None = None
    beside: float | None = None
    beside_memory: int | None = None


class OutOfTime(Exception):
    """The time of a stage is spent: what was answered is kept, and the next stage begins."""


class Ask(Protocol):
    """Answers of a candidate to items, in their order.

    Raises
    ------
    OutOfTime
        Before a batch that the time left does not hold.
    """

    def __call__(self, candidate: Candidate, items: Sequence[Item]) -> list[Answered]: ...


@dataclass(frozen=True)
class Recorded:
    """Answers out of a matrix: by the candidate's name and the item's id."""

    answers: Mapping[str, Mapping[str, Answered]]

    def __call__(self, candidate: Candidate, items: Sequence[Item]) -> list[Answered]:
        try:
            known = self.answers[candidate.name]
            return [known[item.id] for item in items]
        except KeyError as error:
            raise FoveateError(
                f"No answer of {candidate.name!r} was recorded for {error.args[0]!r}."
            ) from None
