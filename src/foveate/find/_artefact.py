"""What is found, kept as JSON: written with its format's name, read with every fault told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import FoveateError

__all__ = ["keep", "kept"]


def keep(path: str | Path, form: str, data: Mapping[str, Any], indent: int | None = None) -> Path:
    """Write ``data`` under the name of its format; the path is returned.

    Raises
    ------
    FoveateError
        If the file cannot be written.
    """
    path = Path(path).expanduser()
    text = json.dumps({"format": form, **data}, ensure_ascii=False, allow_nan=False, indent=indent)
    try:
        path.write_text(text + "\n", "utf-8")
    except OSError as error:
        raise FoveateError(f"{str(path)!r} cannot be written: {error.strerror}.") from None
    return path


@contextmanager
def kept(path: str | Path, form: str, what: str) -> Iterator[dict[str, Any]]:
    """The data of a file, for the one who builds the object from it.

    Whatever is wrong, in the file or in what it holds, is told in one sentence.

    Raises
    ------
    FoveateError
        If the file cannot be read, is of another format, or its data do not fit.
    """
    try:
        data = _read(Path(path).expanduser())
        if not isinstance(data, dict) or data.pop("format", None) != form:
            raise ValueError(f"it is no {form!r}")
        yield data
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, FoveateError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else error
        raise FoveateError(f"{what} cannot be read from {str(path)!r}: {why}.") from None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise FoveateError("no such file") from None
    except UnicodeDecodeError:
        raise FoveateError("it is not JSON (nor text in UTF-8)") from None
    except json.JSONDecodeError as error:
        where = f"{error.msg}, line {error.lineno}"
        raise FoveateError(f"it is not JSON ({where})") from None
