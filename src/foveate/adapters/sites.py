"""Where a model attends: the attention sites, their addresses and stacks.

An attention *site* is a module that attends: its code dispatches through transformers' attention
interface, or calls SDPA, or writes the softmax out (:mod:`.reach`). Its address is its qualified
module name. Sites are numbered in module order within a *stack*:

============ =======================================================================================
``decoder``  decoder self-attention; the only stack of a decoder-only model
``encoder``  the encoder of an encoder–decoder model; models such as BERT
``cross``    decoder queries on encoder keys
``vision``   image towers and vision transformers
``text``     the text tower beside an image tower (CLIP)
``audio``    audio towers of multimodal language models
============ =======================================================================================

Where one model has several of a kind, the largest keeps the plain name and the others add the name
of their container: ``vision.decoder.decoder_layers``. The stacks of diffusers' models are told in
:mod:`.diffusers`.
"""

from __future__ import annotations

import inspect
import re
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn

from . import diffusers
from .processors import processor_of, reach_of
from .reach import causal as looks_causal
from .reach import reach
from .rebind import ATTENDS

__all__ = ["Site", "dispatcher", "heads_of", "sites", "unreachable"]

REGISTRY = "ALL_ATTENTION_FUNCTIONS"
_dispatchers: weakref.WeakKeyDictionary[type, Any] = weakref.WeakKeyDictionary()

_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "num_q_heads", "heads")
_CROSS = re.compile(
    r"cross|enc_?dec|encoder_attn|encoder_decoder|multihead_attn$|(src|source|memory|context)_att"
)
_VISION = re.compile(r"^(vision|visual|vit$|image_)")
_AUDIO = re.compile(r"^audio")
_TEXT = re.compile(r"^text_(model|encoder)")


@dataclass(frozen=True, eq=False)
class Site:
    """One attention module of a live model.

    Attributes
    ----------
    ref : weakref to torch.nn.Module
        The module; :attr:`module` follows it.
    name : str
        The module's qualified name: the site's address.
    stack : str
        The stack's name.
    layer : int
        Counted from 0 within the stack.
    depth : int
        How many layers the stack has.
    heads : int or None
        Query heads; None where the module does not say.
    kind : str
        ``decoder``, ``encoder``, ``cross``, ``vision``, ``text`` or ``audio``; in a denoiser
        ``self``, ``cross``, ``joint`` or ``single``: what the stack is, even where its name is
        longer.
    reach : {"interface", "rebound", "intercepted"}
        How its calls are come by: through transformers' attention interface, on a copy of the
        module's code, or by watching its forward.
    order : {"text first", "image first"}, optional
        How a denoiser's joint attention lines up its tokens, where that is known.
    denoiser : bool
        Whether it is in a denoiser (of diffusers).
    """

    ref: weakref.ref[nn.Module]
    name: str
    stack: str
    layer: int
    depth: int
    heads: int | None
    kind: str
    reach: str = "interface"
    order: str | None = None
    denoiser: bool = False

    @property
    def module(self) -> nn.Module:
        """The module itself."""
        module = self.ref()
        if module is None:
            raise ReferenceError(f"The model that held {self.name!r} is gone.")
        return module


def _mentions(code: CodeType, name: str) -> bool:
    return name in code.co_names or any(
        _mentions(const, name) for const in code.co_consts if isinstance(const, CodeType)
    )


def dispatcher(cls: type) -> tuple[Mapping[str, Any], str] | None:
    """Where ``cls`` dispatches: the globals there, and the name of its eager default.

    transformers hands the interface a module-level ``eager_attention_forward`` as the default,
    which the registry does not know; what the code names is what it would have run. None for a
    class that does not dispatch.
    """
    if cls not in _dispatchers:
        _dispatchers[cls] = _dispatcher(cls)
    return _dispatchers[cls]


def _dispatcher(cls: type) -> tuple[Mapping[str, Any], str] | None:
    for base in cls.__mro__:
        if base.__module__ == "transformers.modeling_utils":  # checks the registry, attends nowhere
            continue
        for member in vars(base).values():
            function = inspect.unwrap(member) if callable(member) else None
            if isinstance(function, FunctionType) and _mentions(function.__code__, REGISTRY):
                names = [
                    n for n in function.__code__.co_names if n.endswith("eager_attention_forward")
                ]
                return function.__globals__, names[0] if names else "eager_attention_forward"
    return None


def heads_of(module: nn.Module) -> int | None:
    """How many query heads a module says it has."""
    for attribute in _HEADS:
        value = getattr(module, attribute, None)
        if isinstance(value, int) and value > 0:
            return value
    projection, size = getattr(module, "q_proj", None), getattr(module, "head_dim", None)
    if isinstance(projection, nn.Linear) and isinstance(size, int) and size > 0:
        return projection.out_features // size
    value = getattr(getattr(module, "config", None), "num_attention_heads", None)
    return value if isinstance(value, int) else None


def _is_model(module: nn.Module) -> bool:
    """Whether this is a model of transformers (duck-typed: transformers is not imported here)."""
    return hasattr(module, "main_input_name") and hasattr(module, "config")


def _kind(model: nn.Module, owner: nn.Module, module: nn.Module, parts: list[str]) -> str:
    """What a site is for, by its address first and by what the module says of itself second."""
    numbered = [i for i, part in enumerate(parts) if part.isdigit()]
    tail = "/".join(parts[numbered[-1] + 1 :] if numbered else parts)
    if getattr(module, "is_cross_attention", False) is True or _CROSS.search(tail.lower()):
        return "cross"
    causal = getattr(module, "is_causal", None)
    if any(_VISION.match(part) for part in parts) or (
        getattr(owner, "main_input_name", None) == "pixel_values"
    ):
        return "vision"
    if any(_AUDIO.match(part) for part in parts):
        return "audio"
    if causal is False and any(_TEXT.match(part) for part in parts):
        return "text"
    if any(part.startswith("decoder") for part in parts):
        return "decoder"
    if causal is not True and any(part.startswith("encoder") for part in parts):
        return "encoder"
    if causal is None:
        can_generate = getattr(model, "can_generate", None)
        if callable(can_generate):
            causal = bool(can_generate())
        elif hasattr(model, "patch_embed") or hasattr(owner, "patch_embed"):  # timm
            return "vision"
        else:
            causal = looks_causal(module)
    return "decoder" if causal else "encoder"


def _reached(model: nn.Module) -> dict[str, str]:
    """The modules that attend, by address, and how their calls are come by."""
    found = {}
    held = set()  # processors that are modules: the code of the module that holds them
    for name, module in model.named_modules():
        if name in held:
            continue
        processor = None if isinstance(module, torch.jit.ScriptModule) else processor_of(module)
        if processor is not None:
            held.add(f"{name}.processor" if name else "processor")
            how = reach_of(processor)
        else:
            how = "interface" if dispatcher(type(module)) is not None else reach(module)
        if how is not None:
            found[name] = how
    # what is watched must attend by itself: a module around others that do is only their frame
    return {
        name: how
        for name, how in found.items()
        if how != "intercepted" or not any(_inside(other, name) for other in found)
    }


def _inside(name: str, of: str) -> bool:
    return name != of and (not of or name.startswith(f"{of}."))


def sites(model: nn.Module) -> list[Site]:
    """All attention sites of ``model`` in module order (none: an empty list)."""
    models = {"": model} | {name: m for name, m in model.named_modules() if _is_model(m)}
    denoisers = {name: m for name, m in model.named_modules() if diffusers.is_model(m)}
    named: dict[tuple[str, str], str] = {}
    groups: dict[tuple[str, str], list[tuple[str, nn.Module]]] = {}
    order: list[tuple[str, nn.Module, tuple[str, str], int | None]] = []
    reached = _reached(model)
    for name, module in model.named_modules():
        if name not in reached:
            continue
        parts = name.split(".") if name else []
        owner = next(
            models[prefix]
            for i in range(len(parts), -1, -1)
            if (prefix := ".".join(parts[:i])) in models
        )
        at = next((i for i in range(len(parts)) if ".".join(parts[:i]) in denoisers), None)
        first = next((i for i, part in enumerate(parts) if part.isdigit()), max(len(parts) - 1, 0))
        container = ".".join(parts[:first]) or name
        if at is None:
            group = (_kind(model, owner, module, parts), container)
        else:
            kind, stack = diffusers.place(denoisers[".".join(parts[:at])], module, parts[at:])
            group = (kind, stack or container)
            if stack is not None:
                named[group] = stack
        groups.setdefault(group, []).append((name, module))
        order.append((name, module, group, at))
    sizes = {group: len(members) for group, members in groups.items() if group not in named}
    names = _stack_names(sizes) | named
    counts = dict.fromkeys(groups, 0)
    found = []
    for name, module, group, at in order:
        denoiser = None if at is None else denoisers[".".join(name.split(".")[:at])]
        found.append(
            Site(
                ref=weakref.ref(module),
                name=name,
                stack=names[group],
                layer=counts[group],
                depth=len(groups[group]),
                heads=heads_of(module),
                kind=group[0],
                reach=reached[name],
                order=None if denoiser is None else diffusers.order_of(denoiser),
                denoiser=denoiser is not None and diffusers.denoises(denoiser),
            )
        )
        counts[group] += 1
    return diffusers.renamed(found) if isinstance(model, diffusers.Components) else found


def _stack_names(sizes: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], str]:
    names = {}
    for kind in dict.fromkeys(kind for kind, _ in sizes):
        alike = [group for group in sizes if group[0] == kind]
        largest = max(alike, key=lambda group: sizes[group])
        for group in alike:
            names[group] = kind if group is largest or not group[1] else f"{kind}.{group[1]}"
    return names


def unreachable(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Modules that look like attention but do not dispatch: ``(address, class)``.

    What a report must not pass over in silence: their attention is neither measured nor edited.
    """
    reached = _reached(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            if any(word in getattr(module, "code", "") for word in ("softmax", *ATTENDS)):
                yield name, f"{module.original_name} (scripted)"
            continue
        if "attention" not in type(module).__name__.lower():
            continue
        inside = any(
            r == name or r.startswith(f"{name}.") or name.startswith(f"{r}.") for r in reached
        )
        if not inside and not any(
            "attention" in type(c).__name__.lower() for c in module.children()
        ):
            processor = processor_of(module)
            held = "" if processor is None else f" with {type(processor).__name__}"
            yield name, type(module).__name__ + held
