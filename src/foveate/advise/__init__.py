"""From "my model gets these wrong" to a policy with a measured gain, or "change nothing"."""

from .advice import Advice, Baseline, Example, Figure, Finalist, Tried, Verdict
from .candidates import Candidate, candidates
from .run import advise

__all__ = [
    "Advice",
    "Baseline",
    "Candidate",
    "Example",
    "Figure",
    "Finalist",
    "Tried",
    "Verdict",
    "advise",
    "candidates",
]
