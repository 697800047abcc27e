"""What was measured under :func:`foveate.attach`: tensors by key, and what becomes of them."""

from .log import Results
from .series import Series
from .show import unit

__all__ = ["Results", "Series", "unit"]
