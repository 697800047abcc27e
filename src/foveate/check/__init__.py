"""Does foveate tell the truth about this model? The library's own validation, on any model."""

from .report import Outcome, Report, Stack
from .run import check

__all__ = ["Outcome", "Report", "Stack", "check"]
