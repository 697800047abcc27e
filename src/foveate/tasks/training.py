"""Train a small model on a small world, and ask it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import FoveateError

__all__ = ["Fit", "Trainable", "accuracy", "fit"]


class Trainable(Protocol):
    """A world to train on: :class:`foveate.tasks.MQAR` and its like."""

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` items: tokens and what is asked for, int64 ``[n, S]``, -100 where nothing is."""
        ...


@dataclass(frozen=True)
class Fit:
    """How a training went: the loss of every step (nats an answer) and the seconds it took."""

    losses: list[float] = field(repr=False)
    seconds: float


def fit(
    model: nn.Module,
    task: Trainable,
    *,
    steps: int,
    batch: int = 32,
    lr: float = 3e-3,
    seed: int = 0,
    more: Callable[[], Tensor] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Fit:
    """Train ``model(tokens) -> logits [B, S, vocab]`` by AdamW: a tenth of warm-up, then a cosine.

    Parameters
    ----------
    steps, batch : int
        Every step draws a new batch.
    lr : float
        At its highest.
    seed : int
        Of the batches.
    more : callable, optional
        What is added to each step's loss, after the forward.
    progress : callable, optional
        Called with the number of steps done and the loss.

    Raises
    ------
    FoveateError
        Fewer than one step, a task that draws no batches of tokens, or a loss that is no number
        any more.
    """
    if not isinstance(steps, int) or steps < 1:
        raise FoveateError(f"fit(steps={steps!r}): a whole number of at least 1 was wanted.")
    _trainable("fit", task)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    warm = max(1, steps // 10)
    model.train()
    losses, begun = [], time.perf_counter()
    for step in range(steps):
        rate = min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = lr * rate
        tokens, targets = task.batch(batch, generator)
        logits = model(tokens)
        asked = targets != -100
        loss = nn.functional.cross_entropy(logits[asked].float(), targets[asked])
        whole = loss if more is None else loss + more()
        optimizer.zero_grad(set_to_none=True)
        whole.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise FoveateError(f"fit: the loss of step {step} is {losses[-1]}; try a smaller lr.")
        if progress is not None:
            progress(step + 1, losses[-1])
    return Fit(losses, time.perf_counter() - begun)


def _trainable(who: str, task: object) -> None:
    if isinstance(task, type) or not callable(getattr(task, "batch", None)):
        given = f"the class {task.__name__}" if isinstance(task, type) else type(task).__name__
        raise FoveateError(
            f"{who}: {given} was given as the task; an object that draws batches of tokens "
            "(batch(n, generator)) was wanted, such as fv.tasks.MQAR(…). Tasks of text are for "
            "models that know language already."
        )


@torch.no_grad()
def accuracy(
    model: nn.Module, task: Trainable, *, n: int = 128, seed: int = 1, batch: int = 32
) -> list[float]:
    """The share of right answers in each of ``n`` new items."""
    _trainable("accuracy", task)
    generator = torch.Generator().manual_seed(seed)
    training = model.training
    model.eval()
    shares: list[float] = []
    try:
        while len(shares) < n:
            tokens, targets = task.batch(min(batch, n - len(shares)), generator)
            right = (model(tokens).argmax(-1) == targets).sum(-1)
            shares += (right / (targets != -100).sum(-1).clamp(min=1)).tolist()
    finally:
        model.train(training)
    return shares
