"""Masks as descriptions: what a model wants masked, known without the matrix.

transformers builds masks from functions of indices. :class:`MaskInfo` keeps the function, the
offsets and the padding in place of the matrix, travels through the model where the mask would, and
becomes the model's own mask whenever somebody other than foveate touches it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .packed import Documents
from .rules import Rule, rule_of

__all__ = ["MaskInfo", "MaskPattern"]

_UNSET: Any = object()
_NEVER_SKIP = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}

# What may be asked of the mask without its matrix: answered by the stand-in of the right shape.
_METADATA = {
    getattr(Tensor, name).__get__
    for name in (
        "shape",
        "dtype",
        "device",
        "ndim",
        "layout",
        "requires_grad",
        "is_cuda",
        "is_meta",
    )
} | {
    Tensor.size,
    Tensor.stride,  # torch.compile guards the strides it was told: they must be those there are
    Tensor.dim,
    Tensor.ndimension,
    Tensor.numel,
    Tensor.is_floating_point,
    Tensor.get_device,
}

_SUMS = {
    torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__,
}  # fmt: skip


class MaskInfo(Tensor):
    """The mask of one kind of layer in one forward, not yet made.

    It is a tensor of the mask's shape ``[B, 1, Sq, Sk]`` so that a model takes it for the prepared
    mask it stands for, but holds a single element; any operation on it is an operation on the
    model's own mask.

    Attributes
    ----------
    q_offset, kv_offset : int
        Absolute positions of the first query and the first key.
    batch, q_length, kv_length : int
    padding : Tensor or None
        Bool ``[B, n]`` over absolute positions, True for real tokens; positions past ``n`` count as
        padding (a static cache's unfilled part).
    function : callable
        transformers' ``mask_function(batch, head, query, key)`` on absolute positions.
    use_vmap : bool
        Whether ``function`` must not be called with broadcast indices.
    home : torch.device
        The device on which the model made it.
    told : tuple or None
        What a call was told of documents beside this mask, after the tensor it was read from.
    """

    q_offset: int
    kv_offset: int
    batch: int
    q_length: int
    kv_length: int
    padding: Tensor | None
    function: Callable[..., Tensor]
    use_vmap: bool
    home: torch.device
    told: tuple[Any, Any] | None
    _arguments: dict[str, Any]
    _make: Callable[..., Any]
    _original: Any
    _rule: Rule | None
    _within: tuple[Documents, MaskInfo] | None

    @staticmethod
    def of(make: Callable[..., Any], arguments: Mapping[str, Any], floating: bool) -> MaskInfo:
        """The description of the mask that ``make(**arguments)`` would build.

        Parameters
        ----------
        make : callable
            The mask function of the model's own attention implementation.
        arguments : mapping
            What transformers passed to the mask interface.
        floating : bool
            Whether that mask is additive (eager) rather than bool (sdpa).
        """
        a = arguments
        if "q_length" in a:
            q_length, q_offset = a["q_length"], a.get("q_offset", 0)
        else:  # transformers before 5.4 passed the absolute positions of the queries
            at = a["cache_position"]
            q_length, q_offset, a = at.shape[0], at[0], {"device": at.device} | dict(a)
        # a static cache hands out a tensor: read once, and before there is a MaskInfo, for here a
        # compiled graph may break
        q_offset = int(q_offset)
        shape = (a["batch_size"], 1, int(q_length), int(a["kv_length"]))
        dtype = a.get("dtype", torch.float32) if floating else torch.bool
        home = torch.device(a.get("device", "cpu"))
        element = torch.zeros((), dtype=dtype, device=home)
        self = Tensor._make_subclass(MaskInfo, element.expand(shape))
        self.batch, _, self.q_length, self.kv_length = shape
        self.q_offset = q_offset
        self.kv_offset = int(a.get("kv_offset", 0))
        self.padding = a.get("attention_mask")
        self.function = a["mask_function"]
        self.use_vmap = bool(a.get("use_vmap", False))
        # the tensor is the static cache's own count: by the time the mask is made it has moved on
        self._arguments = {
            name: value.clone() if name == "q_offset" and isinstance(value, Tensor) else value
            for name, value in arguments.items()
        }
        self.home = home
        self._make = make
        self._original = _UNSET
        self._rule = None
        self._within = None
        self.told = None
        return self

    @property
    def original(self) -> Any:
        """The mask that the model's own attention gets: a tensor, a block mask or None."""
        if self._original is _UNSET:
            self._original = self._make(**self._arguments)
        return self._original

    @property
    def rule(self) -> Rule:
        """What :attr:`function` says, as far as it is recognised."""
        if self._rule is None:
            self._rule = rule_of(self.function)
        return self._rule

    def within(self, documents: Documents) -> MaskInfo:
        """The same mask with each document by itself (a kernel may be told so beside its mask)."""
        if self._within is None or self._within[0] is not documents:
            twin = Tensor._make_subclass(MaskInfo, self._element(self.device))
            vars(twin).update(vars(self))
            function = self.function
            twin.function = lambda *at: function(*at) & documents.same(*at)
            twin._arguments = self._arguments | {"mask_function": twin.function}
            apart = Rule(parts=(documents.same,), windows=False, documents=documents)
            twin._rule = self.rule.joined(apart)
            self._within = documents, twin
        return self._within[1]

    def visible(self) -> Tensor:
        """The whole mask, padding included: bool ``[B, 1, Sq, Sk]``, True where a key is seen."""
        from transformers.masking_utils import sdpa_mask

        return sdpa_mask(**self._arguments | _NEVER_SKIP).to(self.device)

    def rows(self, count: int) -> Any:
        """The model's own mask of the last ``count`` queries, never skipped.

        A mask with one row, the same for all queries, stays that row.
        """
        count = min(count, self.q_length)
        first = self.q_length - count
        arguments = dict(self._arguments)
        if "q_length" in arguments:
            arguments |= {"q_length": count, "q_offset": self.q_offset + first}
        else:
            arguments["cache_position"] = arguments["cache_position"][first:]
        return self._make(**arguments | _NEVER_SKIP)

    def tensor(self) -> Tensor:
        """The model's own mask, made even where the model would have gone without one."""
        if isinstance(self.original, Tensor):
            return self.original
        return self.visible()

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """The description on another device (hooks that place a module's inputs ask for this)."""
        device = kwargs.get("device", args[0] if args else None)
        if isinstance(device, Tensor | torch.dtype) or device is None or "dtype" in kwargs:
            return self.tensor().to(*args, **kwargs)
        device = torch.device(device)
        return self if device == self.device else self._on(device)

    def _on(self, device: torch.device) -> MaskInfo:
        """A twin on ``device`` that has the mask made where its function's tensors are."""
        twin = Tensor._make_subclass(MaskInfo, self._element(device))
        vars(twin).update(vars(self))
        make = self._make
        twin._make = lambda **arguments: _moved(make(**arguments), device)
        twin._original = _UNSET if self._original is _UNSET else _moved(self._original, device)
        return twin

    def _element(self, device: torch.device) -> Tensor:
        return torch.zeros((), dtype=self.dtype, device=device).expand(self.shape)

    def contiguous(self, *args: Any, **kwargs: Any) -> MaskInfo:
        """Itself: there is no memory to lay out."""
        return self

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        queries, keys = f"{self.q_offset}+{self.q_length}", f"{self.kv_offset}+{self.kv_length}"
        return f"MaskInfo(queries {queries}, keys {keys})"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))

        def made(value: Any) -> Any:
            if isinstance(value, MaskInfo):
                if func in _SUMS and value.original is None:  # added where none would have been
                    return torch.zeros((), dtype=torch.bool, device=value.device)
                return value.tensor()
            if isinstance(value, list | tuple):
                return type(value)(made(v) for v in value)
            return value

        return func(*made(tuple(args)), **{k: made(v) for k, v in (kwargs or {}).items()})


def _moved(mask: Any, device: torch.device) -> Any:
    return mask.to(device) if hasattr(mask, "to") else mask


@dataclass(frozen=True, eq=False)
class MaskPattern:
    """Parts of a mask function as a :class:`~foveate.engine.pattern.Pattern`.

    Attributes
    ----------
    rule : Rule
    kv_offset : int
        Absolute position of key 0.
    batch : Tensor
        int64 ``[B]``: the batch indices the functions are asked about, on their device.
    """

    rule: Rule
    kv_offset: int
    batch: Tensor

    def tile(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """Which of ``k_pos [n]`` each of ``q_pos [m]`` sees: bool, broadcasts to ``[B,Hq,m,n]``."""
        home = self.batch.device  # where the functions' own tensors are
        batch = self.batch[:, None, None, None]
        head = torch.zeros((1, 1, 1, 1), dtype=torch.long, device=home)
        q = (q_pos.to(home) + self.kv_offset)[None, None, :, None]
        k = (k_pos.to(home) + self.kv_offset)[None, None, None, :]
        seen = self.rule.parts[0](batch, head, q, k)
        for part in self.rule.parts[1:]:
            seen = seen & part(batch, head, q, k)
        return seen.to(q_pos.device)

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        """The keys within reach of the window and of the documents, if there are any."""
        low = 0 if self.rule.back is None else min(max(0, q_start - self.rule.back), keys)
        high = keys if self.rule.ahead is None else min(keys, q_stop + self.rule.ahead)
        if self.rule.documents is not None:
            moved = self.kv_offset  # documents speak of absolute positions
            first, last = self.rule.documents.key_range(q_start + moved, q_stop + moved)
            low, high = max(low, first - moved), min(high, last - moved)
        return low, max(low, high)
