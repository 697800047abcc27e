"""The latents of a pipeline, moved between two steps of its scheduler."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ...errors import FoveateError

__all__ = ["Latents", "grid_of"]


class Latents:
    """Lets a method move the latents that a pipeline denoises, though the pipeline holds them.

    The method adds to what the denoiser is given; the scheduler's next step then begins where that
    led to. What a scheduler scales for the denoiser (Euler's) is scaled back. Between its own steps
    a scheduler may go back to latents it kept: see :attr:`begins`; a corrector that would (UniPC's)
    is left out of the steps behind a move.

    Parameters
    ----------
    scheduler : object
        Of diffusers.
    """

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self._moved: Tensor | None = None
        self.scale = 1.0
        """What the scheduler multiplied the latents by, for the denoiser."""

    @property
    def moved(self) -> Tensor | None:
        """By how much the latents were moved since the last step; None where they were not."""
        return self._moved

    @property
    def begins(self) -> bool:
        """Whether the scheduler's next step begins where the latents are.

        Solvers that look twice (Heun, KDPM2, PNDM, single-step DPM) begin their second look at what
        they kept of the first; to move the latents there would be lost.
        """
        scheduler = self.scheduler
        if not getattr(scheduler, "state_in_first_order", True):
            return False
        if hasattr(scheduler, "prk_timesteps"):  # PNDM: four looks a step at first, or two at once
            warm = len(scheduler.prk_timesteps)
            if scheduler.counter < warm:
                return bool(scheduler.counter % 4 == 0)
            return bool(warm) or scheduler.counter != 1
        orders = getattr(scheduler, "order_list", None)
        return not orders or orders[scheduler.step_index or 0] == 1

    def move(self, by: Tensor) -> None:
        """Move them, in their own scale."""
        self._moved = by

    def forget(self) -> None:
        """Leave them; an interrupted step may have left a move behind."""
        self._moved = None

    def instead(self) -> Iterator[tuple[Any, str, Any]]:
        """What stands in for the scheduler's methods (see :mod:`foveate.methods`)."""
        yield self.scheduler, "step", self._step
        if hasattr(self.scheduler, "scale_model_input"):
            yield self.scheduler, "scale_model_input", self._scaled

    def _scaled(self, own: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        scaled: Tensor = own(sample, *args, **kwargs)
        length = float(sample.float().norm())  # MPS has no doubles
        same = scaled is sample or not length
        self.scale = 1.0 if same else float(scaled.float().norm()) / length
        return scaled

    def _step(
        self, own: Any, model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any
    ) -> Any:
        moved, self._moved = self._moved, None
        if moved is not None:
            if moved.shape != sample.shape:
                raise FoveateError(
                    f"The latents were moved as {list(moved.shape)}, and the scheduler steps on "
                    f"{list(sample.shape)}: this pipeline has latents of another form between its "
                    "steps than its denoiser is given."
                )
            sample = sample + moved.to(sample.dtype)
            if getattr(self.scheduler, "last_sample", None) is not None:
                self.scheduler.last_sample = None
        return own(model_output, timestep, sample, *args, **kwargs)


def grid_of(told: Mapping[str, Any], latents: Tensor, tokens: int) -> tuple[int, int]:
    """Rows and columns of the image's tokens.

    Parameters
    ----------
    told : mapping
        What the denoiser was called with, by name.
    latents : Tensor
        ``[B, C, H, W]``; or packed, ``[B, S, C]``, with positions ``img_ids``.
    tokens : int
        Of the image, at the site in question.

    Raises
    ------
    FoveateError
        For latents of another form (video), or tokens that are no grid of their aspect.
    """
    if latents.dim() == 4:
        height, width = latents.shape[-2:]
        rows = round(height / math.sqrt(height * width / tokens))
    elif latents.dim() == 3 and isinstance(told.get("img_ids"), Tensor):
        rows = int(told["img_ids"].reshape(-1, told["img_ids"].shape[-1])[:, 1].max()) + 1
    else:
        rows = 0
    if rows < 1 or tokens % rows:
        raise FoveateError(
            f"Latents of {list(latents.shape)} and {tokens} image tokens make no picture of rows "
            "and columns; video and sequences have none."
        )
    return rows, tokens // rows
