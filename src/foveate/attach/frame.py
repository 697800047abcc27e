"""One forward in progress: what is known of it, and what its layers share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..adapters.calls import real_queries
from ..adapters.masks import MaskInfo
from .denoising import Moment

__all__ = ["Frame", "Time", "apart", "aside"]

_local = threading.local()


@contextmanager
def aside() -> Iterator[None]:
    """Forwards inside are a method's own: methods act on them as always, nothing is recorded.

    For a method that runs the model once more beside the forward of the user (a weak pass, a
    gradient). Of one thread.
    """
    before = apart()
    _local.apart = True
    try:
        yield
    finally:
        _local.apart = before


def apart() -> bool:
    """Whether forwards of this thread are a method's own; see :func:`aside`."""
    return getattr(_local, "apart", False)


class Time(NamedTuple):
    """When a stack runs in this forward, and on what."""

    phase: str
    step: int
    start: int  # absolute position of the first query
    length: int  # queries
    batch: int


@dataclass(eq=False)
class Frame:
    """One forward in progress, in one thread."""

    owner: nn.Module | None
    recording: bool = True
    attentions: bool = False
    apart: bool = False  # a method's own: see aside
    outer: Frame | None = None  # the forward that a method's own interrupts
    moment: Moment | None = None  # of a denoiser
    past: int | None = None  # tokens the decoder's cache held before, where that is known
    hits: dict[int, int] = field(default_factory=dict)  # id(place) -> calls in this forward
    stacks: dict[str, int] = field(default_factory=dict)  # sites reached
    times: dict[str, Time] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=dict)  # of a stack's first layer, hand-written
    lost: dict[str, int] = field(default_factory=dict)  # stacks whose cache went back, from where
    decoder: Time | None = None
    decoder_mask: Any = None
    edited: int = 0
    cache: dict[Any, Any] = field(default_factory=dict)

    def decoder_queries(self) -> Tensor | None:
        """Which of the decoder's queries are real: what cross-attention is not told."""
        return real_queries(self.decoder_mask) if isinstance(self.decoder_mask, MaskInfo) else None
