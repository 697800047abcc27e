"""Who may look at whom, as values that combine: ``SlidingWindow(256, sinks=4) | Dilated(64, 16)``.

Each has ``.mask(Sq, Sk)`` (the matrix, to look at), ``.density(Sq, Sk)`` and
``.blocks(size, Sq, Sk)``; each goes into ``fv.attention(pattern=…)`` and, like a method, into
``fv.attach(model, pattern)``.
"""

from ._base import Pattern
from .bilevel import BiLevel
from .clusters import Clusters, spherical_kmeans
from .dhsa import DHSA
from .grid import CrossShaped, Halo, Windows
from .groups import ShiftedGroups
from .hip import HiP
from .machine import Machine, calibrate
from .moba import MoBA
from .neighborhood import Neighborhood
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
from .simulate import Tiles, tiles_touched
from .vertical_slash import VerticalSlash

__all__ = [
    "DHSA",
    "BiLevel",
    "Causal",
    "Clusters",
    "CrossShaped",
    "Dilated",
    "Documents",
    "Halo",
    "HiP",
    "Machine",
    "MoBA",
    "MultiWindow",
    "Neighborhood",
    "Pattern",
    "PowerAttention",
    "PrefixLM",
    "ShiftedGroups",
    "SlidingWindow",
    "Strided",
    "Tiles",
    "VerticalSlash",
    "Windows",
    "calibrate",
    "spherical_kmeans",
    "tiles_touched",
]
