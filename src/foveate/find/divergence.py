"""Vision-aware head divergence: how much of what a head says comes from the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.sites import Site
from ..attach import Call, attach
from ..engine.program import Program
from ..errors import FoveateError
from ..methods._method import Method
from ..methods.vision.vhr import divergence, last_real
from ._model import ModelId
from .scores import HeadScores

__all__ = ["VHD", "head_outputs", "vhd"]


@dataclass(frozen=True, eq=False)
class VHD:
    """What :func:`vhd` found.

    Attributes
    ----------
    values : Tensor
        Of every item, ``[L, B, Hq]``, float32; 0 where the picture changes nothing.
    scores : HeadScores
        Their mean over items, ``[L, Hq]``: ``.top(k)`` are the most vision-aware heads.
    """

    values: Tensor
    scores: HeadScores

    def token(self, k: int = 4) -> Tensor:
        """T-VHD of each item, ``[B]``: the sum of the ``k`` largest of each layer (equation 5).

        Low where the model says the next token whatever it sees.

        Raises
        ------
        FoveateError
            For a ``k`` that is no number of heads of a layer.
        """
        heads = self.values.shape[-1]
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= heads:
            raise FoveateError(f"k={k!r} was given; a layer has 1 to {heads} heads.")
        return self.values.topk(k, -1).values.sum((0, -1))


def vhd(model: nn.Module, inputs: Any, bare: Any, *, stack: str | None = None) -> VHD:
    """VHD of every head at the last token of each prompt: with the picture and without.

    Parameters
    ----------
    inputs, bare : Prompt or mapping
        What goes to the model with the pictures, and the same without: as many items.

    Returns
    -------
    VHD

    Raises
    ------
    FoveateError
        For other numbers of items.

    Notes
    -----
    He et al., "Cracking the Code of Hallucination in LVLMs with Vision-aware Head Divergence" (ACL
    2025), equation 4; two unedited forwards.
    """
    seen, unseen = (head_outputs(model, one, stack=stack) for one in (inputs, bare))
    items = [next(iter(found.values())).shape[0] for found in (seen, unseen)]
    if items[0] != items[1]:
        raise FoveateError(
            f"{items[0]} items with pictures and {items[1]} without were given; the same prompts "
            "were wanted both times."
        )
    values = torch.stack([divergence(seen[layer], unseen[layer]) for layer in seen]).cpu()
    return VHD(
        values, HeadScores("vhd", values.mean(1), ModelId.of(model), stack=stack or "decoder")
    )


@torch.no_grad()
def head_outputs(model: nn.Module, inputs: Any, *, stack: str | None = None) -> dict[int, Tensor]:
    """Head outputs at the last token of each prompt; without its picture, what VHR compares with.

    Parameters
    ----------
    inputs : Prompt or mapping
        What goes to the model.

    Returns
    -------
    dict of int to Tensor
        Layer -> ``[B, Hq, Dv]``, before the output projection.
    """
    keep = _LastOutputs(stack=stack)
    with attach(model, keep):
        model(**getattr(inputs, "inputs", inputs))
    return keep.kept


class _LastOutputs(Method):
    """Keep the head outputs at the last real query of each item, by layer."""

    def __init__(self, **scope: Any) -> None:
        super().__init__(**scope)
        self.kept: dict[int, Tensor] = {}
        self._real: Tensor | None = None

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        self._real = program.queries
        return program

    def outputs(self, out: Tensor, site: Site, call: Call) -> Tensor:
        self.kept[site.layer] = last_real(out, self._real)
        return out
