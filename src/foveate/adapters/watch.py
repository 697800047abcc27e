"""Watching a module's forward for attention: every torch function in it passes by."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .attending import sdpa, softmax
from .rebind import copied
from .sites import heads_of

__all__ = ["Watch"]

_SDPA = {torch._C._nn.scaled_dot_product_attention}  # itself, where F's name is another's now
_SOFTMAXES = {F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax}


class Watch(TorchFunctionMode):
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
        return sdpa(weakref.ref(self.module), native, *args, **kwargs)

    def softmax(self, native: Callable[[], Tensor], scores: Tensor, dim: Any, dtype: Any) -> Tensor:
        if not self._over_keys(scores, dim):
            return native()
        out = softmax(self.module, native, scores, dtype)
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
