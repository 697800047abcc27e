"""Methods for models that look at pictures."""

from .var import VAR
from .vhr import VHR

__all__ = ["VAR", "VHR"]
