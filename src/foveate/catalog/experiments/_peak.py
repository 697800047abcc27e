"""The most memory that torch's allocator held at once during a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

__all__ = ["peak_mb"]


def peak_mb(run: Callable[[], Any]) -> float:
    """Peak of what ``run`` allocates on the CPU above what was there before, in MB (10⁶ bytes).

    From the allocator's own records: the same in every run, whatever else the machine does.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        run()
    assert prof.profiler is not None
    events = [e for e in prof.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / 1e6
