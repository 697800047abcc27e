"""Tables and self-contained HTML of what a run measured: the data first, then views of it."""

from .ablation import ablate
from .data import Ablation, ReportData, TokenMap, build, token_map
from .html import render, write

__all__ = [
    "Ablation",
    "ReportData",
    "TokenMap",
    "ablate",
    "build",
    "render",
    "token_map",
    "write",
]
