"""Attaching changes nothing: outputs and the model itself, bit for bit."""

from __future__ import annotations

from typing import Any

import torch

from ..attach import attach
from .state import changed, snapshot
from .subject import Failed, NotApplicable, Subject

__all__ = ["passthrough", "policy", "restore"]


def passthrough(subject: Subject) -> float:
    """The outputs under an attachment without methods, and after it, are those of before."""
    base = subject.base
    with attach(subject.model) as run:
        inside = subject.run()
    if not subject.equal(inside, base):
        raise Failed("the outputs under attach differ", subject.gap(inside, base))
    if not run.calls:
        raise Failed("no forward was seen")
    after = subject.run()
    if not subject.equal(after, base):
        raise Failed("the outputs after detaching differ", subject.gap(after, base))
    return 0.0


class _Stop(Exception):
    pass


def restore(subject: Subject) -> None:
    """After the block, and after an error inside it, the model is what it was."""
    first = snapshot(subject.model)
    subject.run()
    before = snapshot(subject.model)
    restless = changed(first, before)  # what the forward itself changes
    with attach(subject.model):
        subject.run()
    _same(changed(before, snapshot(subject.model)) - restless, "after the block")
    try:
        with attach(subject.model):
            subject.run()
            raise _Stop
    except _Stop:
        pass
    _same(changed(before, snapshot(subject.model)) - restless, "after an error in the block")


def policy(subject: Subject, held: Any) -> float:
    """The model runs under the policy, its regions the prompt's first half; after it, as before."""
    if held.asking is not None:
        raise NotApplicable(f"{type(held.asking).__name__} asks the model itself, in several calls")
    names = {name for one in held.methods for name in getattr(one, "regions", ())}
    ids = subject.inputs.get("input_ids")
    if names and ids is None:
        raise NotApplicable("it speaks of regions of a text, and this model reads none")
    place = torch.arange(0 if ids is None else ids.shape[-1])
    regions = {
        name: place < (1 if name == "first" else (len(place) + 1) // 2)
        for name in names - {"generated"}
    }
    first = snapshot(subject.model)
    subject.run()
    before = snapshot(subject.model)
    restless = changed(first, before)
    with attach(subject.model, *held.methods, regions=regions):
        subject.run()
    after = subject.run()
    if not subject.equal(after, subject.base):
        raise Failed("the outputs after the policy differ", subject.gap(after, subject.base))
    _same(changed(before, snapshot(subject.model)) - restless, "after the policy")
    return 0.0


def _same(names: set[str], when: str) -> None:
    if names:
        shown = ", ".join(sorted(names)[:3])
        raise Failed(f"{when} {len(names)} things are not what they were: {shown}")
