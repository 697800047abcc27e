"""A boundary predictor for DHSA, trained on what a model attends to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ..attach import attach
from ..errors import FoveateError
from ..methods.heads import Capture
from ..patterns.chunks import WINDOW, BoundaryPredictor
from ..prompt import Prompt

__all__ = ["attention_shifts", "fit_boundaries"]

RATIO, FOCUS, POSITIVE = 2.0, 2.0, 1.3  # the authors': labels, focal loss, weight of boundaries
BATCH = 128  # places learnt from together


def fit_boundaries(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    layers: Sequence[int] | None = None,
    epochs: int = 2,
    lr: float = 1e-3,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> BoundaryPredictor:
    """Train one predictor for all layers on texts; the model's own weights stay as they are.

    A key is labelled a boundary where later tokens attend at least twice as much to the four keys
    on one side as to the four on the other (:func:`attention_shifts`).

    Parameters
    ----------
    model, tokenizer
    texts : sequence of str
        Of ten tokens or more. Each is read whole: a square of its tokens is held for one layer at
        a time.
    layers : sequence of int, optional
        Whose keys to learn from; default every fourth.
    epochs, lr, seed
        Of Adam. (The authors: two epochs over long-context data sets with 1e-4.)
    progress : callable, optional
        Called with the texts done and their number.

    Returns
    -------
    BoundaryPredictor
        In evaluation mode, for ``DHSA(boundaries=predictor)``.

    Raises
    ------
    FoveateError
        No text.

    References
    ----------
    Xiong et al. 2025 (arXiv:2510.24606), section 3.2; the authors' ``boundary_predictor/train.py``:
    the labels, focal loss with exponent 2 and weight 1.3.

    Examples
    --------
    >>> predictor = fit_boundaries(model, tokenizer, texts)
    >>> with fv.attach(model, fv.patterns.DHSA(boundaries=predictor)):
    ...     model.generate(**prompt.inputs)
    """
    if isinstance(texts, str) or not texts:
        raise FoveateError("fit_boundaries learns from a list of texts; none was given.")
    layers = list(range(0, model.config.num_hidden_layers, 4) if layers is None else layers)
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    predictor: BoundaryPredictor | None = None
    try:
        for done in range(epochs * len(texts)):
            learnt = _labelled(model, tokenizer, texts[done % len(texts)], layers)
            if predictor is None:
                _, heads, _, size = learnt[0][0].shape
                predictor = BoundaryPredictor(heads * size).to(learnt[0][0].device)
                optimizer = torch.optim.Adam(predictor.parameters(), lr=lr)
            windows = torch.cat([predictor.around(k)[0, :-1] for k, _ in learnt])
            labels = torch.cat([label[0, WINDOW - 1 : -WINDOW - 1] for _, label in learnt])
            for some in torch.randperm(len(labels)).to(labels.device).split(BATCH):
                optimizer.zero_grad()
                _loss(predictor.judged(windows[some]), labels[some]).backward()
                optimizer.step()
            if progress is not None:
                progress(done + 1, epochs * len(texts))
    finally:
        torch.random.set_rng_state(torch_state)
    assert predictor is not None
    return predictor.eval().requires_grad_(False)


def attention_shifts(p: Tensor) -> Tensor:
    """How unevenly later queries attend to the four keys before a place and the four behind it.

    Parameters
    ----------
    p : Tensor
        Causal attention, ``[..., S, S]``.

    Returns
    -------
    Tensor
        ``[..., S]``: the larger of both sums over the smaller, over the queries that see all
        eight keys and one more; 0 near the ends.
    """
    S = p.shape[-1]
    found = p.new_zeros(p.shape[:-1])
    if S <= 2 * WINDOW:
        return found
    later = p.flip(-2).cumsum(-2).flip(-2)  # summed over the queries from a row on
    at = torch.arange(WINDOW - 1, S - WINDOW - 1, device=p.device)
    near = at[:, None] + torch.arange(1 - WINDOW, WINDOW + 1, device=p.device)
    sums = later[..., at[:, None] + WINDOW + 1, near]  # [..., places, 8]
    left, right = sums[..., :WINDOW].sum(-1), sums[..., WINDOW:].sum(-1)
    found[..., at] = (left.maximum(right) + 1e-6) / (left.minimum(right) + 1e-6)
    return found


@torch.no_grad()
def _labelled(
    model: Any, tokenizer: Any, text: str, layers: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Keys ``[1, Hkv, S, D]`` and labels ``[1, S]`` of every layer."""
    prompt = Prompt(tokenizer, text)
    kept = {part: Capture(part, layers=list(layers)) for part in "qk"}
    with attach(model, *kept.values(), prompt=prompt):
        model(**prompt.inputs)
    found = []
    for layer in layers:
        q, k = kept["q"][layer].float(), kept["k"][layer].float()
        S, groups = q.shape[2], q.shape[1] // k.shape[1]
        scores = q @ k.repeat_interleave(groups, 1).mT * q.shape[-1] ** -0.5
        later = torch.ones(S, S, dtype=torch.bool, device=q.device).triu(1)
        p = scores.masked_fill(later, -float("inf")).softmax(-1).mean(1)
        found.append((k, attention_shifts(p) >= RATIO))
    return found


def _loss(logit: Tensor, label: Tensor) -> Tensor:
    """Focal binary cross-entropy."""
    target, weight = label.to(logit.dtype), logit.new_tensor(POSITIVE)
    plain = binary_cross_entropy_with_logits(logit, target, pos_weight=weight, reduction="none")
    right = torch.where(target > 0, logit, -logit).sigmoid()
    return ((1 - right) ** FOCUS * plain).mean()
