"""One model, many visitors: who is next, how far the work is, and how it is stopped.

Attaching is per model and not per thread, so one piece of work runs at a time, in the order in
which it was asked for. It runs in a thread of its own; what a visitor waits on is a generator that
tells how far it is.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..adapters.sites import sites
from ..errors import FoveateError

__all__ = ["Desk", "Job", "Session", "Stopped", "Update", "fault"]

_TICK = 0.1  # seconds between two looks at how far the work is
_GONE = 30.0  # seconds after which work is given up that nobody asks after
MOST_WAITING = 16


def fault(error: Exception) -> FoveateError:
    """What went wrong, as a sentence for the page; of our own faults the terminal has the rest."""
    if isinstance(error, FoveateError):
        return error
    traceback.print_exception(error, file=sys.stderr)
    return FoveateError(
        f"Something went wrong inside foveate ({type(error).__name__}); the terminal that runs it "
        "says more. The model is as it was."
    )


class Stopped(Exception):
    """The work was stopped by whoever asked for it; the model is as it was."""


@dataclass(frozen=True)
class Update:
    """What a visitor is told: a sentence, and the last that the work had to show."""

    message: str
    value: Any = None


class Job:
    """One piece of work on the model."""

    def __init__(self) -> None:
        self.message = ""
        self.value: Any = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.seen = time.monotonic()
        self.begun = False
        self._stopped = threading.Event()
        self._done, self._all = 0, 0

    # -- called by the work ------------------------------------------------------------------------
    def stage(self, message: str, calls: int = 0) -> None:
        """Begin a stage of ``calls`` attention calls; with 0 the message stands alone."""
        self.check()
        self.message, self._done, self._all = message, 0, calls

    def show(self, value: Any) -> None:
        """Show what there is so far."""
        self.value = value

    def check(self) -> None:
        """Raise :class:`Stopped` if the work was stopped, or nobody asks after it any more."""
        if self._stopped.is_set() or time.monotonic() - self.seen > _GONE:
            raise Stopped

    def count(self) -> None:
        """One attention call begins: the place where work on a model stops."""
        self.check()
        self._done += 1

    # -- called by whoever waits -------------------------------------------------------------------
    def stop(self) -> None:
        """Stop before the next attention call."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stopped.is_set()

    def update(self) -> Update:
        """How far it is."""
        self.seen = time.monotonic()
        share = f" {min(99, 100 * self._done // self._all)} %" if self._all else ""
        return Update(f"{self.message} …{share}", self.value)


class Session:
    """What belongs to one visitor: the work under way, and the prompt last looked at.

    gradio copies the page's own session for every visitor; a copy is a new, empty one.
    """

    def __init__(self) -> None:
        self.jobs: set[Job] = set()
        self.looked: Any = None

    def __deepcopy__(self, memo: Any) -> Session:
        return Session()

    def stop(self) -> int:
        """Stop all of this visitor's work; how much there was."""
        jobs = list(self.jobs)
        for job in jobs:
            job.stop()
        return len(jobs)


class Desk:
    """The one model of a page, and the queue in front of it.

    Parameters
    ----------
    model, tokenizer
        A causal language model.
    name : str
        What to call it.
    policy : Policy, optional
        A method of one's own to compare.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, name: str, policy: Any = None) -> None:
        self.model, self.tokenizer, self.name, self.policy = model, tokenizer, name, policy
        self.modules = [site.module for site in sites(model)]
        self._queue: deque[Job] = deque()
        self._lock = threading.Lock()  # of the queue; the model is whose job stands first

    @property
    def calls(self) -> int:
        """Attention calls in one forward."""
        return len(self.modules)

    def run(self, session: Session, work: Callable[[Job], Any]) -> Iterator[Update]:
        """Do a piece of work when it is its turn, telling how far it is.

        Parameters
        ----------
        session : Session
        work : callable
            Given the :class:`Job`; what it returns is the last update's value.

        Yields
        ------
        Update
            Where in the queue, then how far; the last one has the result. Dropping the generator
            stops the work.

        Raises
        ------
        FoveateError
            What the work raised, or that too many wait already.
        Stopped
        """
        job = Job()
        with self._lock:
            if len(self._queue) >= MOST_WAITING:
                raise FoveateError(
                    f"{MOST_WAITING} pieces of work wait for the model already; try again in a "
                    "minute."
                )
            self._queue.append(job)
        session.jobs.add(job)
        worker: threading.Thread | None = None
        last: Update | None = None
        try:
            while worker is None:
                before = self._place(job)
                if job.stopped:
                    raise Stopped
                if before == 0:
                    worker = threading.Thread(target=self._work, args=(job, work), daemon=True)
                    worker.start()
                else:
                    job.message = f"Waiting for the model, {before} before you"
                    if (update := job.update()) != last:
                        yield (last := update)
                    time.sleep(_TICK)
            while worker.is_alive():
                if (update := job.update()) != last:
                    yield (last := update)
                worker.join(_TICK)
            if job.error is not None:
                raise job.error
            yield Update("", job.result)
        finally:
            session.jobs.discard(job)
            job.stop()
            if worker is None:  # a worker leaves the queue itself, when the model is free
                self._leave(job)

    def _place(self, job: Job) -> int:
        """How many stand before a job; what waits there and nobody asks after is dropped."""
        job.seen = time.monotonic()
        with self._lock:
            while self._queue[0] is not job:
                first = self._queue[0]
                if first.begun or job.seen - first.seen < _GONE:
                    break  # what has begun leaves by itself
                self._queue.popleft()
            before = self._queue.index(job)
            job.begun = before == 0
            return before

    def _leave(self, job: Job) -> None:
        with self._lock:
            if job in self._queue:
                self._queue.remove(job)

    def _work(self, job: Job, work: Callable[[Job], Any]) -> None:
        try:
            with torch.no_grad(), self._counting(job):
                job.result = work(job)
        except Stopped as error:
            job.error = error
        except Exception as error:
            job.error = fault(error)
        finally:
            self._leave(job)

    @contextmanager
    def _counting(self, job: Job) -> Iterator[None]:
        """Every attention module of the model asks the job whether to go on."""

        def before(module: nn.Module, args: Any) -> None:
            job.count()

        handles = [module.register_forward_pre_hook(before) for module in self.modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
