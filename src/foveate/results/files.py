"""Results as one safetensors file.

All values of a measure in a stack lie behind one another in one flat tensor, ``KEY | STACK |
DTYPE``; masks of padding are ``padding N``. Where each call's piece begins and what it is, is told
as JSON in the file's metadata, under ``foveate``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FoveateError
from .assembly import Record
from .log import Results

__all__ = ["read", "write"]

_FORMAT = "foveate results, version 1"
_FIELD = "foveate"


def write(results: Results, path: str | Path) -> Path:
    """See :meth:`Results.save`."""
    from safetensors.torch import save_file

    path = Path(path).expanduser()
    if not results:
        raise FoveateError(
            f"There is nothing to save in {str(path)!r}: nothing was recorded. Run the model "
            "inside the attach block, with fv.Measure(…), first."
        )
    pieces = _Pieces()
    log = {
        key: {
            stack: {
                layer: [pieces.row(f"{key} | {stack}", one) for one in records]
                for layer, records in layers.items()
            }
            for stack, layers in stacks.items()
        }
        for key, stacks in results._log.items()
    }
    head = {"format": _FORMAT, "stacks": results.stacks, "shapes": results._shape, "log": log}
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":"))
    try:
        save_file(pieces.tensors(), path, metadata={_FIELD: text})
    except Exception as error:  # OSError, or the library's own
        raise FoveateError(
            f"The results cannot be written to {str(path)!r} ({_why(error)}); give the name of a "
            "file in a folder that is there."
        ) from error
    return path


class _Pieces:
    """What the file will hold, gathered call by call."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = {}
        self._sizes: dict[str, int] = {}
        self._masks: dict[int, tuple[int, Tensor]] = {}  # by identity: layers share theirs

    def row(self, name: str, record: Record) -> list[Any]:
        """One record as JSON holds it."""
        value = record.value.detach().cpu()
        dtype = str(value.dtype).removeprefix("torch.")
        name = f"{name} | {dtype}"
        start = self._sizes.get(name, 0)
        self._sizes[name] = start + value.numel()
        self._parts.setdefault(name, []).append(value.reshape(-1))
        mask = None
        if record.queries is not None:
            known = (len(self._masks), record.queries)
            mask = self._masks.setdefault(id(record.queries), known)[0]
        return [*record[:4], dtype, start, list(value.shape), mask]

    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        found = {name: torch.cat(parts) for name, parts in self._parts.items()}
        for number, mask in self._masks.values():
            found[f"padding {number}"] = mask.detach().cpu().contiguous()
        return found


def read(path: str | Path) -> Results:
    """See :meth:`Results.load`."""
    from safetensors import safe_open

    path = Path(path).expanduser()
    try:
        with safe_open(path, framework="pt") as file:
            head = json.loads((file.metadata() or {}).get(_FIELD, "{}"))
            if head.get("format") != _FORMAT:
                is_of = head.get("format", "a safetensors file without them")
                raise ValueError(f"it is {is_of!r}, and this foveate reads {_FORMAT!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        results = Results(head["stacks"])
        results._shape = dict(head["shapes"])
        results._log = {
            key: {
                stack: {
                    int(layer): [_record(f"{key} | {stack}", row, tensors) for row in rows]
                    for layer, rows in layers.items()
                }
                for stack, layers in stacks.items()
            }
            for key, stacks in head["log"].items()
        }
    except Exception as error:  # of the file system, of safetensors, of JSON, of what it holds
        raise FoveateError(
            f"Results cannot be read from {str(path)!r}: {_why(error)}. A file from "
            "run.results.save(…) was wanted."
        ) from error
    return results


def _record(name: str, row: list[Any], tensors: dict[str, Tensor]) -> Record:
    phase, step, q_start, kv_start, dtype, start, shape, mask = row
    value = tensors[f"{name} | {dtype}"][start : start + math.prod(shape)].view(shape)
    queries = None if mask is None else tensors[f"padding {mask}"]
    return Record(phase, step, q_start, kv_start, value, queries)


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error}"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(".")
