"""Gains and masses obey their algebra, stack by stack; maps are the model's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..attach import attach
from .probes import Gain, Seen, part
from .state import kept
from .subject import Failed, NotApplicable, Subject

__all__ = ["TESTS"]

GAIN = 5.0


def _unchanged(subject: Subject, stack: str, gain: float) -> float:
    _seen(subject, stack)
    tolerance = subject.tolerance
    with attach(subject.model, Gain(gain, everywhere=True, stack=stack)) as run:
        got = subject.run()
    if not run.coverage.touched:
        raise Failed("the gain reached no site")
    error = subject.gap(got, subject.base)
    if not error <= tolerance:
        raise Failed(f"the outputs differ by {error:.1g} (allowed: {tolerance:.1g})", error)
    return error


def gain_one(subject: Subject, stack: str) -> float:
    """A gain of 1 on all keys leaves the outputs as they are: foveate computes what the model
    does.
    """
    return _unchanged(subject, stack, 1.0)


def gain_everywhere(subject: Subject, stack: str) -> float:
    """A gain of 5 on all keys cancels."""
    if any(seen.sinks for calls in _seen(subject, stack).values() for seen in calls):
        raise NotApplicable("a learned sink takes a share of its own, so it does not cancel")
    return _unchanged(subject, stack, GAIN)


def _seen(subject: Subject, stack: str) -> dict[str, list[Seen]]:
    seen = subject.look(stack)
    if not seen:
        raise NotApplicable("the inputs do not reach this stack")
    return seen


def masses(subject: Subject, stack: str) -> float:
    """All visible keys together have mass 1 (less than 1 beside a learned sink)."""
    worst = 0.0
    for name, calls in _seen(subject, stack).items():
        for seen in calls:
            visible = seen.whole > 0
            if not bool(visible.any()):
                raise Failed(f"{name}: no query sees a key")
            off = (seen.whole[visible] - 1).abs()
            if seen.sinks:
                off = (seen.whole[visible] - 1).clamp(min=0)
            worst = max(worst, float(off.max()))
    if not worst <= max(subject.floor, 1e-5):
        raise Failed(f"the masses of all keys are off 1 by {worst:.1g}", worst)
    return worst


def gain_formula(subject: Subject, stack: str) -> float:
    """A gain of 5 raises a region's mass m to 5m / (5m + 1 - m), measured on the first layer."""
    first = subject.stacks[stack][0].name
    before = _seen(subject, stack)
    with attach(subject.model, Gain(GAIN, everywhere=False, stack=stack, layers=0)):
        after = subject.look(stack)  # an inner attachment: it reads what the outer one made
    if first not in before or first not in after:
        raise NotApplicable(f"{first} was not called")
    old, new = before[first][0], after[first][0]  # shared layers: what comes later saw the edit
    m = old.part.double()
    want = GAIN * m / (GAIN * m + 1 - m)
    worst = float((new.part.double() - want)[_attending(old)].abs().max())
    if not worst <= max(subject.floor, 1e-5):
        raise Failed(f"the masses are off the formula by {worst:.1g}", worst)
    return worst


def _attending(seen: Seen) -> Tensor:
    """Rows that look at something, bool ``[B, H, Sq]``.

    Where a model hides all keys of a row by a large finite number (local attention in blocks), the
    row is exactly uniform, and a gain is lost in that number's rounding.
    """
    visible = seen.whole > 0
    keys = seen.shape[3]
    uneven = visible & ((seen.max * keys - seen.whole).abs() > 1e-4)
    return uneven if keys > 1 and bool(uneven.any()) else visible


def maps(subject: Subject, stack: str) -> float:
    """Masses and largest probabilities are those of the eager model's own attention maps."""
    tolerance = subject.tolerance
    seen = _seen(subject, stack)
    found = _eager_maps(subject, stack, tolerance)
    worst, compared = 0.0, 0
    for name, calls in seen.items():
        theirs = found.get(name, [])
        for ours, map_ in zip(calls, theirs, strict=False):
            if tuple(map_.shape) != ours.shape or len(theirs) != len(calls):
                continue
            visible = ours.whole > 0
            p = map_.double()
            if ours.sinks and bool((p.sum(-1) > 0.999)[visible].all()):
                p = p * ours.whole[..., None]  # handed out before the sink took its share
            half = p[..., part(p.shape[-1], p.device)].sum(-1)
            off = torch.maximum((half - ours.part).abs(), (p.amax(-1) - ours.max).abs())
            if p.shape[1] > 1 and bool((p == p[:, :1]).all()):  # handed out as a mean of the heads
                off = (half - ours.part.mean(1, keepdim=True)).abs()
            worst, compared = max(worst, float(off[visible].max())), compared + 1
    if not compared:
        raise NotApplicable("its eager attention hands out no maps")
    if not worst <= max(tolerance, 1e-5):
        raise Failed(f"masses are off the model's own maps by {worst:.1g}", worst)
    return worst


def _eager_maps(subject: Subject, stack: str, tolerance: float) -> dict[str, list[Tensor]]:
    """What the modules of a stack return as attention weights on eager: ``[B, H, Sq, Sk]``."""
    found: dict[str, list[Tensor]] = {}
    inputs = dict(subject.inputs)
    if "output_attentions" in subject.parameters or subject.open:
        inputs["output_attentions"] = True
    with kept(subject.model):
        for site in subject.stacks[stack]:

            def keep(module: Any, args: Any, output: Any, name: str = site.name) -> None:
                for one in output if isinstance(output, list | tuple) else ():
                    if isinstance(one, Tensor) and one.dim() == 4 and _is_map(one):
                        found.setdefault(name, []).append(one.detach())

            site.module.register_forward_hook(keep)
        put_back = _switched(subject)
        try:
            answer = subject.run(inputs)
        except Exception as error:
            raise NotApplicable(f"it does not run on eager attention ({error})"[:160]) from error
        finally:
            put_back()
    names = {name for name, _ in subject.base}
    off = subject.gap([pair for pair in answer if pair[0] in names], subject.base)
    if not off <= 10 * tolerance:
        raise NotApplicable(f"on eager attention the model itself answers otherwise ({off:.1g})")
    return found


def _is_map(value: Tensor) -> bool:
    if not value.is_floating_point() or value.numel() == 0 or bool((value < 0).any()):
        return False
    return bool((value.sum(-1) <= 1.01).all())


def _switched(subject: Subject) -> Callable[[], None]:
    """Put the model on eager attention; returns what undoes it, exactly."""
    field = "_attn_implementation_internal"
    held_by = (getattr(module, "config", None) for module in subject.model.modules())
    configs = [config for config in held_by if hasattr(config, "__dict__")]
    for config in configs:
        inner = [v for v in vars(config).values() if hasattr(v, "_attn_implementation")]
        configs += [v for v in inner if not any(v is c for c in configs)]
    held = [(vars(c), vars(c)[field]) for c in configs if field in vars(c)]
    for values, _ in held:
        values[field] = "eager"

    def put_back() -> None:
        for values, old in held:
            values[field] = old

    return put_back


TESTS = {
    "gain 1": gain_one,
    "gain on all keys": gain_everywhere,
    "masses": masses,
    "gain": gain_formula,
    "maps": maps,
}
