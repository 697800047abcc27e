"""Denoisers: which step of the denoising a forward is, and for whom it is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor, nn

from ..adapters.diffusers import given

__all__ = ["Denoising", "Moment", "prompt_alone"]

_NEAR = 4e-3  # half a unit of bfloat16: what a time may have lost on its way to the model

_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def prompt_alone() -> Iterator[None]:
    """Forwards inside have the prompt's rows and no others, whatever the pipeline's have.

    For a method that runs the denoiser itself, on half of the batch.
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


@dataclass(frozen=True)
class Moment:
    """What is known of one forward of a denoiser.

    Attributes
    ----------
    step : int
        0 is the first denoising step.
    steps : int or None
        How many there are, from where the schedule is begun to its end; None where no scheduler
        tells.
    text, pictures : int or None
        Tokens of the text, and of an image given beside it.
    batch : int or None
        Rows of the latents.
    parts : int or None
        Equal parts of the batch of which the first is the negative prompt's; 1 where all is the
        prompt's, 0 where the pipeline has an order of its own, None where there is no pipeline.
    negative : bool
        Whether the whole forward is the negative prompt's.
    partial : bool
        Whether layers are left out on purpose (skip-layer guidance).
    """

    step: int = 0
    steps: int | None = None
    text: int | None = None
    pictures: int | None = None
    batch: int | None = None
    parts: int | None = None
    negative: bool = False
    partial: bool = False

    @property
    def main(self) -> bool:
        """Whether this is the forward whose measures are kept."""
        return not self.negative and not self.partial


class Denoising:
    """Keeps the time of a run's denoisers.

    With a pipeline the step is the place of the time among its scheduler's, counted from where it
    begins. Without, each new time is the next step, and one that turns back begins anew. Times that
    a scheduler repeats (Heun) are one step.

    Parameters
    ----------
    pipeline : object, optional
        A pipeline of diffusers.
    """

    def __init__(self, pipeline: Any = None) -> None:
        self._pipeline = pipeline
        self._schedule: Any = None
        self._time: float | None = None
        self._falls: bool | None = None
        self._read: int | None = None  # how the denoiser is told the scheduler's times
        self._begin = 0  # the place of the first step's time, once _read is known
        self._step = 0
        self._prompts: dict[int, tuple[float, Any]] = {}  # denoiser -> time, the prompt's tokens

    def moment(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> Moment:
        """The moment of a forward of ``module``."""
        told = given(module, args, kwargs)
        text = told.get("encoder_hidden_states")
        text = text[0] if isinstance(text, tuple | list) and text else text
        pictures = told.get("encoder_hidden_states_image")
        latents = next((told[name] for name in ("sample", "hidden_states") if name in told), None)
        batch = len(latents) if isinstance(latents, Tensor | list) else None
        partial = bool(told.get("skip_layers"))
        self._begin_anew()
        time = told.get("timestep")
        steps = None
        if time is None:
            step, time = self._step, self._time
        else:
            time = float(time.max()) if isinstance(time, Tensor) else float(time)
            scheduled = self._scheduled(time)
            step, steps = (self._counted(time), None) if scheduled is None else scheduled
        alone = _alone.get()
        parts = None if partial else 1 if alone else self._parts(latents)
        negative = parts == 1 and not partial and not alone and self._negative(module, time, text)
        return Moment(
            step=step,
            steps=steps,
            text=_tokens(text),
            pictures=_tokens(pictures),
            batch=batch,
            parts=parts,
            negative=negative,
            partial=partial,
        )

    # -- steps -------------------------------------------------------------------------------------
    def _begin_anew(self) -> None:
        """Forget the last sequence where the scheduler was given new times."""
        schedule = getattr(getattr(self._pipeline, "scheduler", None), "timesteps", None)
        if schedule is not self._schedule:
            self._schedule = schedule
            self._time, self._falls, self._step, self._read = None, None, 0, None
            self._prompts.clear()

    def _scheduled(self, time: float) -> tuple[int, int] | None:
        """The place of a time among the scheduler's, and how many these are; None if not found."""
        if not isinstance(self._schedule, Tensor) or not self._schedule.numel():
            return None
        scheduler = self._pipeline.scheduler
        visits = self._schedule.tolist()
        times = list(dict.fromkeys(visits))
        whole = float(getattr(scheduler.config, "num_train_timesteps", 1000))
        # as it is, as a share of the whole (Flux), or counted from the other end (Lumina): which of
        # them, the first forward tells, being the one nearest to the beginning
        seen = (time, time * whole, (1 - time) * whole)
        if self._read is None:
            told = self._told_begin(len(visits))
            begin = times.index(visits[told or 0])
            placed = [_place(times, value) for value in seen]
            self._read = min(
                (way for way in range(3) if placed[way] is not None),
                key=lambda way: abs(placed[way] - begin),  # type: ignore[operator]
                default=None,
            )
            if self._read is None:
                return None
            first = placed[self._read]
            unsure = getattr(scheduler, "begin_index", None) is None and _begins_late(
                self._pipeline
            )
            if first is not None and unsure and (told is None or begin > first):
                begin = first
            self._begin = begin
        best = _place(times, seen[self._read])
        return None if best is None else (max(0, best - self._begin), len(times) - self._begin)

    def _told_begin(self, visits: int) -> int | None:
        """Where the scheduler's times are begun, as it or the pipeline tells."""
        begin = getattr(self._pipeline.scheduler, "begin_index", None)
        if begin is None and _begins_late(self._pipeline):  # DDIM, PNDM: no such index
            made = getattr(self._pipeline, "_num_timesteps", None)
            begin = visits - made if isinstance(made, int) and 0 < made <= visits else None
        return None if begin is None else min(begin, visits - 1)

    def _counted(self, time: float) -> int:
        if self._time is not None and time != self._time:
            falls = time < self._time
            if self._falls is None:
                self._falls = falls
            onward = falls == self._falls
            self._step = self._step + 1 if onward else 0
        self._time = time
        return self._step

    # -- guidance ----------------------------------------------------------------------------------
    def _parts(self, latents: Any) -> int | None:
        """See :attr:`Moment.parts`: from what the pipeline says and how its code is written."""
        pipe = self._pipeline
        if pipe is None:
            return None
        cls: type = type(pipe)
        doubles, negative_first = _guides(cls)
        guided = getattr(pipe, "do_classifier_free_guidance", None)
        if getattr(pipe, "do_perturbed_attention_guidance", False):
            return 3 if guided else 1  # negative, prompt, prompt again
        if guided is None:  # decided by a variable of the call: the same latents tell
            guided = doubles and negative_first and _twice(latents)
        if not guided or not (doubles or negative_first):
            return 1
        return 2 if doubles and negative_first else 0

    def _negative(self, module: nn.Module, time: float | None, text: Any) -> bool:
        """Whether a forward repeats the one before it with another text.

        Pipelines that do not double the batch run the denoiser on the prompt first.
        """
        if self._pipeline is None or not isinstance(text, Tensor) or time is None:
            return False
        last = self._prompts.get(id(module))
        if last is None or last[0] != time:
            self._prompts[id(module)] = time, text
            return False
        return text is not last[1]


def _begins_late(pipeline: Any) -> bool:
    """Whether a pipeline may begin within the schedule (image to image, by its strength)."""
    return hasattr(pipeline, "get_timesteps")


def _place(times: list[float], value: float) -> int | None:
    """Where a time is among others, if it is."""
    best = min(range(len(times)), key=lambda i: abs(times[i] - value))
    return best if abs(times[best] - value) <= _NEAR * max(abs(value), 1e-3) else None


def _tokens(states: Any) -> int | None:
    return states.shape[1] if isinstance(states, Tensor) and states.dim() == 3 else None


def _twice(latents: Any) -> bool:
    if not isinstance(latents, Tensor) or latents.shape[0] % 2:
        return False
    half = latents.shape[0] // 2
    return bool((latents[:half] == latents[half:]).all())


@cache
def _guides(pipeline: type) -> tuple[bool, bool]:
    """Whether a class of pipelines doubles its batch for guidance, and with the negative first.

    Read from the class that is called, which need not be the last one derived.
    """
    called = next((cls for cls in pipeline.__mro__ if "__call__" in vars(cls)), pipeline)
    try:
        source = inspect.getsource(called)
    except (OSError, TypeError):
        return True, False
    doubles = re.search(r"\[\s*\w+\s*\]\s*\*\s*[23(]|\.repeat\(2,|\[latents, latents\]", source)
    first = re.search(r"cat\(\s*[\[(]\s*(negative|uncond)\w*", source)
    return bool(doubles), bool(first)
