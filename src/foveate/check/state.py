"""Everything of a model that attaching might touch, so that two moments can be compared."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["changed", "kept", "snapshot"]

_HOOKS = (
    "_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks",
    "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called",
)  # fmt: skip
_WIDTHS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(value: Tensor) -> int:
    """A sum over the bits: it tells every change of a single value."""
    if value.device.type == "meta" or value.numel() == 0:
        return 0
    flat = value.detach().contiguous().view(-1)
    if value.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    if flat.is_floating_point():
        flat = flat.view(_WIDTHS[flat.element_size()])
    return int(flat.sum(dtype=torch.int64))


def _entries(model: nn.Module) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    for name, module in model.named_modules():
        yield f"{name}: class", type(module)
        for key, value in vars(module).items():
            if key in _HOOKS:
                for number, hook in value.items():
                    yield f"{name}.{key}[{number}]", hook
            elif key not in ("_parameters", "_buffers", "_modules"):
                yield f"{name}.{key}", value
        for key, child in module._modules.items():
            yield f"{name}.{key}: module", child
        file = sys.modules.get(type(module).__module__)
        if file is not None and id(file) not in seen:
            seen.add(id(file))
            yield from ((f"{file.__name__}.{k}", v) for k, v in vars(file).items())
        for cls in type(module).__mro__:
            if id(cls) not in seen and cls is not object:
                seen.add(id(cls))
                yield from ((f"{cls.__qualname__}.{k}", v) for k, v in vars(cls).items())
        yield from _config(getattr(module, "config", None), f"{name}.config", seen)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        yield f"{name}: tensor", tensor
        yield f"{name}: bits", _bits(tensor)
    yield from ((f"torch.nn.functional.{k}", v) for k, v in vars(nn.functional).items())
    yield from _registries()


def _config(config: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if config is None or id(config) in seen or not hasattr(config, "__dict__"):
        return
    seen.add(id(config))
    for key, value in vars(config).items():
        # a name that only looks like another is another: types count
        yield f"{name}.{key}", (type(value), value) if isinstance(value, str) else value
        if hasattr(value, "_attn_implementation"):
            yield from _config(value, f"{name}.{key}", seen)


def _registries() -> Iterator[tuple[str, Any]]:
    """transformers' tables of attention and mask functions, where it was imported."""
    for file, table in (
        ("transformers.modeling_utils", "AttentionInterface"),
        ("transformers.masking_utils", "AttentionMaskInterface"),
    ):
        cls = getattr(sys.modules.get(file), table, None)
        for key, value in dict(getattr(cls, "_global_mapping", {})).items():
            yield f"{table}[{key!s}#{hash(key)}]", value


def snapshot(model: nn.Module) -> dict[str, Any]:
    """The model as it is: modules, hooks, configs, weights' bits, and the files of its classes."""
    return dict(_entries(model))


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, int | float | str | bytes | tuple | list | dict | set | torch.Size):
        try:
            return bool(a == b)
        except (RuntimeError, ValueError):  # tensors inside
            return False
    return False


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """Names of what differs."""
    missing = object()
    return {
        name
        for name in {*before, *after}
        if not _same(before.get(name, missing), after.get(name, missing))
    }


_TABLES = ("_parameters", "_buffers", "_modules")


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Put the modules' attributes and hooks back: transformers hangs hooks of its own into a model
    that is asked for its attention maps, and leaves them there.
    """
    held = [
        (vars(m), {k: dict(v) if k in _HOOKS else v for k, v in vars(m).items()})
        for m in model.modules()
    ]
    try:
        yield
    finally:
        for values, old in held:
            for key in [key for key in values if key not in old]:
                del values[key]
            for key, value in old.items():
                if key in _HOOKS:
                    values[key].clear()
                    values[key].update(value)
                elif key not in _TABLES:
                    values[key] = value
