"""Which modules attend by themselves, told from their code.

A class is judged by the names its functions speak of, so that nothing has to run: whether they call
SDPA, themselves or through functions of their package; whether a softmax is written out in what
looks like attention.
"""

from __future__ import annotations

import inspect
from functools import cache
from types import FunctionType

from torch import nn

from .rebind import calls, copyable, mentions, named

__all__ = ["causal", "functions", "reach", "rebindable"]

_SOFTMAX = ("softmax", "Softmax")
_CAUSAL = ("is_causal", "tril", "triu", "causal_mask")
_BOTH = ("qkv", "c_attn", "in_proj", "Wqkv")
_QUERIES = ("q", "q_proj", "query", "to_q", "wq", "w_q", "q_lin", *_BOTH)
_KEYS = ("k", "k_proj", "key", "to_k", "wk", "w_k", "k_lin", *_BOTH)


@cache
def functions(cls: type) -> dict[str, FunctionType]:
    """The functions that make up a class of modules, as its instances see them, by name."""
    found: dict[str, FunctionType] = {}
    for base in cls.__mro__:
        if base is nn.Module or base.__module__ == "transformers.modeling_utils":
            break
        for name, member in vars(base).items():
            if isinstance(member, FunctionType):
                found.setdefault(name, member)
    return found


@cache
def _beneath(cls: type) -> tuple[FunctionType, ...]:
    """Functions that a class overrides and calls by ``super()``: out of a copy's reach."""
    own = functions(cls)
    return tuple(
        member
        for base in cls.__mro__[1:]
        if base.__module__.split(".")[0] != "torch"
        for name, member in vars(base).items()
        if isinstance(member, FunctionType)
        and (over := own.get(name)) not in (None, member)
        and mentions(over, ("super",))
    )


@cache
def _code(cls: type) -> tuple[FunctionType, ...]:
    """All functions that a class of modules may run, without their decorators."""
    return tuple(map(inspect.unwrap, (*functions(cls).values(), *_beneath(cls))))


@cache
def _attends(cls: type) -> bool:
    return any(calls(function) for function in _code(cls))


@cache
def _softmaxes(cls: type) -> bool:
    return any(mentions(function, _SOFTMAX) for function in _code(cls))


@cache
def _rebindable(cls: type, fused: bool) -> bool:
    """Whether all attention of a class goes through names that a copy of its code can exchange.

    ``fused``: a softmax beside them is for others than this instance.
    """
    attending = [f for f in functions(cls).values() if calls(f)]
    return (
        bool(attending)
        and len(attending) == sum(calls(f) for f in _code(cls))
        and all(copyable(function) for function in attending)
        and (fused or not any(calls(function, _SOFTMAX) for function in _code(cls)))
    )


def rebindable(cls: type) -> bool:
    """Whether all that a class attends goes through names that a copy of its code can exchange."""
    return _rebindable(cls, False)


def _written_out(module: nn.Module) -> bool:
    """Whether a module looks like attention with a softmax of its own."""
    cls: type = type(module)
    if isinstance(module, nn.MultiheadAttention):
        return True
    if not _softmaxes(cls) and not any(isinstance(c, nn.Softmax) for c in module.children()):
        return False
    name = cls.__name__.lower()
    children = {child for child, _ in module.named_children()} | set(module._parameters)
    projects = not children.isdisjoint(_QUERIES) and not children.isdisjoint(_KEYS)
    return "attention" in name or "attn" in name or projects


def reach(module: nn.Module) -> str | None:
    """How the attention of one module is come by: "rebound", "intercepted", or None."""
    cls: type = type(module)
    if cls.__module__.startswith("torch.nn.") and not isinstance(module, nn.MultiheadAttention):
        return None
    if _rebindable(cls, getattr(module, "fused_attn", False) is True):  # timm's word for it
        return "rebound"
    return "intercepted" if _attends(cls) or _written_out(module) else None


def causal(module: nn.Module) -> bool:
    """Whether a module that does not say so looks causal: by the words of its code and buffers."""
    if isinstance(module, nn.MultiheadAttention):  # its caller says so, by a mask
        return False
    cls: type = type(module)
    words = {name for f in _code(cls) for name in named(f)}
    return not words.isdisjoint(_CAUSAL) or any(
        name in ("mask", "tril", "bias", "causal_mask") for name, _ in module.named_buffers()
    )
