"""How a model's ``generate`` runs, told to those who listen before the first forward.

What ``generate`` makes of a model cannot always be seen from its forwards. Checking a draft looks
like a chunk of a prefill; an unconditional pass looks like another prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn

from .dispatch import listeners, switch

__all__ = ["Standin", "connect"]


class Standin:
    """In the place of a method of one module; in a copy or a pickle of the module, the method."""

    def __init__(self, module: nn.Module, name: str, run: Callable[..., Any]) -> None:
        self.module, self.name, self.run = module, name, run

    @property
    def own(self) -> Any:
        """The method of the module's class."""
        return getattr(type(self.module), self.name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)

    def __deepcopy__(self, memo: Any) -> Any:
        return MethodType(self.own, copy.deepcopy(self.module, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.module, self.name)


def connect(owner: object, model: nn.Module, undo: list[Callable[[], None]]) -> None:
    """Tell the listeners of ``model`` how its ``generate`` will run, until undone."""
    for module in model.modules():
        for name, run in _WAYS.items():
            if hasattr(type(module), name):
                switch(module, name, Standin(module, name, run), owner, undo)


def _mode(standin: Standin, mode: Any, config: Any, *args: Any, **kwargs: Any) -> Any:
    """For ``_validate_generation_mode``, which generate calls first."""
    if getattr(mode, "value", mode) == "assisted_generation":
        _tell(standin.module, "assisted")
    if getattr(config, "guidance_scale", None) not in (None, 1):
        _tell(standin.module, "guided")
    return standin.own(standin.module, mode, config, *args, **kwargs)


def _paged(standin: Standin, *args: Any, **kwargs: Any) -> Any:
    """For ``init_continuous_batching``; its errors would end in a log, on another thread."""
    _tell(standin.module, "paged")
    return standin.own(standin.module, *args, **kwargs)


def _plain(standin: Standin, compile_config: Any = None) -> Any:
    """For ``get_compiled_call``: descriptions of masks do not pass through compiled graphs."""
    return standin.module.__call__


_WAYS: dict[str, Callable[..., Any]] = {
    "_validate_generation_mode": _mode,
    "init_continuous_batching": _paged,
    "get_compiled_call": _plain,
}


def _tell(module: nn.Module, way: str) -> None:
    for listener in listeners(module):
        listener.generates(way)
