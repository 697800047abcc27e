"""Any module whose forward attends by itself: through SDPA, or by a softmax written out.

Two ways lead there. Where all attention of a module goes through ``F.scaled_dot_product_attention``
(or diffusers' ``dispatch_attention_fn``), the module's code is copied with ours in that name's
place (:mod:`.rebind`): nothing else in its forward is slowed. Where it is written out, as in Bloom
or GPT-J, or hidden in ``nn.MultiheadAttention``, a :class:`torch.overrides.TorchFunctionMode` is
entered for the time of that module's forward; there the scores are the model's own matrix, and what
the methods make of it is computed from that matrix: as exact, no faster, no smaller.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..errors import FoveateError
from . import processors
from .calls import Base
from .dispatch import Own, idle, passed, route, switch, untraced
from .reach import functions
from .rebind import calls, copied
from .sites import heads_of

__all__ = ["connect", "replacements"]


# -- calls -----------------------------------------------------------------------------------------
def _nothing(base: Base, q: Tensor, k: Tensor, v: Tensor) -> None:
    """What is asked of SDPA, or held in a matrix of scores, needs no second look."""


class _Fold:
    """Tensors of any number of leading dimensions as ``[B, H, S, D]``, and back."""

    def __init__(self, like: Tensor, heads: int | None) -> None:
        self.lead = like.shape[:-2]
        n = len(self.lead)
        if n == 2:
            self.four: tuple[int, int] | None = None
        elif n == 1 and heads and self.lead[0] % heads == 0:
            self.four = (self.lead[0] // heads, heads)
        elif n == 1:
            self.four = (self.lead[0], 1)
        else:
            self.four = (self.lead[:-1].numel(), self.lead[-1]) if n else (1, 1)

    def __call__(self, x: Tensor) -> Tensor:
        if self.four is None:
            return x
        heads = x.shape[-3] if len(self.lead) > 2 else self.four[1]
        return x.reshape(self.four[0], heads, *x.shape[-2:])

    def back(self, x: Tensor) -> Tensor:
        return x if self.four is None else x.reshape(*self.lead, *x.shape[-2:])

    def mask(self, x: Any) -> Any:
        """A mask that broadcasts to the scores, in four dimensions."""
        if not isinstance(x, Tensor) or (x.dim() == 4 and self.four is None):
            return x
        if self.four is None or x.dim() <= 2:
            return x.reshape(*[1] * (4 - x.dim()), *x.shape)
        return self(x.expand(*self.lead, *x.shape[-2:]))


def _attend(
    module: nn.Module,
    native: Callable[..., Tensor],
    tensors: tuple[Tensor, Tensor, Tensor],
    mask: Any,
    options: Mapping[str, Any],
    causal: bool,
) -> tuple[Tensor | None, Any]:
    """One SDPA call on ``[…, H, S, D]``: the edited output, or what ``native(q, k, v)`` gave."""
    q = tensors[0]
    fold = _Fold(q, heads_of(module) if q.dim() == 3 else None)
    folded = q, k, v = _broadcast(*(fold(x) for x in tensors))

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if all(x is y for x, y in zip((q, k, v), folded, strict=True)):  # as they came
            return native(*tensors)
        return native(fold.back(q), _like(k, tensors[1]), _like(v, tensors[2]))

    own = Own(run, fold, "sdpa", options, causal, _nothing)
    out, given = route(module, q, k, v, fold.mask(mask), own)
    return (None if out is None else fold.back(out)), given


def _broadcast(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values that SDPA would broadcast over the batch, or over each other's heads."""
    heads = max(k.shape[1], v.shape[1])
    k, v = (
        x if x.shape[:2] == (q.shape[0], heads) else x.expand(q.shape[0], heads, -1, -1)
        for x in (k, v)
    )
    return q, k, v


def _like(x: Tensor, given: Tensor) -> Tensor:
    return x if x.dim() == given.dim() else x.reshape(given.shape)


def _sdpa(
    module: weakref.ref[nn.Module],
    native: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``F.scaled_dot_product_attention`` as called from an attached module."""
    rest = {"attn_mask": attn_mask, "dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
    if enable_gqa:
        rest["enable_gqa"] = True
    owner = module()
    assert owner is not None
    if idle(owner):
        return native(query, key, value, **rest)
    if query.is_nested:  # sequences of several lengths in one tensor
        passed(owner)
        return native(query, key, value, **rest)
    options = {"scaling": scale, "dropout": dropout_p}
    tensors = _autocast(query, key, value)
    out, given = _attend(owner, partial(native, **rest), tensors, attn_mask, options, is_causal)
    return given if out is None else out


def _autocast(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What SDPA makes of its inputs under autocast: rotated in float32, they are of two kinds."""
    kind = q.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return q, k, v
    dtype = torch.get_autocast_dtype(kind)
    q, k, v = (x if x.dtype == torch.float64 else x.to(dtype) for x in (q, k, v))
    return q, k, v


def _dispatched(
    module: weakref.ref[nn.Module],
    native: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    attention_kwargs: dict[str, Any] | None = None,
    **rest: Any,
) -> Tensor:
    """diffusers' ``dispatch_attention_fn``, whose tensors are ``[B, S, H, D]``."""

    def own(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return native(
            q, k, v, attn_mask, dropout_p, is_causal, scale, enable_gqa, attention_kwargs, **rest
        )

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return own(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))

    owner = module()
    assert owner is not None
    if idle(owner):
        return own(query, key, value)
    if rest.get("parallel_config") is not None:
        raise FoveateError(
            f"{type(owner).__name__} attends in parts on several devices (context parallelism), of "
            "which foveate would see one: load the model without it, or attach without methods."
        )
    mask = attn_mask  # [B, Sk] says which keys there are
    if isinstance(mask, Tensor) and mask.shape == (query.shape[0], key.shape[1]):
        mask = mask[:, None, None]
    options = {"scaling": scale, "dropout": dropout_p}
    tensors = (query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    out, given = _attend(owner, run, tensors, mask, options, is_causal)
    return given if out is None else out.transpose(1, 2)


def _softmax(
    module: nn.Module, native: Callable[[], Tensor], scores: Tensor, dtype: Any
) -> Tensor | None:
    """A softmax over the keys inside an attached module, ``[…, H, Sq, Sk]``; None if it is not."""
    heads = heads_of(module)
    fold = _Fold(scores, heads)
    x = fold(scores)
    if heads is not None and x.shape[1] not in (1, heads):
        return None
    if scores.dim() == 4 and x.shape[1] == 1 < x.shape[2] == heads:  # [B, Sq, H, Sk], one query
        return None
    like = x.new_zeros(()).expand(*x.shape[:2], x.shape[3], 1)
    own = Own(lambda q, k, v: native(), _identity, "sdpa", {}, False, _nothing, scores=True)
    out, given = route(module, like[:, :, :1].expand(*x.shape[:3], 1), like, like, x, own)
    if out is None:
        return given
    out = fold.back(out).to(dtype or scores.dtype)
    # a row with every score at the dtype's minimum sees nothing; the model looks everywhere then
    top = scores.detach().amax(-1, keepdim=True)
    blind = (top < torch.finfo(scores.dtype).min / 2) & (top > -torch.inf)
    return torch.where(blind, native().to(out.dtype), out) if bool(blind.any()) else out


def _identity(x: Tensor) -> Tensor:
    return x


# -- interception ----------------------------------------------------------------------------------
_SDPA = {torch._C._nn.scaled_dot_product_attention}  # itself, where F's name is another's now
_SOFTMAXES = {F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax}


class _Intercept(TorchFunctionMode):
    """Sees every torch function called in one module's forward; lets all but attention pass."""

    def __init__(self, module: nn.Module, given: Tensor | None) -> None:
        super().__init__()
        self.module = module
        self.given = given  # the forward's first tensor
        self.attended = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _SOFTMAXES:
            scores: Tensor = args[0] if args else kwargs["input"]
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            return self.softmax(partial(func, *args, **kwargs), scores, dim, kwargs.get("dtype"))
        if func in _SDPA or func is F.scaled_dot_product_attention:
            return self.sdpa(*args, native=func, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head()(*args, **kwargs)
        return func(*args, **kwargs)

    def sdpa(self, *args: Any, native: Any = None, **kwargs: Any) -> Tensor:
        self.attended = True
        native = native or F.scaled_dot_product_attention
        return _sdpa(weakref.ref(self.module), native, *args, **kwargs)

    def softmax(self, native: Callable[[], Tensor], scores: Tensor, dim: Any, dtype: Any) -> Tensor:
        if not self._over_keys(scores, dim):
            return native()
        out = _softmax(self.module, native, scores, dtype)
        if out is None:
            return native()
        self.attended = True
        return out

    def _over_keys(self, scores: Tensor, dim: Any) -> bool:
        """Whether a softmax can be the attention's: over the last of at least three axes.

        Not one of channels over channels (cross-covariance attention): square, as many as a head
        has channels, which is not how many tokens came in. Nor one per token, whatever the heads
        (a gate, a router): its rows are the tokens that came in, with no axis for the heads.
        """
        if dim not in (-1, scores.dim() - 1) or scores.dim() < 3 or not scores.is_floating_point():
            return False
        heads, given = heads_of(self.module), self.given
        if given is None or given.dim() != 3 or heads is None:
            return True
        if heads > 1 and scores.shape[:-1] == given.shape[:2]:
            return False
        rows, columns = scores.shape[-2:]
        return rows != columns or rows * heads != given.shape[2] or rows in given.shape[:2]

    def _multi_head(self) -> Callable[..., Any]:
        """``F.multi_head_attention_forward`` with ours inside: what a mode no longer sees."""

        def softmax(input: Tensor, dim: int | None = None, **rest: Any) -> Tensor:
            return self.softmax(partial(F.softmax, input, dim, **rest), input, dim, None)

        function = F.multi_head_attention_forward
        assert isinstance(function, FunctionType)
        ours = {"scaled_dot_product_attention": self.sdpa, "softmax": softmax}
        return copied(function, ours, deep=0)


class _Intercepted:
    """A module's forward with the interception around it."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self._module = module
        self._forward = forward
        self.foveate_over = vars(module).get("forward")  # what a user put there

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tensors = (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        with _Intercept(self._module, next(tensors, None)) as watch:
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
            partial(_sdpa, owner, F.scaled_dot_product_attention)
        ),
        "dispatch_attention_fn": untraced(partial(_dispatched, owner, _native_dispatch)),
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
