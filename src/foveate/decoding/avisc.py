"""AvisC: decoding against image tokens that draw attention and say nothing (Woo et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._implements import implements
from ..adapters.sites import Site
from ..attach import attach
from ..engine.measures import rows
from ..errors import FoveateError
from ..methods._method import Method
from ..methods.measure import Measure
from ..methods.residual import block_of
from ..prompt import Prompt
from ._stream import Stream
from .rules import against, checked_plausibility
from .views import Step, View, ViewDecoder

__all__ = ["AvisC", "blind_tokens"]


def blind_tokens(attention: Tensor, image: Tensor, gamma: float, lamb: float) -> Tensor:
    """Which image tokens draw more attention than the others by ``lamb`` standard deviations.

    Parameters
    ----------
    attention : Tensor
        Of the last query, ``[L, B, H, S]``: a row of probabilities a layer and head.
    image : Tensor
        The image tokens, bool ``[B, S]``.
    gamma : float
        Layers are taken, the one with most attention on the image first, until theirs is this share
        of what all layers have there. 0 takes one, 1 all.
    lamb : float
        A token is blind whose attention, averaged over heads and the layers taken, is at least
        ``mean + lamb * std`` over the row's image tokens (``std`` with ``n - 1``).

    Returns
    -------
    Tensor
        bool ``[B, S]``, within ``image``.
    """
    shown = image.to(attention.device)
    seen = attention[..., : shown.shape[-1]].float().mean(2)  # [L, B, S]
    seen = torch.where(shown, seen, 0.0)
    shares = seen.sum(-1)
    shares = shares / shares.sum(0, keepdim=True).clamp(min=1e-30)
    ordered, order = shares.sort(dim=0, descending=True, stable=True)
    before = ordered.cumsum(0) - ordered  # what the layers in front of this one have
    taken = torch.zeros_like(before, dtype=torch.bool).scatter(0, order, before < gamma)
    taken[order[0], torch.arange(shown.shape[0], device=order.device)] = True
    mean_map = (seen * taken[..., None]).sum(0) / taken.sum(0)[:, None]  # [B, S]
    n = shown.sum(-1, keepdim=True)
    mean = mean_map.sum(-1, keepdim=True) / n.clamp(min=1)
    apart = torch.where(shown, mean_map - mean, 0.0).square().sum(-1, keepdim=True)
    least = mean + lamb * (apart / (n - 1).clamp(min=1)).sqrt()
    return shown & (mean_map >= least)


class _Zeroed(Method):
    """Zero the embeddings of some tokens, bool ``[B, S]``, where they enter the first block."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__(layers=0)
        self._tokens = tokens

    def hooks(
        self, model: nn.Module, sites: Sequence[Site]
    ) -> Iterator[tuple[nn.Module, str, Any]]:
        yield block_of(model, sites[0]), "pre", self._zero

    def _zero(self, module: Any, args: Any, kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        hidden = hidden.masked_fill(self._tokens.to(hidden.device)[..., None], 0.0)
        return (
            ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
        )


@implements("avisc", basis="paper")
@dataclass(eq=False)
class AvisC(ViewDecoder):
    """Contrast the picture with what its blind tokens alone say.

    Blind tokens are the few image tokens that draw far more attention than the others when the
    first word of the answer is chosen (:func:`blind_tokens`). A second view has the embeddings of
    all *other* image tokens set to zero. The score of a token is
    ``(1 + alpha) log p_whole - alpha log p_blind``, among the plausible ones: what the blind tokens
    would say by themselves counts less.

    Parameters
    ----------
    alpha : float
        Weight of the contrast. The authors' runs have 1 to 3; 0 is plain decoding.
    gamma : float
        Share of the attention to the image for which layers are taken, 0 to 1.
    lamb : float
        Standard deviations above the mean from which a token is blind.
    plausibility : float, optional
        Only tokens at least this share as probable as the best one; None for all.
    region : str
        The tokens of the picture.

    Raises
    ------
    FoveateError
        For settings out of range, and a prompt without the region.

    Notes
    -----
    Two forwards a token, and the attention of one query (not the matrix) beside the first.

    Source: arXiv 2405.17820 and the official code (sangminwoo/AvisC), whose defaults these are (its
    scripts run ``alpha`` 1, 2.5 and 3). As there, blind tokens are looked for once, at the query
    that chooses the first token, and the second view goes on from its own cache. The code zeroes
    the embeddings that enter the language model; here they are zeroed where they enter its first
    block, which is the same where nothing is added in between (a model with learned positions loses
    those of these tokens too). A row of a batch is taken by itself, without its padding.

    Examples
    --------
    >>> import foveate as fv
    >>> from foveate.tasks.shapes import render, scenes
    >>> model, processor = fv.load("shapes-vlm")
    >>> picture = {"type": "image", "image": render(*scenes(1, seed=3))}
    >>> asked = {"type": "text", "text": "describe the picture."}
    >>> prompt = fv.Prompt(processor, [{"role": "user", "content": [picture, asked]}])
    >>> decoder = fv.decoding.AvisC(alpha=1.0)
    >>> print(decoder.generate(model, processor, prompt)[0])
    >>> print(int(decoder.blind(model, prompt).sum()), "of 64 image tokens are blind")
    """

    alpha: float = 2.5
    gamma: float = 0.5
    lamb: float = 1.0
    plausibility: float | None = 0.1
    region: str = "image"
    views: Sequence[View] = field(init=False, repr=False)
    combine: Callable[[Step], Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ends = {"alpha": (0.0, math.inf), "gamma": (0.0, 1.0), "lamb": (-math.inf, math.inf)}
        for name, (least, most) in ends.items():
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or not least <= value <= most:
                wanted = {"alpha": "from 0", "gamma": "from 0 to 1", "lamb": "of deviations"}[name]
                raise FoveateError(f"{name}={value!r} was given; a number {wanted} was wanted.")
        checked_plausibility(self.plausibility)
        self.views = (View(), View())
        self.combine = self._combine
        super().__post_init__()

    def _combine(self, step: Step) -> Tensor:
        return against(step.log_probs, self.alpha, self.plausibility)

    def blind(self, model: Any, prompt: Prompt) -> Tensor:
        """The blind tokens of a prompt, bool ``[B, S]``."""
        return self._look(model, prompt)[2]

    def _look(self, model: Any, prompt: Prompt) -> tuple[Stream, Tensor, Tensor]:
        """The stream behind its prompt, its logits ``[B, V]``, and the blind tokens."""
        if self.region not in prompt.regions:
            raise FoveateError(
                f"AvisC reads region {self.region!r}; the prompt has "
                f"{', '.join(map(repr, prompt.regions))}: give a prompt with a picture, or name "
                "another region."
            )
        looking = Stream(model, prompt, (Measure(rows(-1)),))
        logits = looking.feed(prompt.inputs["input_ids"], prompt.inputs["attention_mask"])
        attention = looking.measure("rows")
        return (
            looking,
            logits,
            blind_tokens(attention, prompt.regions[self.region], self.gamma, self.lamb),
        )

    def _begin(
        self, model: Any, asked: Sequence[Prompt], stack: ExitStack
    ) -> tuple[list[Stream], list[Tensor]]:
        prompt = asked[0]
        looking, first, found = self._look(model, prompt)
        whole, blind = Stream(model, prompt), Stream(model, prompt)
        whole.cache, whole.mask = looking.cache, looking.mask
        others = prompt.regions[self.region].to(found.device) & ~found
        with attach(model, _Zeroed(others)):
            second = blind.feed(prompt.inputs["input_ids"], prompt.inputs["attention_mask"])
        return [whole, blind], [first, second]
