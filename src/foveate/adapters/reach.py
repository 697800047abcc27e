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

from .rebind import ATTENDS, calls, copyable, mentions, named

__all__ = ["causal", "functions", "reach"]

_SOFTMAX = ("softmax", "Softmax")
_CAUSAL = ("is_causal", "tril", "triu", "causal_mask")
_QUERIES = (
    "q",
    "q_proj",
    "query",
    "to_q",
    "wq",
    "w_q",
    "q_lin",
    "qkv",
    "c_attn",
    "in_proj",
    "Wqkv",
)
_KEYS = ("k", "k_proj", "key", "to_k", "wk", "w_k", "k_lin", "qkv", "c_attn", "in_proj", "Wqkv")


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
def _shadowed(cls: type, names: tuple[str, ...]) -> bool:
    """Whether an overridden function of a base calls one of ``names``: out of a copy's reach."""
    own = functions(cls)
    return any(
        isinstance(member, FunctionType) and own.get(name) is not member and calls(member, names)
        for base in cls.__mro__[1:]
        if base.__module__.split(".")[0] != "torch"
        for name, member in vars(base).items()
    )


@cache
def _attends(cls: type) -> bool:
    return any(calls(function) for function in _unwrapped(cls))


@cache
def _unwrapped(cls: type) -> tuple[FunctionType, ...]:
    return tuple(inspect.unwrap(function) for function in functions(cls).values())


@cache
def _rebindable(cls: type) -> bool:
    """Whether all attention of a class goes through names that a copy of its code can exchange."""
    attending = [f for f in functions(cls).values() if calls(f)]
    return (
        bool(attending)
        and len(attending) == sum(calls(f) for f in _unwrapped(cls))
        and all(copyable(function) for function in attending)
        and not any(calls(function, _SOFTMAX) for function in _unwrapped(cls))
        and not _shadowed(cls, ATTENDS)
    )


def _written_out(module: nn.Module) -> bool:
    """Whether a module looks like attention with a softmax of its own."""
    cls: type = type(module)
    if isinstance(module, nn.MultiheadAttention):
        return True
    own = any(mentions(function, _SOFTMAX) for function in _unwrapped(cls)) or any(
        isinstance(child, nn.Softmax) for child in module.children()
    )
    if not own:
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
    if _rebindable(cls):
        return "rebound"
    return "intercepted" if _attends(cls) or _written_out(module) else None


def causal(module: nn.Module) -> bool:
    """Whether a module that does not say so looks causal: by the words of its code and buffers."""
    if isinstance(module, nn.MultiheadAttention):  # its caller says so, by a mask
        return False
    cls: type = type(module)
    words = {name for f in _unwrapped(cls) for name in named(f)}
    return not words.isdisjoint(_CAUSAL) or any(
        name in ("mask", "tril", "bias", "causal_mask") for name, _ in module.named_buffers()
    )
