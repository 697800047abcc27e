"""DeCoRe: decoding by contrasting retrieval heads (Gema et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from .._implements import implements
from ..errors import FoveateError
from ..methods.heads import Ablate
from .rules import contrast, entropy, plausible
from .views import Step, View, ViewDecoder

__all__ = ["DeCoRe"]


@implements("decore", basis="paper")
@dataclass(eq=False)
class DeCoRe(ViewDecoder):
    """Contrast the model with itself, its retrieval heads silenced.

    The score of a token is ``(1 + alpha) log p_base - alpha log p_masked``, with ``alpha`` the
    entropy of ``p_base`` in nats: the contrast acts where the model is unsure.

    Parameters
    ----------
    heads : HeadScores.top(k), list of (layer, head), or dict layer -> heads
        The heads silenced in the second view: ``find_heads(model, tokenizer, "retrieval").top(k)``.
    alpha : "entropy" or float
        The paper's dynamic weight, or a fixed one (its static variant: 0.5).
    cap : float, optional
        An upper bound of the entropy weight.
    normalised : bool
        Entropy as a share of ``log V`` instead of nats.
    plausibility : float, optional
        Only tokens at least this share as probable as the best one (contrastive decoding's
        constraint). The official code has none.
    since : {"answer", "prompt"}
        From where heads are silenced.

    Raises
    ------
    FoveateError
        For a weight that is negative or no number, and what heads and decoders refuse.

    Notes
    -----
    Two forwards a token. Source: arXiv 2410.18860 and the official code (aryopg/DeCoRe), which has
    ``cap`` and ``normalised`` too, both off. Two choices where they differ. The paper sets the
    output of a masked head to zero, as here; the code makes its attention uniform. The code's
    generation masks from the last token of the prompt on and shares the prefill between the views
    (``since="answer"``, the default); its scoring of given answers masks the whole prompt
    (``since="prompt"``).

    Examples
    --------
    >>> import foveate as fv
    >>> model, tokenizer = fv.load("smollm2")
    >>> found = fv.find_heads(model, tokenizer, "retrieval", mode="forced", n=4, length=160)
    >>> items = fv.tasks.Counterfactual(n=2, filler=2).items(tokenizer)
    >>> decoder = fv.decoding.DeCoRe(found.top(0.05), alpha=0.5)
    >>> decoder.generate(model, tokenizer, items, max_new_tokens=12)
    """

    heads: Any
    alpha: Literal["entropy"] | float = "entropy"
    cap: float | None = None
    normalised: bool = False
    plausibility: float | None = None
    since: Literal["answer", "prompt"] = "answer"
    views: Sequence[View] = field(init=False, repr=False)
    combine: Callable[[Step], Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("alpha", "cap"):
            value = getattr(self, name)
            if value in ("entropy", None):
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < 0:
                raise FoveateError(f"{name}={value!r} was given; a number from 0 was wanted.")
        if self.plausibility is not None and not 0 < self.plausibility <= 1:
            raise FoveateError(
                f"plausibility={self.plausibility!r} was given; 0 < plausibility <= 1 was wanted."
            )
        self.views = (View(), View(Ablate(self.heads, to="zero"), since=self.since))
        self.combine = self._combine
        super().__post_init__()

    def _combine(self, step: Step) -> Tensor:
        base, masked = step.log_probs
        scores = contrast(base, masked, self.weight(base))
        return scores if self.plausibility is None else plausible(scores, base, self.plausibility)

    def weight(self, base: Tensor) -> Tensor | float:
        """``alpha`` of each row ``[B]`` from the base's log-probabilities ``[B, V]``."""
        if self.alpha != "entropy":
            return float(self.alpha)
        found = entropy(base, normalised=self.normalised)
        return found if self.cap is None else found.clamp(max=self.cap)
