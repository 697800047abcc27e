"""Methods and tasks as they are written on a command line: names and literals, nothing is run.

``Emphasize(evidence, gain=5)`` is parsed, its name looked up among foveate's methods, and its
arguments read as literals; a word without quotes is a text. A pattern stands for ``Select`` of it,
and may be an argument; ``Tuned(tuned.json)`` reads that file. Nothing else that Python knows is
understood: no attribute, no operator, no other call within a call.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .. import methods, patterns, tasks
from ..errors import FoveateError
from ..find.scores import HeadScores
from ..policy.written import known_methods

__all__ = ["known_methods", "known_patterns", "known_tasks", "method", "task"]

# a file's name without quotes, which Python's grammar has no place for
_FILE = r"""((?:^|\+)\s*)Tuned\(\s*([^()\[\]'",=\n]+?)\s*\)"""
_ENDINGS = (".jsonl", ".csv")
_EXAMPLE = {
    "method": "Emphasize(evidence, gain=5)",
    "task": "needle(length=2048, n=50)",
    "pattern": "SlidingWindow(64, sinks=4)",
}
_LONGEST = 2000  # characters; the parser of a longer one could be made to recurse too deeply


def method(text: str) -> tuple[str, Any]:
    """``NAME = A(…) + B(…)``: a name, and a list of methods (or one object that generates).

    Without a name the expression is its own name. Methods joined by ``+`` act together. A pattern,
    such as ``SlidingWindow(64, sinks=4)``, is a method here as in :func:`foveate.attach`.

    Raises
    ------
    FoveateError
        For what is no such expression, a method that is not there, arguments it does not take.
    """
    name, body = text.strip(), text
    named = re.match(r"\s*([^=()'\"]+?)\s*=\s*(?=\w+\s*\(|\w+\s*$)(.*)$", text, re.DOTALL)
    if named:
        name, body = named[1], named[2]
    body = re.sub(_FILE, lambda m: f"{m[1]}Tuned({m[2]!r})", body)
    known = {**known_methods(), **known_patterns()}
    terms = [
        _made(node, body, known, "method") for node in _terms(_parsed(body, text, "method"), text)
    ]
    made = [methods.Select(one) if isinstance(one, patterns.Pattern) else one for one in terms]
    whole = [one for one in made if not callable(getattr(one, "rewrite", None))]
    if whole and len(made) > 1:
        raise FoveateError(f"{text!r}: {whole[0]!r} does the whole asking and cannot be joined.")
    return name, whole[0] if whole else made


def task(text: str) -> Any:
    """``needle``, ``needle(length=2048, n=50)`` or ``mine.jsonl``: a task, or questions of a file.

    Case and hyphens of a task's name do not matter.

    Raises
    ------
    FoveateError
        For what is no such expression, a task that is not there, arguments it does not take.
    """
    if Path(text).suffix.lower() in tasks.Questions.SUFFIXES:
        return tasks.Questions.load(text)
    head, paren, rest = text.strip().partition("(")
    if not paren and re.search(r"[./\\]", head):
        raise FoveateError(
            f"{text!r} is no task: a file of questions ends in {' or '.join(_ENDINGS)}, a question "
            f"a line; a task of foveate's is {_EXAMPLE['task']}, for example."
        )
    body = _plain(head) + paren + rest
    return _made(_parsed(body, text, "task"), text, known_tasks(), "task")


_NOT_MADE = (tasks.Task, tasks.Questions)  # the base, and what comes from files


@cache
def known_tasks() -> dict[str, type]:
    """The tasks by the names that the command line takes."""
    found = {}
    for name in tasks.__all__:
        one = getattr(tasks, name)
        if isinstance(one, type) and issubclass(one, tasks.Task) and one not in _NOT_MADE:
            found[_plain(name)] = one
    return found


@cache
def known_patterns() -> dict[str, type]:
    """The public patterns, by name."""
    public = ((name, getattr(patterns, name)) for name in patterns.__all__)
    kinds = {n: k for n, k in public if isinstance(k, type) and issubclass(k, patterns.Pattern)}
    return {name: kind for name, kind in kinds.items() if kind is not patterns.Pattern}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _parsed(body: str, text: str, what: str) -> ast.expr:
    try:
        if len(body) > _LONGEST:
            raise ValueError("it is too long")
        return ast.parse(body.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise _refused(text, str(getattr(error, "msg", error)), what) from None


def _terms(node: ast.expr, text: str) -> list[ast.expr]:
    """The parts of ``A(…) + B(…)``."""
    found: list[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        found.insert(0, node.right)
        node = node.left
    return [node, *found]


def _made(node: ast.expr, text: str, known: Mapping[str, type], what: str) -> Any:
    if isinstance(node, ast.Name):
        called, positional, keywords = node, [], []
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        called, positional, keywords = node.func, node.args, node.keywords
    else:
        raise _refused(text, "a name, or a name with arguments in brackets, was wanted", what)
    if called.id not in known:
        raise FoveateError(f"There is no {what} {called.id!r}; there are {', '.join(known)}.")

    def read(one: ast.expr) -> Any:
        inner = isinstance(one, ast.Call) and isinstance(one.func, ast.Name) and one.func.id
        if what == "method" and inner in known_patterns():
            return _made(one, text, known_patterns(), "pattern")
        return _literal(one, text, what)

    values = [read(one) for one in positional]
    named = {}
    for one in keywords:
        if one.arg is None:
            raise _refused(text, "** is not understood", what)
        named[one.arg] = read(one.value)
    if known[called.id] is methods.Tuned:
        if len(values) != 1 or named or not isinstance(values[0], str):
            raise FoveateError(
                f"{text!r}: Tuned takes the file that foveate tune wrote: Tuned(tuned.json)."
            )
        return methods.Tuned.load(values[0])
    if isinstance(named.get("heads"), str):
        named["heads"] = _heads(named["heads"])
    kind = known[called.id]
    try:
        inspect.signature(kind).bind(*values, **named)
    except TypeError as error:
        takes = ", ".join(inspect.signature(kind).parameters)
        raise FoveateError(f"{text!r}: {error}; {called.id} takes {takes}.") from None
    return kind(*values, **named)


def _literal(node: ast.expr, text: str, what: str) -> Any:
    """A number, a text (a bare word is one), True, False, None; lists, tuples, dicts of them; and
    ``range(15, 30)`` as a list.
    """
    if isinstance(node, ast.Constant) and not isinstance(node.value, bytes | complex):
        if node.value is not Ellipsis:
            return node.value
    elif isinstance(node, ast.Name):
        return node.id
    elif isinstance(node, ast.List):
        return [_literal(one, text, what) for one in node.elts]
    elif isinstance(node, ast.Tuple):
        return tuple(_literal(one, text, what) for one in node.elts)
    elif isinstance(node, ast.Dict) and None not in node.keys:
        keys = [_literal(one, text, what) for one in node.keys if one is not None]
        return dict(zip(keys, [_literal(one, text, what) for one in node.values], strict=True))
    elif isinstance(node, ast.Call) and ast.unparse(node.func) == "range" and not node.keywords:
        ends = [_literal(one, text, what) for one in node.args]
        small = all(type(one) is int and abs(one) < 10_000 for one in ends)
        if small and 1 <= len(ends) <= 3 and ends[2:] != [0]:
            return list(range(*ends))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand, text, what)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return -value
    raise _refused(text, f"{ast.unparse(node)!r} is no number, text, list or dict", what)


def _heads(text: str) -> Any:
    """``scores.json:24``: the 24 best heads of scores that ``foveate heads --out`` kept."""
    path, colon, count = text.rpartition(":")
    if not colon or not count.isdigit():
        raise FoveateError(
            f"heads={text!r} was given; heads such as [0, 3], pairs such as [(5, 0), (7, 3)], or "
            "'scores.json:24' (the 24 best of a file from foveate heads --out) were wanted."
        )
    return HeadScores.load(path).top(int(count))


def _refused(text: str, why: str, what: str) -> FoveateError:
    return FoveateError(
        f"{text!r} was not understood ({why}); something such as {_EXAMPLE[what]} was "
        "wanted: a name, and numbers, texts, lists or dicts in brackets."
    )
