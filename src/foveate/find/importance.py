"""Which heads a loss depends on: gate gradients, heads left out, heads left alone, pruning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._implements import implements
from ..adapters.sites import Site
from ..attach import attach
from ..errors import FoveateError
from ..methods._method import Method
from ..methods.heads import Ablate
from ._losses import device_of, grid, loss_of, losses, padded, rows_of
from ._model import ModelId
from .scores import Heads, HeadScores

if TYPE_CHECKING:
    from ..attach import Call

__all__ = ["head_importance", "leave_one_out", "losses", "only_head", "prune_greedily"]

Progress = Callable[[str], None]


class _Gate(Method):
    """Multiply head outputs by gates ``[B, Hq, Sq|1]``, a tensor a layer."""

    def __init__(self, gates: Mapping[int, Tensor]) -> None:
        super().__init__(stack="decoder")
        self.gates = gates

    def outputs(self, out: Tensor, site: Site, call: Call) -> Tensor:
        """The gated outputs."""
        return out * self.gates[site.layer][..., None]


@implements("sixteen-heads", basis="paper")
def head_importance(
    model: nn.Module,
    tokenizer: Any,
    data: Sequence[Any],
    *,
    per: str = "sequence",
    normalise: bool = True,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> HeadScores:
    """How much the loss would move with a gate on each head: ``E |dL / dxi_h|``.

    With a gate ``xi_h = 1`` on the output of head ``h``, ``dL/dxi_h = sum(Att_h * dL/dAtt_h)``: one
    forward and one backward for all heads.

    Parameters
    ----------
    model : torch.nn.Module
        A decoder of transformers, in evaluation mode.
    tokenizer
    data : sequence of str or Item
        Texts (loss: mean negative log-likelihood of every token after the first) or a task's items
        (of the answer's tokens).
    per : {"sequence", "token"}
        What the absolute value is taken of: the gate's gradient on one sequence, as the paper
        writes it, or the part of it that each token's output has, as its released code computes it
        (summed over tokens and divided by their number).
    normalise : bool
        Divide the scores of each layer by their L2 norm (Molchanov et al. 2017), as the paper does
        before it compares heads of different layers.
    batch_size : int
    progress : callable, optional
        Called with a line after each batch.

    Returns
    -------
    HeadScores
        ``[layers, heads]``; lowest first is the order of pruning.

    Raises
    ------
    FoveateError
        For no data, data of another kind, and a model without decoder heads.

    Notes
    -----
    Michel, Levy & Neubig (2019), "Are Sixteen Heads Really Better than One?", section 4.1;
    constants (L2 norm, 1e-20 beside it) from the authors' code. Memory is that of a training step
    without its optimiser. A gradient says what a *small* change does: a head may score low and
    matter when it is gone (a saturated one), which :func:`leave_one_out` sees.

    Examples
    --------
    >>> import foveate as fv
    >>> model, tokenizer = fv.load("smollm2")
    >>> texts = ["The ferry left the harbour after six, when the last boats had come in."]
    >>> scores = fv.head_importance(model, tokenizer, texts)
    >>> prompt = fv.Prompt(tokenizer, "The capital of France is")
    >>> with fv.attach(model, fv.prune_greedily(scores, 0.2)):  # without the lowest fifth
    ...     logits = model(**prompt.inputs).logits
    >>> print(tokenizer.decode(logits[0, -1].argmax()))
    """
    if per not in ("sequence", "token"):
        raise FoveateError(f'per={per!r} was given; it is "sequence" or "token".')
    layers, heads = grid(model)
    rows = rows_of(tokenizer, data)
    total, count = torch.zeros(layers, heads, dtype=torch.float64), 0
    for start in range(0, len(rows), batch_size):
        ids, real, wanted = padded(rows[start : start + batch_size], device_of(model))
        dtype = next(model.parameters()).dtype
        tokens = ids.shape[1] if per == "token" else 1
        gates = {
            layer: torch.ones(len(ids), heads, tokens, dtype=dtype, device=ids.device)
            for layer in range(layers)
        }
        for gate in gates.values():
            gate.requires_grad_()
        with torch.enable_grad(), attach(model, _Gate(gates)):
            loss = loss_of(model, ids, real, wanted)
            grads = torch.autograd.grad(loss.sum(), list(gates.values()))
        for layer, grad in enumerate(grads):
            total[layer] += grad.double().abs().sum((0, 2)).cpu()
        count += int(real.sum()) if per == "token" else len(ids)
        if progress is not None:
            progress(f"head importance: {min(start + batch_size, len(rows))} of {len(rows)}")
    values = total / count
    if normalise:
        values = values / (values.norm(dim=1, keepdim=True) + 1e-20)
    settings = {"per": per, "normalised": normalise, "sequences": len(rows)}
    return HeadScores("importance", values, ModelId.of(model), settings)


def leave_one_out(
    model: nn.Module,
    tokenizer: Any,
    data: Sequence[Any],
    *,
    tokens: int = 2048,
    progress: Progress | None = None,
) -> HeadScores:
    """How much the loss grows when a head is taken out, for every head (the paper's section 3.2).

    Parameters
    ----------
    model, tokenizer, data
        As in :func:`head_importance`.
    tokens : int
        At most so many tokens in one forward. The cost is one forward of the data for each head.

    Returns
    -------
    HeadScores
        Mean growth of the loss, nats a token; negative where the loss is better without the head.
    """
    layers, heads = grid(model)
    gates = torch.ones(layers * heads, layers, heads)
    for layer in range(layers):
        for head in range(heads):
            gates[layer * heads + head, layer, head] = 0.0
    values = _growth(model, tokenizer, data, gates, tokens, progress)
    return HeadScores("loss without the head", values.reshape(layers, heads), ModelId.of(model))


def only_head(
    model: nn.Module,
    tokenizer: Any,
    data: Sequence[Any],
    *,
    tokens: int = 2048,
    progress: Progress | None = None,
) -> HeadScores:
    """How much the loss grows when a head is the only one left of its layer (section 3.3).

    ``scores.values.min(1)`` is what the best single head of each layer costs.

    Parameters
    ----------
    model, tokenizer, data, tokens
        As in :func:`leave_one_out`.
    """
    layers, heads = grid(model)
    gates = torch.ones(layers * heads, layers, heads)
    for layer in range(layers):
        for head in range(heads):
            gates[layer * heads + head, layer] = 0.0
            gates[layer * heads + head, layer, head] = 1.0
    values = _growth(model, tokenizer, data, gates, tokens, progress)
    return HeadScores("loss with this head only", values.reshape(layers, heads), ModelId.of(model))


def prune_greedily(
    scores: HeadScores, fraction: float, *, at_least: int = 0, highest: bool = False
) -> Ablate:
    """The heads with the lowest scores taken out, as a method.

    Parameters
    ----------
    scores : HeadScores
        Of :func:`head_importance`, or of :func:`leave_one_out`.
    fraction : float
        Of all heads, between 0 and 1.
    at_least : int
        Heads of each layer that stay whatever their score.
    highest : bool
        The highest scores instead: a control.

    Returns
    -------
    Ablate
        Zeroes their outputs: what zeroed columns of the output projection do. Its ``pruned`` are
        the heads.

    Raises
    ------
    FoveateError
        For a fraction that is none, or one that ``at_least`` leaves too few heads for.
    """
    if isinstance(fraction, bool) or not 0 < fraction < 1:
        raise FoveateError(f"fraction={fraction!r} was given; a number between 0 and 1 was wanted.")
    order = scores.top(scores.layers * scores.heads, lowest=not highest)
    count = max(1, round(fraction * len(order)))
    kept = dict.fromkeys(range(scores.layers), 0)
    barred = set()
    for layer, head in reversed(order):
        if kept[layer] < at_least:
            kept[layer] += 1
            barred.add((layer, head))
    free = [pair for pair in order if pair not in barred]
    if len(free) < count:
        raise FoveateError(
            f"{count} of {len(order)} heads were to go, but at_least={at_least} a layer leaves "
            f"{len(free)} to choose from."
        )
    heads = Heads(free[:count], (scores.layers, scores.heads))
    method = Ablate(heads=heads)
    method.pruned = heads  # type: ignore[attr-defined]
    return method


def _growth(
    model: nn.Module, tokenizer: Any, data: Sequence[Any], gates: Tensor, tokens: int,
    progress: Progress | None,
) -> Tensor:  # fmt: skip
    """Mean growth of the loss under each set of gates ``[V, L, H]``: ``[V]``."""
    rows = rows_of(tokenizer, data)
    total = torch.zeros(len(gates), dtype=torch.float64)
    gates = gates.to(device_of(model), next(model.parameters()).dtype)
    for number, row in enumerate(rows):
        ids, real, wanted = padded([row], device_of(model))
        size = max(1, tokens // ids.numel())
        with torch.no_grad():
            with attach(model):
                plain = loss_of(model, ids, real, wanted)
            for start in range(0, len(gates), size):
                some = gates[start : start + size]
                held = {layer: some[:, layer, :, None] for layer in range(some.shape[1])}
                batch = (t.expand(len(some), -1) for t in (ids, real, wanted))
                with attach(model, _Gate(held)):
                    total[start : start + size] += (loss_of(model, *batch) - plain).double().cpu()
        if progress is not None:
            progress(f"heads one by one: {number + 1} of {len(rows)} sequences")
    return total / len(rows)
