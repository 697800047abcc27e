"""Code copied with other globals: what a function calls by a module-level name is exchanged.

``F.scaled_dot_product_attention`` in a module's forward is a name looked up in the globals of its
file. A copy of the forward whose globals hold ours in that place calls us, and nothing else in the
process does: no global is patched, no call is wrapped, gradients recompute through it and compilers
trace it.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

import torch

__all__ = ["ATTENDS", "calls", "copied", "copyable", "mentions", "named", "native"]

# The names of functions that attend.
ATTENDS = ("scaled_dot_product_attention", "dispatch_attention_fn")
_DEEP = 3  # how far a call is followed through functions of the same package


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _codes(const)


def named(function: FunctionType) -> set[str]:
    """Every name that the code of a function speaks of, keywords of its calls included."""
    found: set[str] = set()
    for code in _codes(function.__code__):
        found.update(code.co_names)
        for const in code.co_consts:  # the keywords of a call are a tuple of strings
            if isinstance(const, tuple):
                found.update(name for name in const if isinstance(name, str))
            elif isinstance(const, str) and (const == "is_causal" or "getattr" in code.co_names):
                found.add(const)  # a keyword beside starred arguments; what getattr is asked for
    return found


def _aliases(function: FunctionType, names: Iterable[str]) -> dict[str, str]:
    """Globals of a function that are one of ``names``, whatever they are called there."""
    wanted, found = set(names), {}
    for name in named(function):
        value = function.__globals__.get(name)
        known = getattr(value, "__name__", None) if callable(value) else None
        if known in wanted:
            found[name] = known
    return found


def native(value: Any, name: str) -> bool:
    """Whether a value is the function that ``name`` stands for, not another's of that name."""
    if name == "dispatch_attention_fn":
        return str(getattr(value, "__module__", "")).startswith("diffusers.")
    return value is getattr(torch.nn.functional, name, value)


def _is_torch(value: Any) -> bool:
    return value is torch or value is torch.nn or value is torch.nn.functional


def exchangeable(function: FunctionType, names: tuple[str, ...]) -> bool:
    """Whether all that a function itself says of ``names`` leads through globals of its file.

    Not a name that it imports or is handed in a closure, nor a function of another's that is only
    called so.
    """
    said = named(function)
    aliases = _aliases(function, names)
    if said.isdisjoint(names) and not aliases:
        return True
    own = function.__globals__
    globally = {name: name for name in said.intersection(names) if name in own} | aliases
    if not all(native(own[name], known) for name, known in globally.items()):
        return False
    if any(_imports(code) for code in _codes(function.__code__)):
        return False
    held = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    modules = [value for name in said if isinstance(value := own.get(name), ModuleType)]
    others = [m for m in (*held, *modules) if isinstance(m, ModuleType) and m not in modules]
    others += [m for m in modules if not _is_torch(m) and any(hasattr(m, n) for n in names)]
    return not others and (bool(globally) or any(map(_is_torch, modules)))


def _imports(code: CodeType) -> bool:
    """Whether code imports torch, or something of it, by itself."""
    return any(
        step.opname == "IMPORT_NAME" and str(step.argval).split(".")[0] == "torch"
        for step in dis.get_instructions(code)
    )


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that is bound later
        return False


def mentions(function: FunctionType, names: tuple[str, ...]) -> bool:
    """Whether the code of a function speaks of one of ``names`` itself."""
    return not named(function).isdisjoint(names) or bool(_aliases(function, names))


def _helpers(function: FunctionType) -> Iterator[tuple[str, FunctionType, bool]]:
    """Functions of its own package that a function names: name, function, whether undecorated."""
    package = (function.__module__ or "").split(".")[0]
    for name in sorted(named(function)):
        value = function.__globals__.get(name)
        found = inspect.unwrap(value) if callable(value) else None
        if (
            isinstance(found, FunctionType)
            and found is not function
            and (found.__module__ or "").split(".")[0] == package
        ):
            yield name, found, found is value


@cache
def calls(function: FunctionType, names: tuple[str, ...] = ATTENDS, deep: int = _DEEP) -> bool:
    """Whether a function calls one of ``names``, by itself or through functions of its package."""
    if mentions(function, names):
        return True
    return deep > 0 and any(calls(helper, names, deep - 1) for _, helper, _ in _helpers(function))


@cache
def copyable(function: FunctionType, names: tuple[str, ...] = ATTENDS, deep: int = _DEEP) -> bool:
    """Whether every such call is made from code that a copy can hold (no decorator between)."""
    return exchangeable(function, names) and (
        deep == 0
        or all(
            plain and copyable(helper, names, deep - 1)
            for _, helper, plain in _helpers(function)
            if calls(helper, names, deep - 1)
        )
    )


def copied(function: FunctionType, replace: Mapping[str, Any], deep: int = _DEEP) -> FunctionType:
    """A copy of a function in whose globals the names of ``replace`` are exchanged.

    Parameters
    ----------
    function : function
    replace : mapping of str to callable
        What to call in place of a function of that name, be it a global itself or looked up in
        ``torch.nn.functional``.

    Returns
    -------
    function
        On the same code, with the same defaults and closure. Its globals are a copy: the file's own
        stay as they are.
    """
    own = function.__globals__
    names = dict(own)
    if mentions(function, tuple(replace)):
        for name in named(function):
            value = own.get(name)
            if isinstance(value, ModuleType) and _is_torch(value):
                names[name] = _stand_in(value, replace)
        for name, known in _aliases(function, replace).items():
            if native(own[name], known):
                names[name] = replace[known]
    for name, helper, plain in _helpers(function) if deep > 0 else ():
        if plain and name not in replace and calls(helper, tuple(replace), deep - 1):
            names[name] = copied(helper, replace, deep - 1)
    code = function.__code__.replace()  # compilers keep what they made of a code with the code
    twin = FunctionType(code, names, function.__name__, function.__defaults__, function.__closure__)
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__dict__.update(function.__dict__)
    for name in ("__module__", "__qualname__", "__doc__", "__annotations__"):
        setattr(twin, name, getattr(function, name))
    return twin


def _stand_in(module: ModuleType, replace: Mapping[str, Any]) -> ModuleType:
    """``torch``, ``torch.nn`` or ``torch.nn.functional`` with other functions in it."""
    twin = _StandIn(module)
    if module is torch.nn.functional:
        vars(twin).update(replace)
    elif module is torch.nn:
        vars(twin)["functional"] = _stand_in(torch.nn.functional, replace)
    else:
        vars(twin)["nn"] = _stand_in(torch.nn, replace)
    return twin


class _StandIn(ModuleType):
    """Has a module's names, and falls back on it for those it makes when asked."""

    def __init__(self, module: ModuleType) -> None:
        super().__init__(module.__name__)
        vars(self).update(vars(module))
        vars(self)["_stands_for"] = module

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_stands_for"], name)
