"""Any module whose forward attends by itself: through SDPA, or by a softmax written out.

Two ways lead there. Where all attention of a module goes through ``F.scaled_dot_product_attention``
(or diffusers' ``dispatch_attention_fn``), the module's code is copied with ours in that name's
place (:mod:`.rebind`): nothing else in its forward is slowed. Where it is written out, as in Bloom
or GPT-J, or hidden in ``nn.MultiheadAttention``, the module's forward is watched (:mod:`.watch`):
there the scores are the model's own matrix, and what the methods make of it is computed from that
matrix: as exact, no faster, no smaller.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from . import processors
from .attending import dispatched, sdpa
from .dispatch import passed, switch, untraced
from .reach import functions
from .rebind import calls, copied
from .watch import Watch

__all__ = ["connect", "replacements"]


class _Intercepted:
    """A module's forward with the interception around it."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self._module = module
        self._forward = forward
        self.foveate_over = vars(module).get("forward")  # what a user put there

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tensors = (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        with Watch(self._module, next(tensors, None)) as watch:
            result = self._forward(*args, **kwargs)
        if not watch.attended:
            passed(self._module)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _plain_forward(memo, self._module, self._forward)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._module, "forward")


class _Rebound:
    """A method of a module on code that leads to foveate."""

    def __init__(self, module: nn.Module, name: str, function: FunctionType) -> None:
        self._module = module
        self._name = name
        self.foveate_over = None
        self.__func__ = function
        self.__wrapped__ = MethodType(function, module)  # its signature

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self._module, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        original = getattr(type(self._module), self._name)
        return MethodType(original, memo.get(id(self._module), self._module))

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._module, self._name)


def _plain_forward(memo: dict[int, Any], module: nn.Module, forward: Callable[..., Any]) -> Any:
    """A copied module's forward: the plain one, on the copy."""
    function = getattr(forward, "__func__", None)
    twin = memo.get(id(module), module)
    return forward if function is None else MethodType(function, twin)


# -- connecting ------------------------------------------------------------------------------------
def replacements(module: nn.Module) -> dict[str, Callable[..., Any]]:
    """What a copy of the code of ``module`` calls in place of the attending names."""
    owner = weakref.ref(module)
    return {
        "scaled_dot_product_attention": untraced(
            partial(sdpa, owner, F.scaled_dot_product_attention)
        ),
        "dispatch_attention_fn": untraced(partial(dispatched, owner, _native_dispatch)),
    }


def _native_dispatch(*args: Any, **kwargs: Any) -> Tensor:
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    return dispatch_attention_fn(*args, **kwargs)


def connect(owner: object, module: nn.Module, how: str, undo: list[Callable[[], None]]) -> None:
    """Have the attention calls of one module come by :func:`.dispatch.route`.

    Parameters
    ----------
    owner : object
        Whose connection this is: an identity, unique among connections.
    module : torch.nn.Module
    how : {"rebound", "intercepted"}
        What :func:`.reach.reach` said.
    undo : list
        Filled with the undoings, to be run last first.
    """
    if isinstance(module, nn.MultiheadAttention):
        _slow(module, owner, undo)
    processor = processors.processor_of(module)
    if how == "rebound" and processor is not None:
        ours = processors.twin(processor, replacements(module))
        switch(processors.holder_of(module), "processor", ours, owner, undo)
        return
    if how == "intercepted":
        switch(module, "forward", _Intercepted(module, module.forward), owner, undo)
        return
    replace = replacements(module)
    for name, function in _functions_of(module):
        twin = copied(function, replace)
        switch(module, name, _Rebound(module, name, twin), owner, undo)


def _functions_of(module: nn.Module) -> list[tuple[str, FunctionType]]:
    cls: type = type(module)
    return [(name, f) for name, f in functions(cls).items() if calls(f)]


def _slow(module: nn.Module, owner: object, undo: list[Callable[[], None]]) -> None:
    """Have torch's encoder layers call their attention: a layer with a hook in it is not fused."""

    def unhook() -> None:
        for number in [
            n for n, h in module._forward_hooks.items() if getattr(h, "seen_by", None) is owner
        ]:
            del module._forward_hooks[number]

    undo.append(unhook)
    module.register_forward_hook(_Seen(owner))


class _Seen:
    """A hook that does nothing but be there."""

    def __init__(self, owner: object = None) -> None:
        self.seen_by = owner

    def __call__(self, *args: Any) -> None:
        pass

    def __deepcopy__(self, memo: dict[int, Any]) -> _Seen:
        return _Seen()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Seen, ()
