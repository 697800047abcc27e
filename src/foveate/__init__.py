"""foveate: measure where a model looks, steer it, and make looking cheaper."""

from .engine.attention import attention
from .engine.measures import block_map, distance, entropy, mass, max, received, rows, top
from .engine.partial import Partial, merge
from .engine.planner import plan
from .engine.program import Gain, Output, Program
from .engine.shapes import Shapes
from .errors import FoveateError

__all__ = [
    "FoveateError",
    "Gain",
    "Output",
    "Partial",
    "Program",
    "Shapes",
    "attention",
    "block_map",
    "distance",
    "entropy",
    "mass",
    "max",
    "merge",
    "plan",
    "received",
    "rows",
    "top",
]
