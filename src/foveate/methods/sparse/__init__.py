"""Sparse attention that is more than a pattern: estimates of the whole, and corrections.

Each is a method for :func:`foveate.attach` and an operator for ``fv.attention(operators=[…])``.
"""

from .delta import DeltaCorrection
from .hyper import HyperAttention
from .rectified import RectifiedSpaAttn

__all__ = ["DeltaCorrection", "HyperAttention", "RectifiedSpaAttn"]
