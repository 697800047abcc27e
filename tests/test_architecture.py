"""The arrows between the rooms point one way (DESIGN, section 4).

Read from the source, not from what happens to be imported: an import inside a function or
under ``TYPE_CHECKING`` is an arrow too, for the types a room speaks of are what it depends
on. Types from lower rooms are welcome everywhere.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve()
SRC = HERE.parents[1] / "src"

# From the bottom up. A room may import its own row and the rows before it; the first row
# imports nothing of ours.
ORDER = (
    ("_implements", "errors"),
    ("engine", "statistics", "display"),
    ("patterns",),
    ("adapters", "grid", "pictures", "prompt", "load", "models", "attach", "results"),
    ("methods", "cache", "decoding", "find", "layers", "tasks"),
    ("inspection", "check", "evaluate", "policy", "advise", "catalog", "report"),
    ("cli", "ui", "__main__"),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
ENGINE_MAY_IMPORT = {"torch", "numpy", *sys.stdlib_module_names}


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every module imported anywhere in a file.

    ``from a import b`` yields ``a.b``: whether b is a module or a name within a does not
    matter below the first two parts.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call):
            # import_module("foveate.report") is the same arrow, only harder to see.
            called = ast.unparse(node.func).rpartition(".")[2]
            first = node.args[0] if node.args else None
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def faults(src: Path) -> list[str]:
    """One sentence for each import under ``src/foveate`` that goes against the arrows."""
    found = []
    root = src / "foveate"
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        room, where = parts[0], path.relative_to(src)
        if room == "__init__":  # the public names: the one place that sees every room
            continue
        if room not in RANK:
            found.append(
                f"{where}: the room {room!r} has no place yet; add it to ORDER in {HERE.name}"
            )
            continue
        package = ".".join(("foveate", *parts[:-1]))
        for line, name in imported(ast.parse(path.read_text(encoding="utf-8")), package):
            fault = _fault(room, name.split("."))
            if fault:
                found.append(f"{where}:{line}: {fault}")
    return found


def _fault(room: str, name: list[str]) -> str | None:
    if name[0] != "foveate":
        if room == "engine" and name[0] not in ENGINE_MAY_IMPORT:
            return f"the engine imports torch, numpy and the standard library only, not {name[0]}"
        return None
    target = name[1] if len(name) > 1 else ""
    if target not in RANK:
        return "nothing inside foveate imports its root; import from the room that defines the name"
    if room == target:
        return None
    if RANK[room] == 0:
        return f"{room} imports nothing of ours, not {target} either"
    if RANK[target] > RANK[room]:
        return f"{room} must not import {target}, which stands above it"
    return None


def test_the_arrows_point_one_way() -> None:
    found = faults(SRC)
    assert not found, "\n" + "\n".join(found)


def make(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = tmp_path / "foveate" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("errors.py", "from foveate import _implements", "imports nothing of ours"),
        ("engine/x.py", "from foveate.patterns import grid", "engine must not import patterns"),
        ("engine/x.py", "import transformers", "not transformers"),
        ("engine/x.py", "def f():\n    from transformers.models import llama", "not transformers"),
        ("patterns/x.py", "from ..adapters import hf", "patterns must not import adapters"),
        ("attach.py", "from .methods.emphasis import E", "attach must not import methods"),
        ("methods/a/b.py", "from ...catalog import papers", "methods must not import catalog"),
        ("find/x.py", "import foveate.evaluate as e", "find must not import evaluate"),
        ("report/x.py", "from foveate.cli import app", "report must not import cli"),
        ("load.py", "if TYPE_CHECKING:\n    from foveate.ui import U", "load must not import ui"),
        ("results.py", "import_module('foveate.report')", "results must not import report"),
        ("cli.py", "import foveate as fv", "imports its root"),
        ("cli.py", "from foveate import papers", "imports its root"),
        ("cli.py", "from . import papers", "imports its root"),
        ("attic/x.py", "", "the room 'attic' has no place yet; add it to ORDER"),
    ],
)
def test_an_arrow_against_the_order_is_found(
    tmp_path: Path, file: str, text: str, sentence: str
) -> None:
    (found,) = faults(make(tmp_path, {file: text}))
    assert sentence in found
    assert found.startswith(str(Path("foveate") / file))


def test_arrows_that_are_allowed(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from foveate.cli import app\nfrom foveate.engine import attention",
        "engine/x.py": "import torch, numpy, math\nfrom foveate.errors import FoveateError",
        "attach.py": "from foveate import prompt\nfrom .engine.x import attention",
        "methods/a.py": "if TYPE_CHECKING:\n    from foveate.attach import Run",
        "adapters/hf.py": "import transformers",
        "cli.py": "from foveate.catalog.command import register\nimport typer",
    }
    assert faults(make(tmp_path, files)) == []


def test_importing_foveate_loads_no_heavy_library() -> None:
    """transformers and its like take seconds to import: they come with their first use."""
    heavy = ("transformers", "diffusers", "pandas", "gradio", "plotly", "scipy", "sklearn", "PIL",
             "jinja2")  # fmt: skip
    code = (
        "import sys, foveate\n"
        "assert foveate.__file__, 'src/foveate has no __init__.py'\n"
        f"print(*[name for name in {heavy} if name in sys.modules])"
    )
    path = os.pathsep.join([str(SRC), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [], "import these inside the functions that need them"
