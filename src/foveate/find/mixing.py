"""How far a change of one token spreads through a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._implements import implements
from ..attach import attach
from ..errors import FoveateError
from ..methods.residual import KeepResidual

__all__ = ["perturbation_spread"]


@implements("sink-overmixing", basis="abstract")
@torch.no_grad()
def perturbation_spread(
    model: nn.Module,
    ids: Tensor,
    position: int,
    token: int | Tensor,
    methods: Sequence[Any] = (),
    regions: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Change one token, and see by how much the hidden states of all tokens change.

    Parameters
    ----------
    ids : Tensor
        int64 ``[B, S]`` without padding.
    position : int
        Of the token that is changed.
    token : int or Tensor
        What it becomes: one token, or one a row ``[B]``.
    methods, regions
        As in :func:`foveate.attach`: the model under which both texts are read, for instance
        without its sink: ``Hide("first", queries="rest")``.

    Returns
    -------
    Tensor
        ``[L, B, S]``: ``|h' - h| / |h|`` of what leaves each block. 0 before ``position`` in a
        model that reads from left to right.

    Raises
    ------
    FoveateError
        For a position outside of the text, and ids of other axes.

    Notes
    -----
    Barbero et al., "Why do LLMs attend to the first token?" (2025), argue that the sink slows this
    spread. They look at the representations with and without a BOS token in front; here the same
    text is read with and without attention to its first token.

    Examples
    --------
    >>> import foveate as fv
    >>> from foveate.find import perturbation_spread
    >>> model, tokenizer = fv.load("smollm2")
    >>> prompt = fv.Prompt(tokenizer, "The ferry left the harbour a few minutes after six.")
    >>> ids = prompt.inputs["input_ids"]
    >>> perturbation_spread(model, ids, position=2, token=100)[-1, 0]  # behind the last block
    """
    if not isinstance(ids, Tensor) or ids.dim() != 2:
        raise FoveateError("perturbation_spread takes ids [B, S].")
    if isinstance(position, bool) or not 0 <= position < ids.shape[1]:
        raise FoveateError(
            f"position={position!r} was given; the text has positions 0–{ids.shape[1] - 1}."
        )
    other = ids.clone()
    other[:, position] = torch.as_tensor(token, device=ids.device)
    keep = KeepResidual()
    with attach(model, keep, *methods, regions=regions):
        for one in (ids, other):
            model(input_ids=one, attention_mask=torch.ones_like(one), use_cache=False)
    changes = [
        (b - a).float().norm(dim=-1) / a.float().norm(dim=-1).clamp(min=1e-30)
        for a, b in keep.tensors.values()
    ]
    return torch.stack(changes)
