"""Items asked: as they are, and with something raised or hidden. Did it matter?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...attach import attach
from ...methods.emphasis import Emphasize
from ...methods.hide import Hide
from ...tasks import Item
from ...tasks.answering import generate, text_of
from .look import Looked, look, prompted
from .places import Places

__all__ = ["ASKS", "Ask", "Asking"]


@dataclass(frozen=True)
class Ask:
    """One thing that is done to items: to which, and what to.

    Attributes
    ----------
    name : str
        The field of :class:`~foveate.advise.diagnosis.ItemDiagnosis` that it fills.
    region : str
        What is raised or hidden.
    raises : bool
    failing_only : bool
    """

    name: str
    region: str
    raises: bool
    failing_only: bool

    def method(self, gain: float) -> Any:
        """What is attached."""
        return Emphasize(self.region, gain) if self.raises else Hide(self.region)

    def concerns(self, case: Places) -> bool:
        """Whether an item is asked."""
        if self.failing_only and case.right:
            return False
        # what is raised or hidden for the evidence's sake needs one
        return bool(getattr(case, self.region)) and bool(
            case.evidence or self.region == "suspicious"
        )


ASKS = (
    Ask("raised", "evidence", raises=True, failing_only=True),
    Ask("control", "control", raises=True, failing_only=True),
    Ask("hidden", "evidence", raises=False, failing_only=False),
    Ask("disarmed", "suspicious", raises=False, failing_only=True),
)


@dataclass(frozen=True)
class Asking:
    """How items are asked: the settings that :func:`~foveate.advise.diagnosis.diagnose` takes."""

    model: Any
    tokenizer: Any
    judge: Callable[[Item, str], bool]
    gain: float
    batch_size: int
    max_new_tokens: int
    tell: Callable[[int], None]

    def look(self, cases: Sequence[Places]) -> list[Looked]:
        """Where each case looks while it is answered as it is."""
        looked: list[Looked] = []
        for asked in prompted(self.model, self.tokenizer, cases, self.batch_size):
            looked += look(self.model, self.tokenizer, asked, self.max_new_tokens)
            self.tell(len(asked.cases))
        return looked

    def answers(self, cases: Sequence[Places]) -> list[dict[str, bool | None]]:
        """By case and by the name of what was done: whether it is answered rightly under it."""
        found: list[dict[str, bool | None]] = [dict.fromkeys(a.name for a in ASKS) for _ in cases]
        for what in ASKS:
            which = [n for n, case in enumerate(cases) if what.concerns(case)]
            right = self._under(what, [cases[n] for n in which]) if which else []
            for n, good in zip(which, right, strict=True):
                found[n][what.name] = good
        return found

    def _under(self, what: Ask, cases: Sequence[Places]) -> list[bool | None]:
        """None where nothing is left to raise or hide: all of it is the sink."""
        answers: list[bool | None] = []
        method = what.method(self.gain)
        for asked in prompted(self.model, self.tokenizer, cases, self.batch_size):
            inside = asked.regions[what.region]
            with (
                torch.no_grad(),
                attach(self.model, method, prompt=asked.prompt, regions={what.region: inside}),
            ):
                ids = generate(self.model, asked.prompt, self.max_new_tokens)
            for row, case in enumerate(asked.cases):
                reply = text_of(asked.prompt.tokenizer, ids[row])
                there = bool(inside[row].any())
                answers.append(bool(self.judge(case.item, reply)) if there else None)
            self.tell(len(asked.cases))
        return answers
