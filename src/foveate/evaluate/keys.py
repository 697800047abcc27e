"""What a result depends on, as one key: a result is used again only where all of it is the same."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from functools import cache
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from ..find._model import ModelId, versions
from ..tasks import Item

__all__ = ["batch_key", "described", "model_facts", "versions"]


def model_facts(model: nn.Module, tokenizer: Any) -> dict[str, Any]:
    """The model and the tokenizer: what they are and where they run."""
    who, first = ModelId.of(model), next(model.parameters())
    template = str(getattr(tokenizer, "chat_template", None))
    return {
        "model": who.name,
        "architecture": who.architecture,
        "fingerprint": who.fingerprint,
        "dtype": str(first.dtype).removeprefix("torch."),
        "device": first.device.type,
        "threads": torch.get_num_threads() if first.device.type == "cpu" else None,
        "attention": str(getattr(getattr(model, "config", None), "_attn_implementation", None)),
        "tokenizer": f"{type(tokenizer).__name__} {_digest(template)}",
    }


def batch_key(facts: Mapping[str, Any], method: Any, items: Sequence[Item], tokens: int) -> str:
    """The key of one batch of replies, the method as :func:`described`: 24 hexadecimal digits."""
    whole = {
        "facts": facts,
        "method": method,
        "items": [described(item) for item in items],
        "max_new_tokens": tokens,
    }
    return _digest(json.dumps(whole, sort_keys=True, default=str))[:24]


def described(value: Any, depth: int = 0) -> Any:
    """A value as plain data, equal for equal settings in any process.

    Tensors and weights by a digest of their numbers, functions and classes by their byte code,
    objects by their class and what they hold. Names that begin with an underscore are left out:
    caches live there, and what an object was given is, by custom, public or in its repr.
    """
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if depth > 8:
        return f"{type(value).__qualname__} (too deep)"
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return ["tensor", list(value.shape), str(value.dtype), _digest(data)]
    if isinstance(value, Mapping):
        return {str(key): described(one, depth + 1) for key, one in value.items()}
    if isinstance(value, Set):
        return sorted(json.dumps(described(one, depth + 1), default=str) for one in value)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [described(one, depth + 1) for one in value]
    if isinstance(value, nn.Module):
        return [type(value).__qualname__, described(value.state_dict(), depth + 1)]
    if inspect.isroutine(value) or isinstance(value, type):
        return [getattr(value, "__qualname__", repr(value)), _code(value)]
    kind: Any = type(value)
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "code": _code(kind),
        "says": re.sub(r" at 0x[0-9a-f]+", "", repr(value)),
        "holds": {k: described(one, depth + 1) for k, one in _held(value).items()},
    }


def _held(value: Any) -> dict[str, Any]:
    if is_dataclass(value):
        return {one.name: getattr(value, one.name, None) for one in fields(value) if one.init}
    held = getattr(value, "__dict__", None) or {}
    return {k: one for k, one in held.items() if not k.startswith("_")}


@cache
def _code(value: Any) -> str:
    """A digest of a function's byte code, or of a class's and its bases': edited is another."""
    digest = hashlib.sha256()
    if not isinstance(value, type):
        _feed(digest, value)
        return digest.hexdigest()[:12]
    for kind in value.__mro__:
        if kind.__module__.partition(".")[0] not in ("builtins", "torch"):
            for name, one in sorted(vars(kind).items()):
                digest.update(name.encode())
                _feed(digest, one)
    return digest.hexdigest()[:12]


def _feed(digest: Any, value: Any) -> None:
    """The code of a function, however it is wrapped; of anything else, nothing."""
    for name in ("__func__", "fget", "func", "__wrapped__"):
        value = getattr(value, name, None) or value
    code = value if isinstance(value, CodeType) else getattr(value, "__code__", None)
    if not isinstance(code, CodeType):
        return
    digest.update(code.co_code + repr(code.co_names).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _feed(digest, constant)
        else:  # the order of a set is another in every process
            parts = sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
            digest.update(repr(parts).encode())


def _digest(data: str | bytes) -> str:
    return hashlib.sha256(data if isinstance(data, bytes) else data.encode()).hexdigest()
