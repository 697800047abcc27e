"""Which modules attend by themselves, told from their code.

A class is judged by the names its functions speak of, so that nothing has to run: whether they call
SDPA, themselves or through functions of their package; whether a softmax is written out in what
looks like attention.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, cached_property, partial, partialmethod
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from .rebind import ATTENDS, calls, copyable, mentions, named, native

__all__ = ["causal", "functions", "reach", "rebindable"]

# beside softmax itself: torch's own attention function, and DeBERTa's softmax in SEW-D
_SOFTMAX = ("softmax", "Softmax", "XSoftmax", "multi_head_attention_forward")
_CAUSAL = (
    *("is_causal", "tril", "triu", "causal_mask"),
    *(
        "cache_k",
        "k_cache",
        "kv_cache",
        "layer_past",
        "past_key_value",
        "past_key_values",
        "past_kv",
    ),
)
_FORMS = (staticmethod, classmethod, property, partialmethod, cached_property)
_INSIDE = ("__func__", "fget", "func")
_LIBRARIES = ("torch", "transformers", "diffusers", "timm")  # read module by module
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
def _bound(cls: type) -> tuple[FunctionType, ...]:
    """Functions that a class holds in another form: static, of the class, a property, a part."""
    found = []
    for base in cls.__mro__:
        if base is nn.Module or base.__module__ == "transformers.modeling_utils":
            break
        for member in vars(base).values():
            function = next(
                (part for name in _INSIDE if (part := getattr(member, name, None)) is not None),
                None,
            )
            if isinstance(member, _FORMS) and isinstance(function, FunctionType):
                found.append(function)
    return tuple(found)


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
    return tuple(map(inspect.unwrap, (*functions(cls).values(), *_beneath(cls), *_bound(cls))))


def _handed(function: FunctionType) -> Iterator[Any]:
    """What a function holds besides the names it speaks of, and tables and objects that it names.

    Functions of another package are among them: helpers are looked for in its own.
    """
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a name that is bound later
            yield cell.cell_contents
    for name in named(function):
        value = function.__globals__.get(name)
        if isinstance(value, Mapping | list | tuple):
            yield from value.values() if isinstance(value, Mapping) else value
        elif value is not function:
            yield value


def _leads(value: Any, deep: int = 2) -> bool:
    """Whether calling a value attends: a function, a part of one, an object that is called."""
    if isinstance(value, partial | staticmethod):
        value = value.func if isinstance(value, partial) else value.__func__
    if isinstance(value, MethodType):
        value = value.__func__
    if not callable(value) or isinstance(value, type | nn.Module) or not deep:
        return False
    if native(value, ATTENDS[0]):
        return True
    if not isinstance(value, FunctionType):
        value = type(value).__dict__.get("__call__")
    if not isinstance(value, FunctionType) or value.__module__.split(".")[0] in _LIBRARIES:
        return False
    function = inspect.unwrap(value)
    return calls(function) or any(_leads(held, deep - 1) for held in _handed(function))


@cache
def _attends(cls: type) -> bool:
    code = _code(cls)
    if any(calls(function) for function in code):
        return True
    if cls.__module__.split(".")[0] in _LIBRARIES:
        return False
    members = (member for base in cls.__mro__ for member in vars(base).values())
    return any(_leads(held) for function in code for held in _handed(function)) or any(
        isinstance(member, staticmethod) and _leads(member) for member in members
    )


@cache
def _softmaxes(cls: type) -> bool:
    if any(mentions(function, _SOFTMAX) for function in _code(cls)):
        return True
    # in a function beside the class, ``attention(q, k, v)``; libraries' files are full of others
    return cls.__module__.split(".")[0] not in _LIBRARIES and any(
        calls(function, _SOFTMAX) for function in _code(cls)
    )


@cache
def _rebindable(cls: type, fused: bool) -> bool:
    """Whether all attention of a class goes through names that a copy of its code can exchange.

    ``fused``: a softmax beside them is for others than this instance.
    """
    own = functions(cls)
    attending = [f for f in own.values() if calls(f)]
    return (
        bool(attending)
        and own.get("__init__") not in attending  # what is kept then is called later
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
    if isinstance(module, torch.jit.ScriptModule):  # no code of Python's runs there
        return None
    if _rebindable(cls, getattr(module, "fused_attn", False) is True) and not _replaced(module):
        return "rebound"
    attends = _attends(cls) or _written_out(module) or _holds(module)
    return "intercepted" if attends else None


def _holds(module: nn.Module) -> bool:
    """Whether a function that attends is kept on a module itself, ``self.attend = …``."""
    if type(module).__module__.split(".")[0] in _LIBRARIES:
        return False
    return any(_leads(value) for value in vars(module).values() if callable(value))


def _replaced(module: nn.Module) -> bool:
    """Whether a function of a module was replaced on the module itself, and not by us.

    As accelerate's hooks replace ``forward``: a copy of the class's code would leave them out.
    """
    cls: type = type(module)
    for name in functions(cls):
        value = vars(module).get(name)
        if getattr(value, "foveate_over", value) is not None:
            return True
    return False


def causal(module: nn.Module) -> bool:
    """Whether a module that does not say so looks causal: by the words of its code and buffers."""
    if isinstance(module, nn.MultiheadAttention):  # its caller says so, by a mask
        return False
    cls: type = type(module)
    words = {name for f in _code(cls) for name in named(f)}
    return not words.isdisjoint(_CAUSAL) or any(
        name in ("mask", "tril", "bias", "causal_mask") for name, _ in module.named_buffers()
    )
