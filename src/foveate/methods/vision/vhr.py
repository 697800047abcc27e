"""VHR: the heads whose output changes most with the picture speak louder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..._implements import implements
from ...adapters.sites import Site
from ...engine.program import Program
from ...errors import FoveateError
from .._method import Method
from .._scope import Scope

if TYPE_CHECKING:
    from ...attach import Call

__all__ = ["VHR", "divergence", "last_real", "vision_aware"]

LAST = 14  # layers, and the second: where the paper has it for LLaVA


@implements("vhr", basis="paper")
class VHR(Method):
    """Multiply the output of vision-aware heads by ``factor``.

    Each head's output at the last token of the prompt is compared with what the same head gives
    when the picture is taken away: the Euclidean distance is its VHD. In every layer the half of
    the heads above the median is multiplied, at all queries, from the prompt on; which heads, each
    item of a batch has its own. Layers are judged one after the other, with what the layers before
    have already been given. Outputs of heads are scaled (type d): no second pass, but one forward
    of the prompt without its picture, made beforehand by :func:`foveate.find.head_outputs`.

    Parameters
    ----------
    without : mapping of int to Tensor
        Layer -> head outputs ``[B, Hq, Dv]`` at the last token of the prompt without the picture,
        of the same items in the same order; attached without ``prompt=``, rows that divide the
        batch are taken for its beams.
    factor : float
        At least 0; 2 in the paper. 1 changes nothing, below 1 weakens.
    outliers : bool
        Whether heads that surge when the picture is gone are left out (equation 6): VHD and
        squared norm without the picture both above mean plus standard deviation of the layer.
    heads : optional
        Only these heads may be multiplied; all of a layer are compared.
    layers : int or sequence of int, optional
        Default: the second and the last 14, as in the paper for LLaVA (and never the first).
    phase, stack, steps
        As in :class:`~foveate.methods._method.Method`.

    Attributes
    ----------
    selected : dict of str to Tensor
        The heads multiplied, by site: bool ``[B, Hq]``.

    Raises
    ------
    FoveateError
        For a factor out of range, and where ``without`` lacks a layer or was made of other heads or
        items.

    Notes
    -----
    He et al., "Cracking the Code of Hallucination in LVLMs with Vision-aware Head Divergence" (ACL
    2025), equations 4, 6 and 7, Algorithm 1, section 4.4. The run without the picture is an
    unedited one. By ports of it, the released code takes squared distances, in equation 6 too, and
    looks for outliers only where their standard deviation exceeds 1; here it is as the paper
    writes it. Chunks of one prefill are each judged by their last token, the last chunk holds.

    Examples
    --------
    >>> import foveate as fv
    >>> from foveate.tasks.shapes import render, scenes
    >>> model, processor = fv.load("shapes-vlm")
    >>> (scene,) = scenes(1, seed=0)
    >>> picture = {"type": "image", "image": render(scene)}
    >>> text = {"type": "text", "text": "describe the picture."}
    >>> prompt = fv.Prompt(processor, [{"role": "user", "content": [picture, text]}])
    >>> bare = fv.Prompt(processor, [{"role": "user", "content": [text]}])
    >>> method = fv.VHR(fv.find.head_outputs(model, bare), factor=1.3)
    >>> with fv.attach(model, method, prompt=prompt):
    ...     ids = model.generate(**prompt.inputs, max_new_tokens=20)
    >>> print(processor.decode(ids[0, prompt.length :]))
    """

    def __init__(
        self,
        without: Mapping[int, Tensor],
        factor: float = 2.0,
        outliers: bool = True,
        heads: Any = None,
        layers: Any = None,
        phase: str | None = None,
        stack: Any = None,
        steps: Any = None,
    ) -> None:
        good = isinstance(without, Mapping) and bool(without)
        if not good or not all(isinstance(t, Tensor) and t.dim() == 3 for t in without.values()):
            raise FoveateError(
                "VHR takes {layer: head outputs [B, Hq, Dv]} of the prompt without its picture: "
                f"find.head_outputs(model, bare) makes it; {without!r:.60} was given."
            )
        number = isinstance(factor, int | float) and not isinstance(factor, bool)
        if not number or not 0 <= factor < float("inf"):
            raise FoveateError(f"VHR takes a finite factor from 0; {factor!r} was given.")
        self.without = dict(without)
        self.factor = float(factor)
        self.outliers = bool(outliers)
        super().__init__(layers=layers, heads=heads, phase=phase, stack=stack, steps=steps)
        self.scope.from_the_prompt("VHR", "chooses the heads at the end of the prompt")
        if layers is None and not isinstance(self.scope.heads, dict):
            self.scope = _SecondAndLast(**vars(self.scope))
        self.selected: dict[str, Tensor] = {}
        self._real: Tensor | None = None

    def stands_for(self, model: Any, prompt: Any, regions: Any) -> Sequence[Any]:
        """Itself, if the prompt has as many items as were looked at without the picture."""
        held, items = len(next(iter(self.without.values()))), getattr(prompt, "batch_size", None)
        if items not in (None, held):
            raise FoveateError(
                f"VHR was given head outputs of {held} item(s) without the picture, and the prompt "
                f"has {items}: make them of the same items, find.head_outputs(model, bare)."
            )
        return (self,)

    def check(self, site: Site) -> None:
        """Refuse a site that there is nothing to compare with."""
        held = self.without.get(site.layer)
        if held is None:
            raise FoveateError(
                f"VHR acts on layer {site.layer} ({site.name}), and without= has the layers "
                f"{sorted(self.without)}: make it of the same model."
            )
        if site.heads is not None and held.shape[1] != site.heads:
            raise FoveateError(
                f"VHR was given outputs of {held.shape[1]} heads; {site.name} has {site.heads}."
            )

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """Note which queries are real; the program stays."""
        self._real = program.queries
        return program

    def outputs(self, out: Tensor, site: Site, call: Call) -> Tensor:
        """The head outputs, those of vision-aware heads multiplied."""
        if call.phase == "prefill":
            self.selected[site.name] = self._select(out, site)
        chosen = self.selected.get(site.name)
        if chosen is None or self.factor == 1.0:  # None: attached behind a prefill
            return out
        return torch.where(chosen[:, :, None, None], out * self.factor, out)

    @torch.no_grad()
    def _select(self, out: Tensor, site: Site) -> Tensor:
        bare = self.without[site.layer].to(out.device)
        batch = out.shape[0]
        if batch % bare.shape[0] or bare.shape[1:] != (out.shape[1], out.shape[3]):
            raise FoveateError(
                f"VHR was given outputs {list(bare.shape)} without the picture, and {site.name} "
                f"gives {[batch, out.shape[1], out.shape[3]]}: items, heads and their size must "
                "agree. Make it of the same items: find.head_outputs(model, bare)."
            )
        bare = bare.repeat_interleave(batch // bare.shape[0], 0)
        chosen = vision_aware(last_real(out, self._real), bare, self.outliers)
        return chosen & self.scope.mask_at(site, out.shape[1], out.device)

    def _given(self) -> list[str]:
        return ["…", f"factor={self.factor:g}"] + ["outliers=False"] * (not self.outliers)


def last_real(out: Tensor, real: Tensor | None) -> Tensor:
    """Head outputs ``[B, Hq, Sq, Dv]`` at the last real query of each item: ``[B, Hq, Dv]``."""
    if real is None:
        return out[:, :, -1]
    place = torch.arange(real.shape[-1], device=real.device)
    last = torch.where(real, place, 0).amax(-1).expand(out.shape[0])
    return out[torch.arange(out.shape[0], device=out.device), :, last.to(out.device)]


def divergence(out: Tensor, bare: Tensor) -> Tensor:
    """VHD: the Euclidean distance of ``[…, Hq, Dv]`` with and without the picture, ``[…, Hq]``."""
    return (out.float() - bare.float()).norm(dim=-1)


def vision_aware(out: Tensor, bare: Tensor, outliers: bool = True) -> Tensor:
    """The heads of a layer whose VHD is above the median: bool ``[B, Hq]``.

    ``out`` and ``bare`` are head outputs ``[B, Hq, Dv]`` with and without the picture. With
    ``outliers`` the VHD of heads that surge without it counts as 0 (equation 6).
    """
    vhd = divergence(out, bare)
    if outliers and vhd.shape[-1] > 1:
        activation = bare.float().square().sum(-1)
        vhd = vhd.masked_fill(_sticks_out(vhd) & _sticks_out(activation), 0.0)
    return vhd > vhd.median(-1, keepdim=True).values


def _sticks_out(x: Tensor) -> Tensor:
    return x > x.mean(-1, keepdim=True) + x.std(-1, keepdim=True)


@dataclass(frozen=True)
class _SecondAndLast(Scope):
    """The second layer and the last 14, never the first."""

    def _has_layer(self, site: Site) -> bool:
        there = site.layer == 1 or site.layer >= max(1, site.depth - LAST)
        return there and super()._has_layer(site)
