"""transformers: calls that dispatch through its attention interface.

An attention function and a mask function are registered while a model is attached, and the configs
its modules read are pointed at them. Which model is attached is decided by the calling module's
identity, never by its config: two models built from one config share it. Whatever is not attached
runs exactly the function and the mask it would have run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FoveateError
from .calls import Base
from .dispatch import Own, lock, route, switch
from .masks import MaskInfo
from .packed import described
from .probe import probe
from .sites import REGISTRY, dispatcher

__all__ = ["connect", "own_function"]

_FIELD = "_attn_implementation_internal"
_registered: dict[_Routed, set[object]] = {}


# -- names -----------------------------------------------------------------------------------------
class _Routed(str):
    """The name of a model's own implementation that leads to foveate when looked up.

    It equals the plain name, so that code which asks ``config._attn_implementation == "eager"``
    hears what it would without us, but hashes differently: the registries find our functions under
    it, and under no other name. Copies and pickles of a config get the plain name.
    """

    own: str | None
    _hash: int

    def __new__(cls, own: str | None) -> _Routed:
        own = own.own if isinstance(own, _Routed) else own
        self = super().__new__(cls, "eager" if own is None else own)
        self.own = own
        self._hash = hash(("foveate", own))
        return self

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Routed):
            return self.own == other.own
        return str.__eq__(self, other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __deepcopy__(self, memo: Any) -> str | None:
        return self.own

    def __reduce__(self) -> tuple[Any, ...]:
        return _plain, (self.own,)


def _plain(own: str | None) -> str | None:
    return own


# -- what the model would have run -----------------------------------------------------------------
def own_function(module: nn.Module, own: str | None) -> Callable[..., Any]:
    """The attention function that ``module`` runs under its own implementation."""
    found = dispatcher(type(module))
    if found is None:  # dispatches from code we cannot see: all that is left is its file
        found = vars(sys.modules[type(module).__module__]), "eager_attention_forward"
    names, default = found
    registry: Any = names.get(REGISTRY)
    if registry is None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        registry = ALL_ATTENTION_FUNCTIONS
    function = registry.get("eager" if own is None else own, names.get(default))
    if function is None:
        raise FoveateError(
            f"{type(module).__name__} has no eager attention function and {own!r} is not "
            "registered: give the model another attn_implementation."
        )
    return function


def _mask(own: str | None, **arguments: Any) -> Any:
    """The registered mask function: describe the mask instead of making it."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as masks

    if own is None or own not in masks:  # the model would have gone without a mask
        return None
    return MaskInfo.of(masks[own], arguments, floating=own == "eager")


def _given(
    own: str | None, module: nn.Module, mask: Any, query: Tensor, key: Tensor,
    options: dict[str, Any],
) -> tuple[Any, bool]:  # fmt: skip
    """The mask that a call goes by, and whether it is causal without one.

    A description stands where the model may have had no mask at all, and there the model's own
    attention goes by ``is_causal``, whatever the description says.
    """
    own_way = bool(getattr(module, "is_causal", True))
    said = options.get("is_causal")
    implicit = own_way if said is None else bool(said)
    if not isinstance(mask, MaskInfo):
        return mask, implicit
    if mask.kv_length != key.shape[2]:  # of other keys: a hybrid's linear layer counted them
        return mask.original, implicit
    if own in (None, "eager") or query.shape[2] == 1 or implicit == mask.rule.causal:
        return mask, implicit
    if mask.original is not None:
        return mask, implicit
    if said is not None and own_way:  # the module saw a mask where it would have seen none
        options["is_causal"] = implicit = True
    return (mask if implicit == mask.rule.causal else None), implicit


def _attend(
    own: str | None,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,
    *args: Any,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """The registered attention function."""
    attention_mask, implicit = _given(own, module, attention_mask, query, key, options)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Any:
        mask = attention_mask.original if isinstance(attention_mask, MaskInfo) else attention_mask
        return own_function(module, own)(module, q, k, v, mask, *args, **options)

    def heads(found: Any) -> Tensor:
        return found[0].transpose(1, 2)  # [B, Sq, Hq, Dv] in transformers

    def check(base: Base, q: Tensor, k: Tensor, v: Tensor) -> None:
        refuse(module, own, options, args)
        if unread is not None:
            raise FoveateError(
                f"{type(module).__name__} was given packed sequences (cu_seq_lens_q) that foveate "
                f"does not read: {unread}. Pass position_ids that begin anew with each document "
                "and use_cache=False, or a padded batch."
            )
        probe(base, q, k, v, attention_mask, options, module, own_function(module, own), own)

    # the eager functions mask what they are told to mask; the others go by is_causal
    causal = implicit and own not in (None, "eager")
    mask, unread = described(own, attention_mask, options, query, key)
    out, found = route(
        module, query, key, value, mask, Own(run, heads, own, options, causal, check)
    )
    if out is None:
        return found
    return out.transpose(1, 2).contiguous(), None if found is None else found[1]


# -- what cannot be said as a program --------------------------------------------------------------
_KNOWN = {
    "module", "query", "key", "value", "attention_mask", "dropout", "scaling", "is_causal",
    "softcap", "s_aux", "sinks", "position_bias", "sliding_window", "cache",
    "output_attentions", "head_mask",
}  # fmt: skip


@cache
def _unknown(function: Callable[..., Any]) -> tuple[str, ...]:
    parameters = signature(function).parameters.values()
    kinds = (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
    return tuple(p.name for p in parameters if p.kind not in kinds and p.name not in _KNOWN)


def refuse(
    module: nn.Module, own: str | None, options: Mapping[str, Any], args: tuple[Any, ...]
) -> None:
    """Raise where the call asks for something that a program does not hold."""
    name = type(module).__name__
    if options.get("cache") is not None:
        raise FoveateError(
            f"{name} runs on a paged cache (continuous batching), which foveate does not read: use "
            "model.generate, or attach without methods."
        )
    strange = [n for n in _unknown(own_function(module, own)) if options.get(n) is not None]
    if options.get("head_mask") is not None:
        strange.append("head_mask")
    if args or strange:
        what = ", ".join(strange) or f"{len(args)} positional argument(s)"
        raise FoveateError(
            f"{name}'s attention takes {what}, which foveate does not know how to say: leave its "
            "sites out with layers= or stack=, or attach without methods."
        )


# -- connecting ------------------------------------------------------------------------------------
def _configs(model: nn.Module) -> Iterator[Any]:
    """Every config a module of ``model`` may read, with the configs inside."""
    seen: set[int] = set()
    waiting = [c for m in model.modules() if (c := getattr(m, "config", None)) is not None]
    while waiting:
        config = waiting.pop()
        if id(config) in seen or not hasattr(config, "__dict__"):
            continue
        seen.add(id(config))
        waiting += [
            value for value in vars(config).values() if hasattr(value, "_attn_implementation")
        ]
        if hasattr(config, "_attn_implementation"):
            yield config


def connect(owner: object, model: nn.Module, undo: list[Callable[[], None]]) -> None:
    """Route what dispatches through the attention interface, by the configs of ``model``.

    Parameters
    ----------
    owner : object
        Whose connection this is: an identity, unique among connections.
    model : torch.nn.Module
        Its configs are switched.
    undo : list
        Filled with the undoings, to be run last first.
    """
    for config in _configs(model):
        own = vars(config).get(_FIELD)
        routed = own if isinstance(own, _Routed) else _Routed(own)
        undo.append(partial(_unregister, routed, owner))
        _register(routed, owner)
        switch(config, _FIELD, routed, owner, undo)


def _register(routed: _Routed, owner: object) -> None:
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    masks, attentions = AttentionMaskInterface._global_mapping, AttentionInterface._global_mapping
    with lock:
        _registered.setdefault(routed, set()).add(owner)
        masks.setdefault(routed, partial(_mask, routed.own))
        if routed not in attentions:
            attentions[routed] = torch.compiler.disable(partial(_attend, routed.own))


def _unregister(routed: _Routed, owner: object) -> None:
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    with lock:
        owners = _registered.get(routed, set())
        owners.discard(owner)
        if not owners:
            AttentionInterface._global_mapping.pop(routed, None)
            AttentionMaskInterface._global_mapping.pop(routed, None)
            _registered.pop(routed, None)
