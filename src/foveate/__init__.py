"""foveate: measure where a model looks, steer it, and make looking cheaper."""

from pathlib import Path as _Path
from typing import Any as _Any

from .attach import Run, attach
from .engine.attention import attention
from .engine.measures import block_map, distance, entropy, mass, max, received, rows, top
from .engine.partial import Partial, merge
from .engine.planner import plan
from .engine.program import Gain, Output, Program
from .engine.shapes import Shapes
from .errors import FoveateError
from .inspection import inspect
from .methods.emphasis import Emphasize
from .methods.measure import Measure

__all__ = [
    "Emphasize",
    "FoveateError",
    "Gain",
    "Measure",
    "Output",
    "Partial",
    "Program",
    "Run",
    "Shapes",
    "attach",
    "attention",
    "block_map",
    "distance",
    "entropy",
    "inspect",
    "mass",
    "max",
    "merge",
    "plan",
    "received",
    "rows",
    "top",
]


def _report(run: Run, path: str | _Path, **options: _Any) -> _Path:
    from .report.html import write

    return write(run, path, **options)


Run.writer = staticmethod(_report)
