"""From "my model gets these wrong" to a policy with a measured gain, or "change nothing"."""

from .advice import Advice, Baseline, Example, Figure, Finalist, Tried, Verdict

__all__ = ["Advice", "Baseline", "Example", "Figure", "Finalist", "Tried", "Verdict"]
