"""Methods for denoisers: what text-to-image models draw, and where."""

from .attend_and_excite import AttendAndExcite
from .dense import DenseDiffusion
from .pag import PAG

__all__ = ["PAG", "AttendAndExcite", "DenseDiffusion"]
