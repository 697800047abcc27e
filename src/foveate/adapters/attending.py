"""One call inside a module as a call of ours: SDPA, diffusers' dispatch, a softmax over keys."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FoveateError
from .calls import Base
from .dispatch import Own, idle, passed, route
from .sites import heads_of

__all__ = ["dispatched", "sdpa", "softmax"]


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


def sdpa(
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


def dispatched(
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
        return own(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)

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
    found: Tensor = given if out is None else out
    return found.transpose(1, 2)


def softmax(
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
