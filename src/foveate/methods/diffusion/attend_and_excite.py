"""Attend-and-Excite: latents are moved until every subject of the prompt has a place that looks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..._implements import implements
from ...adapters.diffusers import denoises, given
from ...adapters.sites import Site
from ...attach.denoising import Denoising, prompt_alone
from ...attach.frame import apart, aside
from ...engine.planner import plan
from ...engine.program import Program
from ...engine.shapes import Shapes
from ...errors import FoveateError
from .._method import Method
from ._forward import half
from ._latents import Latents, grid_of
from ._scope import Denoisers
from .neglect import neglect

if TYPE_CHECKING:
    from ...attach import Call

__all__ = ["AttendAndExcite"]

USUAL = 256  # image tokens of the maps that the authors take: 16 × 16


@implements("attend-and-excite", basis="paper")
class AttendAndExcite(Method):
    """Move the latents of a text-to-image model until each subject of the prompt is attended to.

    At each of the first denoising steps the denoiser runs on the prompt once more, with a gradient.
    What its image tokens put on the words is averaged over layers and heads; the loss is that of
    the subject that is attended to least (:func:`neglect`), and the latents go a step down its
    gradient before the pipeline's own forward. At a few steps this repeats until a threshold is
    met.

    The maps are taken beside the call, as attention on an identity matrix in place of the text's
    values: ``[B, H, S, T]`` for `T` tokens of text, on any kernel; never the image's own matrix.

    Parameters
    ----------
    subjects : str or sequence of str
        Regions of the prompt. Each of their tokens is a subject: mark the nouns
        (``prompt.mark("subjects", "circle")``).
    step_size : float
        20 in the paper; it falls with the square root of the time, to 0.71 of it at the last step.
    until : float
        Share of the steps in which the latents are moved; 0.5 in the paper.
    thresholds : mapping of float to float, optional
        Where in the schedule (as a share of the steps) the update repeats until every subject
        reaches this attention. Default: 0.05, 0.5 and 0.8 at 0, 0.2 and 0.4 (steps 0, 10 and 20 of
        50); ``{}`` for none.
    refine : int
        Most repeats at each of them; 20 in the authors' code.
    resolution : int, optional
        Image tokens of the maps that count, such as 256 for 16 × 16. Default: of the resolutions
        there are the one nearest to 256.
    layers, heads, stack
        Where the maps are taken. Default stack: wherever image tokens look at text.

    Attributes
    ----------
    losses : dict of int to Tensor
        By step of the last run, the loss ``[B]`` that it began with.

    Raises
    ------
    FoveateError
        For numbers out of range. Attaching it raises for anything but a pipeline with a scheduler;
        running it, under ``torch.inference_mode``, for a region that marks the first or the last
        token, and where the pipeline does not tell which rows are the prompt's.

    Notes
    -----
    Chefer et al., "Attend-and-Excite: Attention-Based Semantic Guidance for Text-to-Image Diffusion
    Models" (SIGGRAPH 2023), equations 1 and 2 and algorithm 1, and the authors' code. As there, all
    tokens but the first and the last (padding) take part in the softmax over words, and a refined
    step gets one more update behind the one that met the threshold. The authors count steps of 50;
    here they are shares, so that shorter schedules work alike. They move one picture at a time;
    here the batch goes together, each picture by its own loss.

    In joint attention (SD3, Flux) the map is the block of image queries on text keys, each row
    divided by its sum: what cross-attention would be. This is our choice; the paper has
    cross-attention alone.

    Examples
    --------
    >>> import foveate as fv
    >>> pipe, _ = fv.load("shapes-dit")
    >>> prompt = fv.Prompt(pipe.tokenizer, "a red circle and a blue square")
    >>> prompt = prompt.mark("subjects", "circle").mark("subjects", "square")
    >>> with fv.attach(pipe, fv.AttendAndExcite("subjects"), prompt=prompt):
    ...     picture = pipe("a red circle and a blue square", num_inference_steps=10).images[0]
    >>> print(picture.size)
    """

    looks = True

    def __init__(
        self,
        subjects: str | Sequence[str],
        step_size: float = 20.0,
        until: float = 0.5,
        thresholds: Mapping[float, float] | None = None,
        refine: int = 20,
        resolution: int | None = None,
        layers: Any = None,
        heads: Any = None,
        stack: Any = None,
    ) -> None:
        super().__init__(layers=layers, heads=heads, stack=stack)
        self.scope = Denoisers(**vars(self.scope))
        several = isinstance(subjects, Sequence) and not isinstance(subjects, str)
        names: tuple[Any, ...] = tuple(subjects) if several else (subjects,)
        if not names or not all(isinstance(name, str) and name for name in names):
            raise FoveateError(
                f"AttendAndExcite takes the names of regions of the prompt; {subjects!r} was "
                'given: prompt.mark("subjects", "circle"), then AttendAndExcite("subjects").'
            )
        self.regions = names
        self.step_size = _number("step_size", step_size, 0, math.inf)
        self.until = _number("until", until, 0, 1)
        usual = {0.0: 0.05, 0.2: 0.5, 0.4: 0.8}
        self.thresholds = {
            _number("thresholds (their places)", at, 0, 1): _number("thresholds", value, 0, 1)
            for at, value in (usual if thresholds is None else thresholds).items()
        }
        if not isinstance(refine, int) or refine < 0:
            raise FoveateError(
                f"refine={refine!r} was given; it is a number of repeats, 0 or more."
            )
        self.refine = refine
        if resolution is not None and (not isinstance(resolution, int) or resolution < 1):
            raise FoveateError(
                f"resolution={resolution!r} was given; it is a number of image tokens, such as 256."
            )
        self.resolution = resolution
        self.losses: dict[int, Tensor] = {}
        self._seen: _Seen | None = None  # while it looks
        self._tokens = resolution
        self._latents: Latents | None = None
        self._times: Denoising | None = None
        self._begun: tuple[int, Any] | None = None  # the step, of which schedule

    # -- what attach asks for ------------------------------------------------------------------
    def hooks(
        self, model: nn.Module, sites: Sequence[Site]
    ) -> Iterator[tuple[nn.Module, str, Any]]:
        """One on each denoiser: it moves the latents before the forward."""
        for name, module in model.named_children():
            if denoises(module) and any(site.name.startswith(f"{name}.") for site in sites):
                yield module, "pre", self._before

    def instead(self, model: nn.Module) -> Iterator[tuple[Any, str, Any]]:
        """The scheduler's step begins where the latents were moved to."""
        pipeline: Any = getattr(model, "pipeline", None)
        if not hasattr(getattr(pipeline, "scheduler", None), "step"):
            raise FoveateError(
                "AttendAndExcite moves the latents between the steps of a pipeline; attach it to a "
                "pipeline of diffusers with a scheduler, not to a denoiser."
            )
        self._times, self._latents = Denoising(pipeline), Latents(pipeline.scheduler)
        return self._latents.instead()

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """Note what the image puts on the text, where it looks; nothing is edited."""
        if self._seen is None:
            return program
        assert call.tensors is not None
        q, k, _ = call.tensors
        image, text = call.queries("image"), call.views["text"]
        tokens = int(image.sum())
        if self._tokens not in (None, tokens):
            return program
        words = torch.eye(k.shape[2], dtype=q.dtype, device=q.device)[:, text]
        values = words.expand(q.shape[0], k.shape[1], -1, -1)
        plain = program.evolve(head_scale=None, reads=())
        found = plan(plain, Shapes.of(q, k, values)).run(q, k, values).out[:, :, image]
        heads = self.scope.heads_at(site, call.shapes.Hq)
        found = found if heads is None else found[:, list(heads)]
        found = found / found.sum(-1, keepdim=True)  # 1 already where all keys are the text's
        self._seen.maps.setdefault(tokens, []).append(found.to(call.shapes.stat_dtype))
        marked = torch.stack([call.views[name][..., text] for name in self.regions]).any(0)
        self._seen.subjects = marked.expand(q.shape[0], -1)
        return program

    # -- the update ----------------------------------------------------------------------------
    def _before(self, module: Any, args: Any, kwargs: Any) -> Any:
        """Let the denoiser have the latents where they are moved to."""
        assert self._times is not None and self._latents is not None
        if apart():
            return None
        told = given(module, args, kwargs)
        name = "sample" if "sample" in told else "hidden_states"
        moment = self._times.moment(module, args, kwargs)
        if moment.parts not in (1, 2) and not moment.partial:
            raise FoveateError(
                f"{self!r} does not know which rows of {type(module).__name__}'s batch are the "
                "prompt's: the pipeline guides in an order of its own. Use the plain one."
            )
        rows, latents = len(told[name]), self._latents
        step, schedule = moment.step, latents.scheduler.timesteps
        last, of = self._begun or (-1, None)
        if schedule is not of:
            last, self._tokens = -1, self.resolution
            latents.forget()
        main = not moment.negative and not moment.partial
        if step != last and main and latents.begins:
            self._begun = step, schedule
            two = moment.parts == 2
            mine = {key: half(key, v, rows) for key, v in told.items()} if two else told
            steps = moment.steps or len(set(schedule.tolist()))  # some visit a time twice
            since = range(last + 1 if last < step else step, step + 1)
            new = self._excited(module, mine, name, since, steps)
            if new is not None:
                latents.move((new - mine[name]) / latents.scale)
        moved = latents.moved
        if moved is None:
            return None
        by = (moved * latents.scale).repeat(rows // len(moved), *[1] * (moved.dim() - 1))
        return (), told | {name: told[name] + by.to(told[name].dtype)}

    def _excited(
        self, module: nn.Module, told: dict[str, Any], name: str, since: range, steps: int
    ) -> Tensor | None:
        """The latents, as the denoiser has them, behind the updates of one step.

        ``since`` the one behind the last update: in those between the latents cannot be moved.
        """
        step = since[-1]
        if not since[0]:
            self.losses = {}
        least = [v for at, v in self.thresholds.items() if round(at * steps) in since]
        if not self.step_size or (step >= self.until * steps and not least):
            return None
        assert self._latents is not None
        size = self.step_size * math.sqrt(1 - 0.5 * step / max(steps - 1, 1))
        size *= self._latents.scale**2  # of a gradient in the latents' own scale, and back
        x = told[name].detach()
        loss, slope = self._look(module, told, name, x)
        self.losses[step] = loss

        behind = loss > 1 - max(least) if least else torch.zeros_like(loss, dtype=torch.bool)
        for _ in range(self.refine):
            if not bool(behind.any()):
                break
            tested = loss
            x = x - size * slope * behind.view(-1, *[1] * (x.dim() - 1))
            loss, slope = self._look(module, told, name, x)
            behind = behind & (tested > 1 - max(least))
        return x - size * slope if step < self.until * steps else x

    def _look(
        self, module: nn.Module, told: dict[str, Any], name: str, latents: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss ``[B]`` of some latents, and its gradient."""
        if torch.is_inference_mode_enabled():
            raise FoveateError(
                f"{self!r} needs a gradient, and the pipeline runs under torch.inference_mode: "
                "leave that out (pipelines run under torch.no_grad by themselves)."
            )
        self._seen = seen = _Seen()
        try:
            with torch.enable_grad(), aside(), prompt_alone():
                x = latents.detach().requires_grad_(True)
                module(**(told | {name: x}))
                if not seen.maps:
                    there = self.resolution or "any number of"
                    raise FoveateError(f"{self!r} met no map of {there} image tokens.")
                nearest = min(seen.maps, key=lambda tokens: abs(math.log(tokens / USUAL)))
                self._tokens = nearest
                maps = torch.cat(seen.maps[nearest], 1).mean(1)
                grid = maps.unflatten(1, grid_of(told, x, nearest))
                assert seen.subjects is not None
                loss = neglect(grid, seen.subjects)
                (slope,) = torch.autograd.grad(loss.sum(), x)
        finally:
            self._seen = None
        return loss.detach(), slope.detach()

    def _given(self) -> list[str]:
        return [", ".join(map(repr, self.regions)), f"step_size={self.step_size:g}"]


@dataclass
class _Seen:
    """What one look of the method's own finds: maps by image tokens, and the subjects."""

    maps: dict[int, list[Tensor]] = field(default_factory=dict)
    subjects: Tensor | None = None


def _number(name: str, given: Any, low: float, high: float) -> float:
    good = isinstance(given, int | float) and not isinstance(given, bool)
    if not good or not low <= given <= high or math.isinf(given):
        wanted = "0 or more" if math.isinf(high) else f"between {low:g} and {high:g}"
        raise FoveateError(f"{name}={given!r} was given; a number {wanted} was wanted.")
    return float(given)
