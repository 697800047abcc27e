"""Which pattern each head of a model can do with: densities, masses, plans, and the search."""

from .families import FAMILIES, fitted, share
from .judge import Judged, judge
from .masses import retained
from .search import tune

__all__ = ["FAMILIES", "Judged", "fitted", "judge", "retained", "share", "tune"]
