"""Bad input is refused at the door: what was given, what was wanted, how to mend it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from ..errors import FoveateError
from .measures import Read
from .operator import Operator
from .pattern import Pattern
from .program import Program
from .shapes import Shapes
from .terms import hidden


def qkv(q: Tensor, k: Tensor, v: Tensor) -> Shapes:
    """Check the three tensors of a call; their shapes."""
    for name, t in (("q", q), ("k", k), ("v", v)):
        if not isinstance(t, Tensor):
            raise FoveateError(f"{name} must be a tensor; {type(t).__name__} was given.")
        if t.dim() != 4:
            raise FoveateError(
                f"{name} must be [batch, heads, tokens, head size]; {tuple(t.shape)} was given."
            )
        if t.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise FoveateError(
                f"{name} must be floating point: float16, bfloat16, float32 or float64; {t.dtype} "
                "was given."
            )
    if len({q.dtype, k.dtype, v.dtype}) > 1:
        raise FoveateError(
            f"q, k and v must share one dtype; {q.dtype}, {k.dtype} and {v.dtype} were given. "
            "Convert them with .to()."
        )
    if len({q.device, k.device, v.device}) > 1:
        raise FoveateError(
            f"q, k and v must be on one device; {q.device}, {k.device} and {v.device} were given."
        )
    B, Hq, _, D = q.shape
    if k.shape[0] != B or v.shape[0] != B:
        raise FoveateError(
            f"q, k and v must share the batch size; {B}, {k.shape[0]} and {v.shape[0]} were given."
        )
    if k.shape[3] != D:
        raise FoveateError(f"q and k must share the head size; {D} and {k.shape[3]} were given.")
    if k.shape[1:3] != v.shape[1:3]:
        raise FoveateError(
            "k and v must share heads and tokens; "
            f"{tuple(k.shape[1:3])} and {tuple(v.shape[1:3])} were given."
        )
    if min(*q.shape, *k.shape, *v.shape) == 0:
        raise FoveateError(
            f"empty tensors have no attention: q {tuple(q.shape)}, k {tuple(k.shape)}, "
            f"v {tuple(v.shape)} were given."
        )
    if Hq % k.shape[1]:
        raise FoveateError(
            f"the {Hq} query heads must be a multiple of the {k.shape[1]} key heads."
        )
    return Shapes.of(q, k, v)


def broadcast(name: str, t: Tensor, wanted: tuple[int, ...], meaning: str) -> None:
    """``t`` must broadcast to ``wanted``."""
    ok = t.dim() <= len(wanted) and all(
        have in (1, want) for have, want in zip(reversed(t.shape), reversed(wanted), strict=False)
    )
    if not ok:
        raise FoveateError(
            f"{name} must be broadcastable to {meaning} = {wanted}; {tuple(t.shape)} was given."
        )


def region(name: str, inside: Any, shapes: Shapes) -> None:
    """A region is bool ``[Sk]``, ``[B, Sk]`` or ``[B|1, Hq|1, Sk]`` on the call's device."""
    if not isinstance(inside, Tensor) or inside.dtype != torch.bool:
        kind = inside.dtype if isinstance(inside, Tensor) else type(inside).__name__
        raise FoveateError(f"region {name!r} must be a bool tensor; {kind} was given.")
    good = {1: ((shapes.Sk,),), 2: ((shapes.B, shapes.Sk), (1, shapes.Sk))}.get(inside.dim())
    if inside.dim() == 3:
        good = tuple((b, h, shapes.Sk) for b in (1, shapes.B) for h in (1, shapes.Hq))
    if tuple(inside.shape) not in (good or ()):
        raise FoveateError(
            f"region {name!r} must be [{shapes.Sk}], [{shapes.B}, {shapes.Sk}] or [{shapes.B}|1, "
            f"{shapes.Hq}|1, {shapes.Sk}], one entry a key; {tuple(inside.shape)} was given."
        )
    _device(f"region {name!r}", inside, shapes)


def gain(name: str, value: Any, shapes: Shapes | None = None) -> None:
    """A gain is a finite number greater than 0, or a tensor of such."""
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise FoveateError(f"the gain on {name!r} must be floating point; it is {value.dtype}.")
        good = bool(((value > 0) & value.isfinite()).all())
        if shapes is not None:
            wanted = (shapes.B, shapes.Hq, shapes.Sq)
            broadcast(f"the gain on {name!r}", value, wanted, "[B, Hq, Sq]")
            _device(f"the gain on {name!r}", value, shapes)
    elif isinstance(value, Real) and not isinstance(value, bool):
        good = bool(0 < value <= sys.float_info.max)  # type: ignore[operator]
    else:
        raise FoveateError(
            f"the gain on {name!r} must be a number or a tensor; {type(value).__name__} was given."
        )
    if not good:
        shown = f"{value!r} was given" if not isinstance(value, Tensor) else "some entries are not"
        raise FoveateError(
            f"the gain on {name!r} must be finite and greater than 0 ({shown}). A gain below 1 "
            "suppresses; to hide keys entirely use key_bias=-inf."
        )


def known_region(name: str, regions: Mapping[str, Any], user: str) -> None:
    """``name`` must be among ``regions``."""
    if name not in regions:
        there = ", ".join(repr(r) for r in regions) or "none"
        raise FoveateError(f"{user} names the region {name!r}; the regions given are: {there}.")


def reads(
    measures: Iterable[Any] | Read, regions: Mapping[str, Any], shapes: Shapes
) -> tuple[Read, ...]:
    """Check measures: of the right kind, on known regions, within range, with keys of their own."""
    if isinstance(measures, Read):
        measures = (measures,)
    if measures is None:
        measures = ()
    if isinstance(measures, str) or not isinstance(measures, Iterable):
        measures = [measures]
    found, keys = [], set()
    for measure in measures:
        if not isinstance(measure, Read):
            raise FoveateError(
                "measures are made by foveate.mass(name), entropy(), distance(), received(), "
                f"block_map(n), rows(index), top(k) and max(); {measure!r} was given."
            )
        if measure.kind == "mass" and measure.region is not None:
            known_region(measure.region, regions, "a measure")
        for i in measure.index or ():
            if not -shapes.Sq <= i < shapes.Sq:
                raise FoveateError(f"rows({i}) is out of range: the call has {shapes.Sq} queries.")
        if measure.kind == "block_map" and (measure.size or 0) > min(shapes.Sq, shapes.Sk):
            raise FoveateError(
                f"block_map({measure.size}) needs that many queries and keys; the call has "
                f"{shapes.Sq} and {shapes.Sk}."
            )
        if measure.kind == "top" and (measure.size or 0) > shapes.Sk:
            raise FoveateError(f"top({measure.size}) was asked for; the call has {shapes.Sk} keys.")
        for key in measure.keys:
            if key in keys:
                raise FoveateError(
                    f"two measures write {key!r}; give one of them another key with as_=."
                )
            keys.add(key)
        found.append(measure)
    return tuple(found)


def _device(name: str, t: Tensor, shapes: Shapes) -> None:
    if t.device not in (shapes.device, shapes.home):  # the latter for a plan that is not to run
        raise FoveateError(
            f"{name} is on {t.device}; q, k and v are on {shapes.device}. Move it with .to()."
        )


def number(name: str, value: Any) -> None:
    """A number greater than 0 that float32 can hold with room to spare."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) <= 1e30:
        raise FoveateError(
            f"{name} must be a number greater than 0 and at most 1e30; {value!r} was given."
        )


def program(p: Program, shapes: Shapes) -> None:
    """Check everything of a program besides its reads."""
    h = shapes
    if p.scale is not None:
        if isinstance(p.scale, bool) or not isinstance(p.scale, Real) or p.scale == 0:
            raise FoveateError(f"scale must be a number other than 0; {p.scale!r} was given.")
        if not -1e30 <= p.scale <= 1e30:
            raise FoveateError(f"scale must be finite, at most 1e30; {p.scale!r} was given.")
    if not isinstance(p.causal, bool):
        raise FoveateError(f"causal must be True or False; {p.causal!r} was given.")
    if p.softcap is not None:
        number("softcap", p.softcap)
    if p.q_offset is not None and (
        isinstance(p.q_offset, bool) or not isinstance(p.q_offset, Integral)
    ):
        raise FoveateError(
            f"q_offset must be a whole number (the key index of query 0); {p.q_offset!r} was given."
        )
    if p.pattern is not None:
        # A dense mask may be a causal one with padding.
        causal = p.causal or p.bias is not None
        _pattern(p.pattern, h, h.Sk - h.Sq if p.q_offset is None else int(p.q_offset), causal)
    for operator in p.operators:
        if isinstance(operator, type) or not isinstance(operator, Operator):
            hint = " A pattern goes into pattern=." if hasattr(operator, "key_range") else ""
            raise FoveateError(
                f"operators must be objects with run(program, q, k, v); {_named(operator)} was "
                f"given.{hint or _made(operator)}"
            )
    for name, t, wanted, meaning in (
        ("key_bias", p.key_bias, (h.B, h.Hq, h.Sk), "[B, Hq, Sk]"),
        ("bias", p.bias, (h.B, h.Hq, h.Sq, h.Sk), "[B, Hq, Sq, Sk]"),
        ("sinks", p.sinks, (h.Hq,), "[Hq]"),
    ):
        if t is None:
            continue
        if not isinstance(t, Tensor):
            raise FoveateError(f"{name} must be a tensor; {type(t).__name__} was given.")
        broadcast(name, t, wanted, meaning)
        _device(name, t, h)
    if p.head_scale is not None:
        broadcast("head_scale", p.head_scale, (h.B, h.Hq, h.Sq), "[B, Hq, Sq]")
        _device("head_scale", p.head_scale, h)
    if p.queries is not None and (p.queries.dtype != torch.bool or p.queries.shape != (h.B, h.Sq)):
        raise FoveateError(
            f"queries must be bool [{h.B}, {h.Sq}]; {p.queries.dtype} {tuple(p.queries.shape)} was "
            "given."
        )
    if p.sinks is not None:
        if not p.sinks.is_floating_point():
            raise FoveateError(f"sinks must be floating point; they are {p.sinks.dtype}.")
        _finite_or_hidden("sinks", p.sinks)
    if p.key_bias is not None:
        if not p.key_bias.is_floating_point():
            raise FoveateError(
                f"key_bias must be floating point (-inf hides a key); it is {p.key_bias.dtype}. "
                "From a bool mask of visible keys: torch.where(mask, 0.0, -torch.inf)."
            )
        _finite_or_hidden("key_bias", p.key_bias)
        batch = (~hidden(p.key_bias)).expand(h.B, h.Hq, h.Sk).any(-1).any(-1)
        if not bool(batch.all()):
            empty = batch.logical_not().nonzero().flatten().tolist()
            raise FoveateError(
                f"batch item {empty[0]} has no visible key: key_bias hides them all."
            )
    if p.bias is not None:
        if p.bias.dim() != 4 or p.bias.shape[2:] != (h.Sq, h.Sk):
            raise FoveateError(
                f"bias must be [B|1, Hq|1, {h.Sq}, {h.Sk}]; {tuple(p.bias.shape)} was given. A "
                "term of the key alone goes into key_bias=."
            )
        if p.bias.dtype != torch.bool and not p.bias.is_floating_point():
            raise FoveateError(f"bias must be floating point or bool; it is {p.bias.dtype}.")
        if p.bias.dtype != torch.bool:
            _finite_or_hidden("bias", p.bias)
        shown = p.bias if p.bias.dtype == torch.bool else ~hidden(p.bias)
        if not bool(shown.flatten(1).any(-1).all()):
            raise FoveateError("a batch item has no visible key: bias hides them all.")
    if p.causal and p.q_offset is not None and p.q_offset + h.Sq <= 0:
        raise FoveateError(
            f"q_offset={p.q_offset} puts all {h.Sq} queries before the first key: no batch item "
            "sees anything."
        )
    for pair in p.score_terms:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise FoveateError("score_terms takes pairs (phi, psi).")
        phi, psi = pair
        if not isinstance(phi, Tensor) or not isinstance(psi, Tensor):
            raise FoveateError("score_terms takes pairs (phi, psi) of tensors.")
        if min(phi.dim(), psi.dim()) < 1 or phi.shape[-1] != psi.shape[-1]:
            raise FoveateError(
                "a score term is phi [B|1,Hq|1,Sq|1,R] with psi [B|1,Hq|1,Sk,R]; "
                f"{tuple(phi.shape)} and {tuple(psi.shape)} were given."
            )
        rank = phi.shape[-1]
        broadcast("phi", phi, (h.B, h.Hq, h.Sq, rank), "[B, Hq, Sq, R]")
        broadcast("psi", psi, (h.B, h.Hq, h.Sk, rank), "[B, Hq, Sk, R]")
        for name, t in (("phi", phi), ("psi", psi)):
            _device(name, t, h)
            if not t.is_floating_point():
                raise FoveateError(f"{name} must be floating point; it is {t.dtype}.")
            if not bool(t.detach().isfinite().all()):
                raise FoveateError(f"{name} must be finite; hide keys with key_bias=-inf.")
    for name, inside in p.regions.items():
        region(name, inside, h)
    for one in p.gains:
        known_region(one.region, p.regions, "a gain")
        if one.adaptive:
            for name in one.of.values():
                known_region(name, p.regions, "a row-adaptive gain")
        else:
            gain(one.region, one.value, h)


def something_visible(lse: Tensor) -> None:
    """Every batch item of ``lse [B, Hq, Sq]`` must see something somewhere."""
    seen = (lse > -torch.inf).flatten(1).any(-1)
    if not bool(seen.all()):
        raise FoveateError(
            f"batch item {int(seen.logical_not().nonzero()[0])} has nothing visible: causal, "
            "q_offset, pattern, key_bias and bias together hide every pair."
        )


def _named(given: Any) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else repr(given)


def _made(given: Any) -> str:
    return f" Give it an object: {given.__name__}(…)." if isinstance(given, type) else ""


def _pattern(pattern: Any, h: Shapes, q_offset: int, causal: bool) -> None:
    if isinstance(pattern, type) or not isinstance(pattern, Pattern):
        what = type(pattern).__name__
        if isinstance(pattern, Tensor):
            hint = " A bool mask goes into bias=."
        elif hasattr(pattern, "run"):
            what, hint = _named(pattern), f" An operator goes into operators=[…].{_made(pattern)}"
        else:
            what = _named(pattern) if isinstance(pattern, type) else what
            hint = _made(pattern)
        raise FoveateError(
            f"pattern must be a Pattern object (with tile and key_range); {what} was given.{hint}"
        )
    told = getattr(pattern, "heads", None)
    if told not in (None, h.Hq):
        raise FoveateError(
            f"{pattern!r} tells {told} heads apart and the call has {h.Hq}: give it as many."
        )
    if (fits := getattr(pattern, "fits", None)) is not None:
        fits(h.Sq, h.Sk, q_offset, causal)
    i, j = (torch.arange(n, device=h.home) for n in (min(h.Sq, 2), min(h.Sk, 3)))
    if getattr(pattern, "routed", False):
        return  # known once the queries and keys are there
    tile = pattern.tile(i, j)
    if not isinstance(tile, Tensor) or tile.dtype != torch.bool:
        raise FoveateError(f"{pattern!r}.tile must give a bool tensor; it gave {tile!r}.")
    broadcast(f"{pattern!r}.tile", tile, (h.B, h.Hq, len(i), len(j)), "[B, Hq, m, n]")


def _finite_or_hidden(name: str, t: Tensor) -> None:
    if bool((t.isnan() | (t == torch.inf)).any()):
        raise FoveateError(f"{name} holds NaN or +inf; it takes finite numbers, and -inf to hide.")
