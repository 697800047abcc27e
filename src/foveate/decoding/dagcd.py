"""DAGCD: dynamic attention-guided context decoding (Huang et al. 2025)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._implements import implements
from ..engine.measures import rows
from ..errors import FoveateError
from ..methods.measure import Measure
from .rules import entropy
from .utilization import UtilizationProbe, attention_ratios
from .views import Step, View, ViewDecoder

__all__ = ["DAGCD", "guide"]


def guide(log_probs: Tensor, utilization: Tensor, alpha: float) -> Tensor:
    """``log(p + alpha H(p) u)``, not normalised.

    Parameters
    ----------
    log_probs, utilization : Tensor
        ``[B, V]``; each row of ``utilization`` is a distribution, or zero.
    alpha : float
        Times the entropy as a share of ``log V``: a certain model is left alone.
    """
    weight = alpha * entropy(log_probs, normalised=True)
    return torch.log(log_probs.exp() + weight[:, None] * utilization)


@implements("dagcd", basis="paper")
@dataclass(eq=False)
class DAGCD(ViewDecoder):
    """Add to the next token's distribution what a few heads look at in the context.

    A probe on the attention of the query that chooses the next token says which tokens of the
    context are being used. They share one unit of probability by the heads' weighted attention
    ratios (``u``), and ``p + alpha H(p) u`` is decoded from: ``H`` is the entropy as a share of
    ``log V``, so that the push is strongest where the model is unsure.

    Parameters
    ----------
    probe : UtilizationProbe, or path of a saved one
        ``UtilizationProbe.fit(model, tokenizer, items)``.
    alpha : float
        The official code has 4 for chat models, 2 for others.
    rank : int
        Only tokens among the model's own ``rank`` best are pushed.
    region : str
        The context.
    untouched : sequence of int
        Further ids: where one of them is the model's best token, nothing is done.

    Raises
    ------
    FoveateError
        For settings out of range, and a prompt without the region.

    Notes
    -----
    One forward a token; a row of attention of the probe's heads alone is computed beside it.

    Source: arXiv 2501.01059 and the official code (uestc-huangyw/DAGCD): attention averaged over a
    token's occurrences in the context and normalised a head; logistic regression at 0.5; the
    model's best 10 tokens; weights = coefficients as shares of their sum. The code leaves a step
    alone whose best token is a model-specific "end token" (blanks, line breaks, the end of turn,
    for one model the full stop): here tokens of blanks, special tokens and the full stop. A token
    whose weighted ratio is negative, which the code lets pass, counts 0.

    Examples
    --------
    >>> import foveate as fv
    >>> model, tokenizer = fv.load("smollm2")
    >>> known = fv.tasks.Distractors(n=12, seed=1).items(tokenizer)
    >>> probe = fv.decoding.UtilizationProbe.fit(model, tokenizer, known)
    >>> items = fv.tasks.Counterfactual(n=2, filler=2).items(tokenizer)
    >>> fv.decoding.DAGCD(probe).generate(model, tokenizer, items, max_new_tokens=12)
    """

    probe: UtilizationProbe | str | Path
    alpha: float = 4.0
    rank: int = 10
    region: str = "context"
    untouched: Sequence[int] = ()
    views: Sequence[View] = field(init=False, repr=False)
    combine: Callable[[Step], Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.probe, str | Path):
            self.probe = UtilizationProbe.load(self.probe)
        if not isinstance(self.probe, UtilizationProbe):
            raise FoveateError(
                f"probe={self.probe!r} was given; UtilizationProbe.fit(model, tokenizer, items), "
                "or the file of a saved one, was wanted."
            )
        number = isinstance(self.alpha, int | float) and not isinstance(self.alpha, bool)
        if not number or not math.isfinite(self.alpha) or self.alpha < 0:
            raise FoveateError(f"alpha={self.alpha!r} was given; a number from 0 was wanted.")
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise FoveateError(f"rank={self.rank!r} was given; a whole number from 1 was wanted.")
        self.views = (View(Measure(rows(-1), heads=self.probe.by_layer)),)
        self.combine = self._combine
        super().__post_init__()

    def _combine(self, step: Step) -> Tensor:
        if not self.alpha:
            return step.logits[0]
        (base,) = step.log_probs
        return guide(base, self.utilization(step), self.alpha)

    def utilization(self, step: Step) -> Tensor:
        """``u`` of a step, ``[B, V]``; zero in rows where nothing is done."""
        assert isinstance(self.probe, UtilizationProbe)
        (logits,), (prompt,) = step.logits, step.prompts
        if self.region not in prompt.regions:
            raise FoveateError(
                f"DAGCD reads region {self.region!r}; the prompt has "
                f"{', '.join(map(repr, prompt.regions))}: mark it with prompt.mark(…)."
            )
        layers = list(self.probe.by_layer)
        at = [layers.index(layer) for layer, _ in self.probe.heads]
        heads = [head for _, head in self.probe.heads]
        attention = step.measure("rows")  # (L, B, H, Sk), of the probe's layers
        shares = torch.zeros_like(logits)
        for row, scores in enumerate(logits):
            context = prompt.regions[self.region][row]
            if self._leave(int(scores.argmax()), prompt.tokenizer) or not bool(context.any()):
                continue
            ids = prompt.inputs["input_ids"][row]
            rows_of = attention[at, row, heads].float()  # (k, Sk)
            tokens, ratios = attention_ratios(rows_of, ids, context)
            least = scores.topk(min(self.rank, len(scores))).values[-1]
            kept = self.probe.used(ratios) & (scores[tokens] >= least)
            share = (ratios @ self.probe.weights.to(ratios)).clamp(min=0) * kept
            shares[row, tokens] = share / share.sum().clamp(min=1e-8)
        return shares

    def _leave(self, best: int, tokenizer: Any) -> bool:
        if best in self.untouched or best in tokenizer.all_special_ids:
            return True
        return tokenizer.decode([best]).strip() in ("", ".")
