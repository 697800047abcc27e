"""Massive activations: the few hidden numbers that are thousands of times larger than the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._implements import implements
from ..attach import attach
from ..errors import FoveateError
from ..methods.residual import KeepResidual
from ._tokens import quiet, running

__all__ = ["Massive", "massive_activations", "massive_entries"]


@dataclass(frozen=True)
class Massive:
    """One massive activation.

    Attributes
    ----------
    layer : int
        The block it leaves.
    text, position, dim : int
        Which text, which token, which dimension of the residual.
    value : float
    ratio : float
        Its magnitude over the median magnitude of the text at this layer.
    """

    layer: int
    text: int
    position: int
    dim: int
    value: float
    ratio: float


def massive_entries(
    hidden: Tensor, min_value: float = 100.0, min_ratio: float = 1000.0
) -> list[tuple[int, int, int, float, float]]:
    """``(row, position, dim, value, ratio)`` of the massive entries of ``hidden [B, S, dim]``.

    Those of magnitude above ``min_value`` and ``min_ratio`` times the median magnitude of their
    row; largest first.

    Raises
    ------
    FoveateError
        For a tensor of other axes, and limits that are not positive.
    """
    if not isinstance(hidden, Tensor) or hidden.dim() != 3:
        raise FoveateError("massive_entries takes hidden states [B, S, dim].")
    if not (min_value > 0 and min_ratio > 0):
        raise FoveateError(
            f"min_value={min_value!r}, min_ratio={min_ratio!r} were given; both are above 0."
        )
    size = hidden.float().abs()
    ratio = size / size.flatten(1).median(1).values.clamp(min=1e-30)[:, None, None]
    found = ((size > min_value) & (ratio > min_ratio)).nonzero().tolist()
    entries = [(b, s, d, float(hidden[b, s, d]), float(ratio[b, s, d])) for b, s, d in found]
    return sorted(entries, key=lambda entry: -abs(entry[3]))


@implements("massive-activations", basis="paper")
@torch.no_grad()
def massive_activations(
    model: nn.Module,
    tokenizer: Any,
    *,
    texts: Sequence[str] | None = None,
    n: int = 4,
    length: int = 64,
    seed: int = 0,
    min_value: float = 100.0,
    min_ratio: float = 1000.0,
    stack: str | None = None,
) -> list[Massive]:
    """Find massive activations in what leaves the blocks of a model.

    Parameters
    ----------
    texts : sequence of str, optional
        Each of at least ``length`` tokens; default: ``n`` made up from ``seed``.
    length : int
        Tokens of a text.
    min_value, min_ratio : float
        What counts: magnitude above 100 and around 1,000 times the median of the layer, as the
        paper says.

    Returns
    -------
    list of Massive
        By layer, the largest first within one.

    References
    ----------
    Sun et al., "Massive Activations in Large Language Models" (2024).

    Examples
    --------
    >>> import foveate as fv
    >>> from foveate.find import massive_activations
    >>> model, tokenizer = fv.load("smollm2")
    >>> found = massive_activations(model, tokenizer)
    >>> max(found, key=lambda one: abs(one.value))  # layer=11, position=0, dim=507
    """
    ids = running(tokenizer, n, length, seed, texts).to(next(model.parameters()).device)
    keep = KeepResidual(stack=stack)
    with attach(model, keep):
        quiet(model, ids)
    found = []
    for (_, layer), kept in keep.tensors.items():
        found += [
            Massive(layer, b, s, d, value, ratio)
            for b, s, d, value, ratio in massive_entries(kept[-1], min_value, min_ratio)
        ]
    return found
