"""Did it matter? What becomes of the answers when something is hidden or raised."""

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
from .look import prompted
from .places import Places

__all__ = ["ASKS", "Ask", "ask"]

Judge = Callable[[Item, str], bool]


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
    Ask("hidden", "evidence", raises=False, failing_only=False),
    Ask("raised", "evidence", raises=True, failing_only=True),
    Ask("control", "control", raises=True, failing_only=True),
    Ask("disarmed", "suspicious", raises=False, failing_only=True),
)


def ask(
    model: Any,
    tokenizer: Any,
    cases: Sequence[Places],
    what: Ask,
    judge: Judge,
    *,
    gain: float,
    batch_size: int,
    max_new_tokens: int,
    tell: Callable[[int], bool],
) -> list[bool | None]:
    """Whether each case is answered rightly under what is done; None where it was not asked.

    ``tell`` is called with the number of answers just given, and says whether to go on.
    """
    answers: list[bool | None] = []
    method = what.method(gain)
    for asked in prompted(model, tokenizer, cases, batch_size):
        inside = asked.regions[what.region]
        with (
            torch.no_grad(),
            attach(model, method, prompt=asked.prompt, regions={what.region: inside}),
        ):
            ids = generate(model, asked.prompt, max_new_tokens)
        for row, case in enumerate(asked.cases):
            reply = text_of(asked.prompt.tokenizer, ids[row])
            answers.append(bool(judge(case.item, reply)) if bool(inside[row].any()) else None)
        if not tell(len(asked.cases)):
            break
    return answers + [None] * (len(cases) - len(answers))
