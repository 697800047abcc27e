"""Whether a script names what there is, without running it."""

from __future__ import annotations

import ast
import builtins
import inspect
from collections.abc import Iterator
from typing import Any


def faults(code: str, *, open_names: bool = False) -> Iterator[str]:
    """Names that lead nowhere, and calls that do not fit the signature of what they call.

    ``open_names``: a name that the script nowhere defines is the reader's own.
    """
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        yield str(error)
        return
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            try:
                exec(compile(ast.Module([node], []), "snippet", "exec"), names)
            except ImportError as error:
                yield str(error)
    stored = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and _stores(n)}
    stored |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    for name in stored:
        names.pop(name, None)  # a value of the script, whatever was imported under its name
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not _stores(node):
            if not open_names and node.id not in {*names, *stored, *dir(builtins)}:
                yield f"{node.id} is not defined"
        elif isinstance(node, (ast.Attribute, ast.Call)):
            try:
                found = _resolve(node.func if isinstance(node, ast.Call) else node, names)
            except AttributeError as error:
                yield str(error)
                continue
            if isinstance(node, ast.Call) and found is not None:
                yield from _misfit(node, found)


def _misfit(node: ast.Call, found: Any) -> Iterator[str]:
    if any(isinstance(one, ast.Starred) for one in node.args) or None in [
        key.arg for key in node.keywords
    ]:
        return  # only running it could tell
    try:
        inspect.signature(found).bind(*node.args, **{str(k.arg): k.value for k in node.keywords})
    except ValueError:  # built in: it tells no signature
        pass
    except TypeError as error:
        yield f"{ast.unparse(node.func)}: {error}"


def _stores(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


def _resolve(node: ast.AST, names: dict[str, Any]) -> Any:
    """What a dotted name leads to; None where it starts at a value of the script."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        base = _resolve(node.value, names)
        return None if base is None else getattr(base, node.attr)
    return None
