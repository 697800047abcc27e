"""diffusers' attention modules: their code is not in their forward but in a processor.

``attn.processor(attn, hidden_states, …)`` computes the attention, and one processor may serve many
modules. While a module is attached it is given a processor of its own: an object of a subclass,
on the same ``__dict__``, whose code is copied with ours in the place of the attending names (see
:mod:`.rebind`). What looks at it, its signature or its class's name sees no difference.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from torch import nn

from .reach import functions, rebindable
from .rebind import calls, copied, mentions

__all__ = ["holder_of", "processor_of", "reach_of", "twin"]

# what a processor calls where its softmax is written out
_EAGER = ("get_attention_scores", "softmax")
_MARK = "_foveate_stands_for"


def holder_of(module: nn.Module) -> dict[str, Any]:
    """The dict of a module that has its processor: modules are kept apart from the rest."""
    held: dict[str, Any] = vars(module)
    return held if "processor" in held else module._modules


def processor_of(module: nn.Module) -> Any:
    """The processor of an attention module of diffusers, not a stand-in of ours; or None."""
    processor = holder_of(module).get("processor")
    processor = getattr(type(processor), _MARK, processor)
    call = _call(type(processor))
    names = call.__code__.co_varnames[1 : call.__code__.co_argcount] if call else ()
    return processor if "attn" in names else None


def _call(cls: type) -> FunctionType | None:
    """The function that runs when an object of ``cls`` is called."""
    found = functions(cls)
    return found.get("__call__") or found.get("forward")


def reach_of(processor: Any) -> str | None:
    """How the attention of a processor is come by: "rebound", "intercepted", or None.

    None for what has no softmax (linear attention), hands its tensors to a kernel of its own, or
    attends in slices of heads that nothing tells apart.
    """
    cls: type = type(processor)
    code = functions(cls).values()
    if any(mentions(function, ("slice_size",)) for function in code):
        return None
    if rebindable(cls) and not any(mentions(function, _EAGER) for function in code):
        return "rebound"
    attends = any(calls(function) or mentions(function, _EAGER) for function in code)
    return "intercepted" if attends else None


def twin(processor: Any, replace: Mapping[str, Callable[..., Any]]) -> Any:
    """A processor like ``processor`` whose code calls what ``replace`` holds.

    Parameters
    ----------
    processor : object or torch.nn.Module
    replace : mapping of str to callable
        See :func:`.rebind.copied`.

    Returns
    -------
    object
        Of a subclass of the same name, on the very ``__dict__``: parameters, hooks and settings are
        shared. Copies and pickles of it are those of ``processor``.
    """
    cls: type = type(processor)
    body: dict[str, Any] = {
        name: copied(function, replace)
        for name, function in functions(cls).items()
        if calls(function)
    }
    body |= {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    body["__deepcopy__"] = lambda self, memo: copy.deepcopy(processor, memo)
    body["__reduce_ex__"] = lambda self, protocol: (_itself, (processor,))
    body[_MARK] = processor
    made: Any = object.__new__(type(cls.__name__, (cls,), body))
    object.__setattr__(made, "__dict__", vars(processor))
    return made


def _itself(processor: Any) -> Any:
    """What a pickle of a twin is made from."""
    return processor
