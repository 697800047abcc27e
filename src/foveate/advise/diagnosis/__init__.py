"""Where a model looks when it fails and when it does not, and whether that matters."""

from .result import Diagnosis, ItemDiagnosis, Row
from .run import diagnose

__all__ = ["Diagnosis", "ItemDiagnosis", "Row", "diagnose"]
