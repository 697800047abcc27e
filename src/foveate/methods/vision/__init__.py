"""Methods for models that look at pictures."""

from .var import VAR

__all__ = ["VAR"]
