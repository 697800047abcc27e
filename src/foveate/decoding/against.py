"""What a region of the prompt adds to the answer: contrast with a view from which it is hidden."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import FoveateError
from ..methods.hide import Hide
from .rules import against, checked_plausibility
from .views import Step, View, ViewDecoder

__all__ = ["AgainstHidden"]


@dataclass(eq=False)
class AgainstHidden(ViewDecoder):
    """Contrast the model with itself when it cannot see a region.

    The score of a token is ``(1 + alpha) log p - alpha log p_hidden``, among the plausible ones:
    what the model would say without the picture, or the passage, counts less.

    Parameters
    ----------
    region : str
        What the second view does not see.
    alpha : float
        Weight of the contrast; 0 is plain decoding.
    plausibility : float, optional
        Only tokens at least this share as probable as the best one; None for all.

    Raises
    ------
    FoveateError
        For settings out of range; when decoding, for a prompt without the region.

    Notes
    -----
    Two forwards a token. The rule of context-aware decoding (Shi et al. 2023, "Trusting Your
    Evidence"), which takes the context out of the second prompt; here its tokens keep
    their places and are hidden from attention, so that a picture can be the region.

    Examples
    --------
    >>> import foveate as fv
    >>> from foveate.tasks.shapes import render, scenes
    >>> model, processor = fv.load("shapes-vlm")
    >>> picture = {"type": "image", "image": render(*scenes(1, seed=3))}
    >>> asked = {"type": "text", "text": "describe the picture."}
    >>> prompt = fv.Prompt(processor, [{"role": "user", "content": [picture, asked]}])
    >>> decoder = fv.decoding.AgainstHidden("image", alpha=1.0)
    >>> print(decoder.generate(model, processor, prompt)[0])
    """

    region: str
    alpha: float = 1.0
    plausibility: float | None = 0.1
    views: Sequence[View] = field(init=False, repr=False)
    combine: Callable[[Step], Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        number = isinstance(self.alpha, int | float) and not isinstance(self.alpha, bool)
        if not number or not 0 <= self.alpha < math.inf:
            raise FoveateError(f"alpha={self.alpha!r} was given; a number from 0 was wanted.")
        checked_plausibility(self.plausibility)
        self.views = (View(), View(Hide(self.region)))
        self.combine = self._combine
        super().__post_init__()

    def _combine(self, step: Step) -> Tensor:
        return against(step.log_probs, self.alpha, self.plausibility)
