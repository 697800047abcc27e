"""The literature: which papers there are, what each does, and how far it works here."""

from __future__ import annotations

from foveate.catalog.store import Paper, Papers, paper, papers
from foveate.catalog.verdicts import Evidence, read_evidence

__all__ = ["Evidence", "Paper", "Papers", "paper", "papers", "read_evidence"]
