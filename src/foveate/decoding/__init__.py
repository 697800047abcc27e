"""Distributions combined from several views of one model."""

from .against import AgainstHidden
from .avisc import AvisC
from .dagcd import DAGCD
from .decore import DeCoRe
from .guided import LookbackGuided
from .prefill import ChunkedPrefill
from .utilization import UtilizationProbe
from .views import Decoded, Sampling, Step, View, ViewDecoder

__all__ = [
    "AgainstHidden",
    "AvisC",
    "ChunkedPrefill",
    "DAGCD",
    "DeCoRe",
    "Decoded",
    "LookbackGuided",
    "Sampling",
    "Step",
    "UtilizationProbe",
    "View",
    "ViewDecoder",
]
