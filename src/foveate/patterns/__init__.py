"""Who may look at whom, as values that combine: ``SlidingWindow(256, sinks=4) | Dilated(64, 16)``.

Each has ``.mask(Sq, Sk)`` (the matrix, to look at), ``.density(Sq, Sk)`` and
``.blocks(size, Sq, Sk)``; each goes into ``fv.attention(pattern=…)`` and, like a method, into
``fv.attach(model, pattern)``.
"""

from ._base import Pattern
from .grid import CrossShaped, Halo, Neighborhood, Windows
from .groups import ShiftedGroups
from .power import PowerAttention
from .sequence import (
    Causal,
    Dilated,
    Documents,
    MultiWindow,
    PrefixLM,
    SlidingWindow,
    Strided,
)

__all__ = [
    "Causal",
    "CrossShaped",
    "Dilated",
    "Documents",
    "Halo",
    "MultiWindow",
    "Neighborhood",
    "Pattern",
    "PowerAttention",
    "PrefixLM",
    "ShiftedGroups",
    "SlidingWindow",
    "Strided",
    "Windows",
]
