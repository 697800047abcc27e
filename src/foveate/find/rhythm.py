"""The rhythm of a written-out reasoning: tokens that look back, tokens that are looked back at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._implements import implements
from ..adapters.sites import Site, sites
from ..attach import attach
from ..engine.measures import distance
from ..errors import FoveateError
from ..methods.measure import Measure
from ..prompt import Prompt
from ._tiles import EachTile

if TYPE_CHECKING:
    from ..attach import Call
    from ..engine.backends.probabilities import Tile

__all__ = ["Rhythm", "head_spans", "middle_layers", "rhythm"]

Pairs = list[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Rhythm:
    """How a response looks back, and what it looks back at.

    Attributes
    ----------
    waad : Tensor
        ``[B, S]``, float32, in tokens: windowed average attention distance, over the local heads.
    fai : Tensor
        ``[B, S]``, float32: future attention influence, over the global heads.
    spans : Tensor
        ``[layers, heads]``, in tokens: how far each head looks back on average; NaN in layers that
        were left out, and everywhere when the heads were given.
    local, far : list of (int, int)
        The heads that look nearest and farthest, nearest (farthest) first.
    response : Tensor
        Bool ``[B, S]``. Elsewhere ``waad`` and ``fai`` are NaN; ``fai`` also where no token of the
        response stands in the horizon.
    """

    waad: Tensor
    fai: Tensor
    spans: Tensor
    local: Pairs
    far: Pairs
    response: Tensor


def middle_layers(depth: int, count: int = 5) -> list[int]:
    """``count`` evenly spaced layers in the middle third: those the paper reads during training."""
    first, last = depth // 3, 2 * depth // 3
    return sorted({round(n) for n in torch.linspace(first, last, count).tolist() if n < depth})


def head_spans(
    model: nn.Module, prompt: Prompt, region: str = "assistant", *, layers: Any = None
) -> Tensor:
    """Mean backward distance of every head over the queries of a region: equation 7 of the paper.

    Parameters
    ----------
    model : torch.nn.Module
        A decoder.
    prompt : Prompt
        The response included.
    region : str
        The response.
    layers : int or sequence of int, optional
        The others read NaN.

    Returns
    -------
    Tensor
        ``[layers, heads]``, in tokens.

    Notes
    -----
    A value column of the flash kernel: one forward, no second pass.
    """
    response = _response(prompt, region)
    with torch.no_grad(), attach(model, Measure(distance(), layers=layers), prompt=prompt) as run:
        model(**prompt.inputs, use_cache=False)
    series = run.results["distance"]
    apart = series.prefill  # (L, B, H, S)
    mean = torch.einsum("lbhs,bs->lh", apart, response.to(apart)) / response.sum()
    spans = _grid(model, mean.shape[1]).to(mean)
    spans[list(series.layers)] = mean
    return spans.float()


@implements("preplan-and-anchor", basis="paper")
def rhythm(
    model: nn.Module,
    prompt: Prompt,
    region: str = "assistant",
    *,
    window: int = 10,
    horizon: tuple[int, int | None] = (10, 100),
    share: float = 0.3,
    layers: Any = None,
    local: Sequence[tuple[int, int]] | None = None,
    far: Sequence[tuple[int, int]] | None = None,
) -> Rhythm:
    """Measure the preplan-and-anchor rhythm of a response.

    With ``A`` the attention averaged over the local (or the global) heads and ``R`` the response::

        WAAD_t = sum_s A_local[t, s] min(t - s, window)                             t in R
        FAI_s  = mean over t in R, s + lo <= t <= s + hi, of A_global[t, s]         s in R

    Local heads are the ``share`` with the shortest mean backward distance over ``R``, global ones
    the ``share`` with the longest. Peaks of WAAD begin phrases (*preplan*), peaks of FAI are what
    the rest of the response hangs on (*anchor*).

    Parameters
    ----------
    model : torch.nn.Module
        A decoder.
    prompt : Prompt
        Question and response; of a batch, the spans are averaged over all items.
    region : str
        The response: ``"assistant"`` for chats, or a region of your own.
    window : int
        In tokens; 10 in the paper.
    horizon : (int, int or None)
        ``lo`` and ``hi``; None is the end. (10, 100) in the paper's training runs, from the token
        itself to the end, (0, None), in its analysis.
    share : float
        Of all heads in ``layers``, in (0, 0.5]; 0.3 in the paper.
    layers : int or sequence of int, optional
        Where heads are sought; default all, as in the paper's analysis. :func:`middle_layers` gives
        those it reads during training.
    local, far : sequence of (int, int), optional
        Heads of your own in place of those found.

    Returns
    -------
    Rhythm

    Raises
    ------
    FoveateError
        For an empty response, or sizes out of range.

    Notes
    -----
    Both are sums over tiles of the probabilities: two forwards and one more pass over the scores,
    memory linear in length. The paper keeps whole maps. Both scores are linear in the attention, so
    averaging maps first, as the paper does, gives the same numbers.

    References
    ----------
    Li et al., "Attention Illuminates LLM Reasoning: The Preplan-and-Anchor Rhythm Enables
    Fine-Grained Policy Optimization", 2025, definitions 4.1 and 4.2.

    Examples
    --------
    >>> import foveate as fv
    >>> from foveate.find.rhythm import rhythm
    >>> from foveate.tasks.derivations import derivations
    >>> model, tokenizer = fv.load("smollm2")
    >>> prompt = fv.Prompt(tokenizer, derivations(1)[0].messages, add_generation_prompt=False)
    >>> beat = rhythm(model, prompt)
    >>> beat.waad, beat.fai  # [B, S]; NaN outside the response
    """
    low, high = _sizes(window, horizon, share)
    response = _response(prompt, region)
    if local is None or far is None:
        spans = head_spans(model, prompt, region, layers=layers)
    else:
        spans = _grid(model)
    order = _by_span(spans)
    count = max(1, round(share * len(order)))
    near = order[:count] if local is None else _pairs(local, spans)
    wide = order[: -count - 1 : -1] if far is None else _pairs(far, spans)
    sums = _Sums(response, window, low, high, near, wide)
    reader = EachTile(sums.take, layers=sorted({layer for layer, _ in [*near, *wide]}))
    with torch.no_grad(), attach(model, reader, prompt=prompt):
        model(**prompt.inputs, use_cache=False)
    return Rhythm(*sums.means(), spans=spans, local=near, far=wide, response=response)


class _Sums:
    """WAAD and FAI as sums over tiles."""

    def __init__(
        self, response: Tensor, window: int, low: int, high: int | None, local: Pairs, far: Pairs
    ) -> None:
        self.response, self.window, self.low, self.high = response, window, low, high
        self.local, self.far = local, far
        self.waad = torch.zeros(response.shape, device=response.device)
        self.fai = torch.zeros_like(self.waad)

    def take(self, tile: Tile, site: Site, call: Call) -> None:
        """Add a tile."""
        start, first = call.q_offset + tile.start, call.kv_offset + tile.low
        i = torch.arange(start, call.q_offset + tile.stop, device=tile.p.device)
        j = torch.arange(first, call.kv_offset + tile.high, device=tile.p.device)
        apart = i[:, None] - j
        at = [head for layer, head in self.local if layer == site.layer]
        if at:
            clipped = apart.clamp(max=self.window).to(tile.p)
            self.waad[:, i] += (tile.p[:, at].sum(1) * clipped).sum(-1)
        at = [head for layer, head in self.far if layer == site.layer]
        if at:
            inside = self._inside(apart) & self.response[:, i, None]
            self.fai[:, j] += (tile.p[:, at].sum(1) * inside).sum(-2)

    def _inside(self, apart: Tensor) -> Tensor:
        inside = apart >= self.low
        return inside if self.high is None else inside & (apart <= self.high)

    def means(self) -> tuple[Tensor, Tensor]:
        """WAAD and FAI ``[B, S]``, NaN where they mean nothing."""
        told = self.response
        rows = torch.nn.functional.pad(told.long().cumsum(-1), (1, 0))  # (B, S + 1)
        s = torch.arange(told.shape[1], device=told.device)
        end = told.shape[1] if self.high is None else s + self.high + 1
        stop = torch.as_tensor(end, device=told.device).clamp(max=told.shape[1]).expand(s.shape)
        begin = torch.minimum(s + self.low, stop)
        count = rows[:, stop] - rows[:, begin]  # queries of the response in the horizon
        waad = self.waad / len(self.local)
        fai = self.fai / len(self.far) / count.clamp(min=1)
        hole = torch.nan
        return waad.masked_fill(~told, hole), fai.masked_fill(~told | (count == 0), hole)


def _grid(model: nn.Module, heads: int | None = None) -> Tensor:
    """NaN for every head of the decoder, ``[layers, heads]``."""
    here = [site for site in sites(model) if site.stack == "decoder"]
    count = heads or max((site.heads or 0 for site in here), default=0)
    return torch.full((len(here), count), torch.nan)


def _by_span(spans: Tensor) -> Pairs:
    """All heads that were measured, shortest span first."""
    known = [(int(a), int(b)) for a, b in (~spans.isnan()).nonzero()]
    return sorted(known, key=lambda pair: float(spans[pair]))


def _response(prompt: Prompt, region: str) -> Tensor:
    """The response, bool ``[B, S]``."""
    if region not in prompt.regions or not bool(prompt.regions[region].any(-1).all()):
        raise FoveateError(
            f"The prompt has no tokens in the region {region!r} of some item: give a chat that "
            f"holds the assistant's answer, or mark it: prompt.mark({region!r}, …)."
        )
    return prompt.regions[region]


def _sizes(window: Any, horizon: Any, share: Any) -> tuple[int, int | None]:
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise FoveateError(f"window={window!r} was given; a whole number of tokens was wanted.")
    try:
        low, high = horizon
        fits = low >= 0 and (high is None or high >= low)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise FoveateError(
            f"horizon={horizon!r} was given; (lo, hi) with 0 <= lo <= hi was wanted, None as hi "
            "for the end."
        )
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 0.5:
        raise FoveateError(f"share={share!r} was given; a number in (0, 0.5] was wanted.")
    return int(low), None if high is None else int(high)


def _pairs(given: Sequence[tuple[int, int]], spans: Tensor) -> Pairs:
    pairs = [(int(layer), int(head)) for layer, head in given]
    if not pairs or any(
        not (0 <= a < spans.shape[0] and 0 <= b < spans.shape[1]) for a, b in pairs
    ):
        raise FoveateError(
            f"Heads are pairs (layer, head) of {spans.shape[0]} layers and {spans.shape[1]} heads; "
            f"{list(given)!r:.80} was given."
        )
    return pairs
