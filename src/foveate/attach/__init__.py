"""Attach methods to a live model: the context manager, and what happens while it is open."""

from .attachment import Attachment, attach
from .run import Call, Coverage, Covered, Forward, Run

__all__ = ["Attachment", "Call", "Coverage", "Covered", "Forward", "Run", "attach"]
