"""A local page to look at a model's attention, steer it, compare methods and find papers."""

from __future__ import annotations

from .app import build
from .serve import serve

__all__ = ["build", "serve"]
