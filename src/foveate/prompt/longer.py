"""The inputs of a prompt with more text behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["continued"]


def continued(
    inputs: Mapping[str, Any], tail: Tensor, real: Tensor | None = None
) -> dict[str, Any]:
    """A prompt's inputs with text behind them, and the pictures that belong to them.

    Parameters
    ----------
    inputs : mapping
        :attr:`Prompt.inputs`.
    tail : Tensor
        Token ids ``[B, n]`` of text.
    real : Tensor, optional
        Which of them are no padding, bool ``[B, n]``; default all.
    """
    ids = inputs["input_ids"]
    tail = tail.to(ids)
    added = {"input_ids": tail, "attention_mask": torch.ones_like(tail) if real is None else real}
    longer = {}
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape == ids.shape:  # of what kind each token is
            more = added.get(name, torch.zeros_like(tail))
            value = torch.cat([value, more.to(value)], 1)
        longer[name] = value
    return longer
