"""TOML as people read and compare it: written here, read by the standard library's tomllib."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from datetime import date, time
from typing import Any

from ..errors import FoveateError

__all__ = ["dumps", "plain"]


def plain(value: Any, of: str) -> Any:
    """A value as TOML holds it; what is None in a mapping is left out.

    Raises
    ------
    FoveateError
        For what is no number, text, list or mapping of these.
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, bool | int | float | str | date | time):  # a datetime is a date
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(one, of) for key, one in value.items() if one is not None}
    if isinstance(value, list | tuple | range):
        return [plain(one, of) for one in value]
    if getattr(value, "numel", lambda: 0)() == 1 or getattr(value, "size", None) == 1:
        return value.item()  # a number of torch or numpy
    raise FoveateError(
        f"{of} holds {value!r:.80}, which cannot be written down: numbers, texts, lists and dicts "
        "can."
    )


def dumps(data: Mapping[str, Any], head: str = "") -> str:
    """Plain data as TOML, below a head of comments.

    Mappings become tables, lists of mappings arrays of tables; deeper than that, lists of mappings
    and mappings with a ``class`` stand in one line each.
    """
    blocks = ["\n".join(_table((), data))]
    if head:
        blocks.insert(0, "\n".join(f"# {line}".rstrip() for line in head.splitlines()))
    return re.sub(r"\n{3,}", "\n\n", "\n\n".join(blocks).strip()) + "\n"


def _table(path: tuple[str, ...], data: Mapping[str, Any]) -> Iterator[str]:
    below: list[str] = []
    for key, value in data.items():
        here = (*path, _key(key))
        if isinstance(value, Mapping) and "class" not in value and "tensors" not in value:
            below += ["", f"[{'.'.join(here)}]", *_table(here, value)]
        elif _tables(value) and not path:
            for one in value:
                below += ["", f"[[{'.'.join(here)}]]", *_table(here, one)]
        elif _tables(value):
            yield f"{here[-1]} = ["
            yield from (f"  {_inline(one)}," for one in value)
            yield "]"
        else:
            yield f"{here[-1]} = {_inline(value)}"
    yield from below


def _tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _text(value: str) -> str:
    whole = value.encode("utf-8", "replace").decode()  # half a character is no text
    return json.dumps(whole, ensure_ascii=False).replace("\x7f", "\\u007f")


def _inline(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, date | time):
        return value.isoformat()
    # numpy's floats are Python's, and say np.float64(…)
    return float.__repr__(value) if isinstance(value, float) else int.__repr__(value)
