"""Methods for denoisers: what text-to-image models draw, and where."""

from .pag import PAG

__all__ = ["PAG"]
