"""Ways to run a model that an attachment cannot follow: refused before they give wrong numbers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import FoveateError
from .regions import GENERATED

__all__ = ["Ways", "refuse_transforms"]


class Ways:
    """What one attachment's methods can stand.

    Parameters
    ----------
    methods : sequence
        Those attached.
    """

    def __init__(self, methods: Sequence[Any]) -> None:
        self._methods = list(methods)
        self._timed = [method for method in methods if _timed(method)]
        self._thread: int | None = None  # whose the current sequence is

    def generates(self, way: str) -> None:
        """Refuse a way of ``generate`` (see :class:`foveate.adapters.dispatch.Listener`)."""
        if way == "assisted" and self._timed:
            raise FoveateError(
                f"Assisted decoding (assistant_model, prompt_lookup_num_tokens) checks several "
                f"drafted tokens in one forward, so there are no decode steps that "
                f"{self._timed[0]!r} could act on or measure. Gains without phase=, steps= or "
                "'generated' work; else leave the assistant out, or measure the finished text in a "
                "forward of its own."
            )
        if way == "guided" and self._methods:
            raise FoveateError(
                f"generate(guidance_scale=…) also runs the model on a second, unconditional "
                f"prompt, to whose tokens {self._methods[0]!r} would be applied: leave "
                "guidance_scale out, or decode from two views (fv.decoding.ViewDecoder)."
            )
        if way == "paged" and self._methods:
            raise FoveateError(
                "Continuous batching (generate_batch) runs on a paged cache, which foveate does "
                "not read: use model.generate, or attach without methods."
            )

    def opening(self) -> None:
        """Refuse to be recorded into a graph that outlives the attachment."""
        if torch.jit.is_tracing() or torch.compiler.is_exporting():
            raise FoveateError(
                "The model is traced or exported while it is attached; the graph would hold this "
                "attachment's edits for good. Export outside the attach block."
            )

    def begins(self) -> None:
        """A sequence begins, in this thread."""
        self._thread = threading.get_ident()

    def closing(self) -> None:
        """Refuse a sequence that another thread has broken into."""
        if self._timed and self._thread not in (None, threading.get_ident()):
            raise FoveateError(
                f"Two threads run the attached model at once; {self._timed[0]!r} counts the steps "
                "of one sequence. Take turns (a lock around generate), or give each thread a model "
                "of its own."
            )


def refuse_transforms() -> None:
    """Refuse an edited or measured call under a transform of ``torch.func``."""
    if torch._C._functorch.maybe_current_level() is not None:
        raise FoveateError(
            "An edited or measured model was put through a transform of torch.func (grad, vmap, "
            "jvp, …), which flash kernels and checkpointed tiles do not support: use "
            "torch.autograd.grad or backward(), or attach without methods."
        )


def _timed(method: Any) -> bool:
    """Whether a method depends on which queries come in one call: it measures, looks at the
    call's tensors, or its scope counts steps.
    """
    scope = method.scope
    return bool(
        getattr(method, "reads", ())
        or getattr(method, "looks", False)
        or scope.phase is not None
        or scope.steps is not None
        or GENERATED in getattr(method, "regions", ())
    )
