"""Tables and self-contained HTML of what a run measured: the data first, then views of it."""

from .ablation import ablate
from .data import Ablation, ReportData, build
from .html import render, write

__all__ = ["Ablation", "ReportData", "ablate", "build", "render", "write"]
