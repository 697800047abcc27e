"""DenseDiffusion: words are drawn into the segments of a layout, by moving attention scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..._implements import implements
from ...adapters.diffusers import denoises, given
from ...adapters.sites import Site
from ...attach.denoising import Moment
from ...engine.program import Program
from ...errors import FoveateError
from .._method import Method
from ._latents import grid_of
from ._moved import terms_of
from ._scope import Denoisers
from ._segments import mask_of, on_grid

if TYPE_CHECKING:
    from ...attach import Call

__all__ = ["DenseDiffusion"]


@implements("densediffusion", basis="paper")
class DenseDiffusion(Method):
    """Guide things into the segments of a layout, without training.

    In the first denoising steps the scores of image tokens are moved. With ``m = 1`` for a pair
    that belongs together (a patch of a segment and a token of its phrase; two patches of one
    segment) and 0 for others, they become

        ``s + a m (max - s) - a (1 - m) (s - min)``,  ``a = w (t / T)^5 (1 - S)``

    where ``max`` and ``min`` are those of the row, ``S`` is the share of the picture that the row's
    segment covers and ``t`` the time, of ``T``.

    That is ``(1 - a) s + a min + a (max - min) m``: the query scaled, and a term of one column a
    segment. It rides along on any kernel; the row's extremes take one pass over tiles of scores.

    Parameters
    ----------
    segments : mapping of str to mask or box
        Region of the prompt (a phrase) -> where it is to be. A mask is bool (or a share) ``[H, W]``
        or, one a prompt, ``[N, H, W]``, in any resolution; a box ``(x0, y0, x1, y1)`` is given in
        shares of the width and height. A patch belongs to the segment that covers most of it.
    on_text : float
        ``w`` for image on text; 1 in the authors' code.
    on_image : float
        ``w`` for image on image; 0.3 in the authors' code.
    until : float
        Share of the steps in which it acts; 0.3 in the authors' code.
    background : bool
        Whether patches in no segment and words in no phrase are a segment of their own, as in the
        authors' layouts, which cover the picture. Default: such patches are left alone.
    layers, heads, stack, steps
        Default stack: all of the denoiser's. ``steps=`` replaces ``until``.

    Raises
    ------
    FoveateError
        For numbers out of range and segments of no form. Inside the block: a region that is not the
        prompt's, layouts that do not divide the batch, a pipeline that does not tell which rows are
        the prompt's; attached to a denoiser alone, without ``steps=``.

    Notes
    -----
    Kim et al., "Dense Text-to-Image Generation with Attention Modulation" (ICCV 2023), equations 2
    to 6, and the authors' code (``mod_forward``). As there the extremes are over all keys of the
    row, words in no segment count as pairs that do not belong together, and the negative prompt's
    rows are left alone. Masks are averaged over a patch; they take the nearest pixel.

    In joint attention the keys of the text and of the image are each a block with extremes of their
    own, and so is the weight: what the paper does in two layers happens in one. This is our choice.
    The text's own queries stay as they are.

    The authors' further step, the tokens of each phrase from a forward of the text encoder on the
    phrase alone, is no edit of attention and is left out.

    Examples
    --------
    >>> import foveate as fv
    >>> pipe, _ = fv.load("shapes-dit")
    >>> text = "a red circle and a blue square"
    >>> prompt = fv.Prompt(pipe.tokenizer, text).mark("circle", "red circle")
    >>> prompt = prompt.mark("square", "blue square")
    >>> left, right = (0.05, 0.3, 0.45, 0.7), (0.55, 0.3, 0.95, 0.7)
    >>> method = fv.DenseDiffusion({"circle": left, "square": right})
    >>> with fv.attach(pipe, method, prompt=prompt):
    ...     picture = pipe(text, num_inference_steps=10).images[0]
    >>> print(picture.size)
    """

    looks = True

    def __init__(
        self,
        segments: Mapping[str, Any],
        on_text: float = 1.0,
        on_image: float = 0.3,
        until: float = 0.3,
        background: bool = False,
        layers: Any = None,
        heads: Any = None,
        stack: Any = None,
        steps: Any = None,
    ) -> None:
        super().__init__(layers=layers, heads=heads, stack=stack, steps=steps)
        kinds = ("self", "cross", "joint", "single")
        self.scope = Denoisers(**vars(self.scope), kinds=kinds)
        if not isinstance(segments, Mapping) or not segments:
            raise FoveateError(
                "DenseDiffusion takes {region of the prompt: mask or box}; "
                f"{segments!r:.80} was given."
            )
        self.segments = {name: mask_of(name, where) for name, where in segments.items()}
        self.on_text, self.on_image = _weight("on_text", on_text), _weight("on_image", on_image)
        if not isinstance(until, int | float) or not 0 <= until <= 1:
            raise FoveateError(f"until={until!r} was given; a share of the steps, 0 to 1.")
        self.until = float(until)
        self.background = bool(background)
        self._pipeline: Any = None
        self._told: tuple[dict[str, Any], Tensor, float] | None = None  # of the forward
        self._drawn: dict[Any, Tensor] = {}  # by grid

    # -- when --------------------------------------------------------------------------------------
    def hooks(
        self, model: nn.Module, sites: Sequence[Site]
    ) -> Iterator[tuple[nn.Module, str, Any]]:
        """One on each denoiser: it tells the time."""
        self._pipeline = getattr(model, "pipeline", None)
        if self._pipeline is None and self.scope.steps is None:
            raise FoveateError(
                f"{self!r} acts in the first {self.until:.0%} of the steps, and only a pipeline "
                "tells how many there are: attach it to the pipeline, or give steps=."
            )
        within: str | None = None  # a denoiser may be built of others
        for name, module in model.named_modules():
            inside = f"{name}." if name else ""
            if within is not None and name.startswith(within):
                continue
            if denoises(module) and any(site.name.startswith(inside) for site in sites):
                within = inside
                yield module, "pre", self._note

    def _note(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        told = given(module, args, kwargs)
        latents = told["sample"] if "sample" in told else told["hidden_states"]
        self._told = told, latents, float(torch.as_tensor(told["timestep"]).max())

    def _share(self, time: float, moment: Moment) -> float:
        """A time as a share of the whole: some denoisers are told one already, as Flux."""
        scheduler = getattr(self._pipeline, "scheduler", None)
        whole = float(getattr(getattr(scheduler, "config", None), "num_train_timesteps", 1000))
        times = [] if scheduler is None else list(dict.fromkeys(scheduler.timesteps.tolist()))
        if time < 0 or min(times, default=0) < 0:
            raise FoveateError(
                f"{self!r} weighs by the time, and those of {type(scheduler).__name__} are no "
                f"shares of a whole ({time:g}): use a scheduler whose times go from "
                f"{whole:g} to 0, such as DPMSolverMultistepScheduler."
            )
        place = len(times) - (moment.steps or len(times)) + moment.step
        due = times[place : place + 1]
        # the last of them is 1 of 1000 often, which is no share
        counted = max(times, default=0) > 1 and bool(due) and abs(due[0] - time) < 4e-3 * due[0]
        return time / whole if counted or time > 1 else time

    def _now(self, moment: Moment) -> bool:
        if self.scope.steps is not None or self._pipeline is None:
            return True  # the scope says when
        steps = moment.steps or len(set(self._pipeline.scheduler.timesteps.tolist()))
        return moment.step < self.until * steps

    # -- what --------------------------------------------------------------------------------------
    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """Add the terms."""
        moment = call.moment
        if moment is None or self._told is None or moment.negative or not self._now(moment):
            return program
        if program.softcap is not None:
            raise FoveateError(f"{self!r} moves scores; those of {site.name} are soft-capped.")
        try:
            image = call.queries("image")
        except FoveateError:
            if site.kind != "self":  # where its tokens are is not known
                raise
            return program  # a tower of the text's own, frames of a video
        assert call.tensors is not None
        q, k, _ = call.tensors
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        told, latents, now = self._told
        time = self._share(now, moment)
        grid = grid_of(told, latents, int(image.sum()))
        mine = self._mine(call, len(self._masks(grid)))  # batch rows -> layout, -1 for none
        where = self._masks(grid).to(q.device)[mine.clamp_min(0)] * (mine >= 0)[:, None, None]
        rows = torch.zeros(*q.shape[:1], q.shape[2], where.shape[-1], device=q.device)
        rows[:, image] = where  # [B, Sq, R]: the segment of each query
        words = torch.zeros(0) if site.kind == "self" else self._words(call)
        if site.kind in ("joint", "single"):  # where words look for what they say, too
            named = len(self.segments)
            rows[:, ~image, :named] = words[:, ~image, :named]
        area = (rows * where.mean(1, keepdim=True)).sum(-1)
        much = (time**5 * (1 - area) * (rows > 0).any(-1))[:, None]  # [B, 1, Sq]
        heads = self.scope.heads_at(site, q.shape[1])
        if heads is not None:
            chosen = torch.zeros(q.shape[1], device=q.device)
            chosen[list(heads)] = 1.0
            much = much * chosen[None, :, None]
        looks = image.to(much.dtype)  # the queries that are the image's
        keys = torch.arange(k.shape[2], device=q.device)
        blocks: list[tuple[Tensor, Tensor, Tensor]] = []  # weights, keys, segment of each key
        if site.kind != "self":
            text = call.views.get("text", keys >= 0)
            blocks.append((self.on_text * looks, text, words))
        if site.kind != "cross":
            own = call.views.get("image", keys >= 0)
            inside = torch.zeros(len(q), k.shape[2], where.shape[-1], device=q.device)
            inside[:, own] = where
            weights = self.on_image * looks + self.on_text * (1 - looks)
            blocks.append((weights, own, inside))
        scale = q.shape[-1] ** -0.5 if program.scale is None else program.scale
        several, key_bias = len(blocks) > 1, program.key_bias
        terms: list[tuple[Tensor, Tensor]] = []
        for weights, block, inside in blocks:
            a = weights * much
            terms += terms_of(q, k, a, rows, block, inside, scale, key_bias, several)
        return program.evolve(score_terms=(*program.score_terms, *terms))

    def _masks(self, grid: tuple[int, int]) -> Tensor:
        """The segments on a grid of patches: float ``[N, patches, R]``, at most one a patch."""
        if grid not in self._drawn:
            self._drawn[grid] = on_grid(list(self.segments.values()), grid, self.background)
        return self._drawn[grid]

    def _mine(self, call: Call, layouts: int) -> Tensor:
        """Which layout each row of the batch follows, -1 for none."""
        assert call.moment is not None
        parts = 1 if call.moment.parts is None else call.moment.parts
        rows = call.shapes.B // max(parts, 1)
        if not parts or rows % layouts:
            why = (
                "the pipeline guides in an order of its own"
                if not parts
                else f"{rows} rows of the batch are the prompt's"
            )
            raise FoveateError(
                f"{self!r} has {layouts} layouts and cannot tell whose they are: {why}."
            )
        own = torch.arange(layouts, device=call.shapes.device).repeat_interleave(rows // layouts)
        return torch.cat([torch.full_like(own, -1)] * (parts > 1) + [own] * max(parts - 1, 1))

    def _words(self, call: Call) -> Tensor:
        """The segment of each key that is a word: float ``[B, Sk, R]``, at most one a word."""
        found = []
        for name in self.segments:
            if name not in call.views:
                raise FoveateError(
                    f"{self!r} speaks of a region {name!r}, which is not of the prompt: "
                    "prompt.mark(name, text), and pass prompt=."
                )
            found.append(call.views[name].expand(call.shapes.B, -1))
        words = torch.stack(found, -1).float()
        if bool((words.sum(-1) > 1).any()):
            raise FoveateError(f"{self!r}: a word is in two segments' phrases; mark each once.")
        if self.background:
            text = torch.ones(call.shapes.Sk, device=words.device)
            if "text" in call.views:
                text = call.views["text"].to(words.dtype)
            rest = text.expand_as(words[..., 0]) - words.sum(-1)
            words = torch.cat([words, rest[..., None]], -1)
        return words

    def _given(self) -> list[str]:
        weights = f"on_text={self.on_text:g}", f"on_image={self.on_image:g}"
        return [f"{len(self.segments)} segments", *weights]


def _weight(name: str, given: Any) -> float:
    good = isinstance(given, int | float) and not isinstance(given, bool)
    if not good or not 0 <= given < math.inf:
        raise FoveateError(f"{name}={given!r} was given; a finite number, 0 or more, was wanted.")
    return float(given)
