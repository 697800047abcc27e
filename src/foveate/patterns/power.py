"""PowerAttention: a window, a sink and the blocks at distances that are powers of two."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .._implements import implements
from ._base import Pattern, joined, whole

__all__ = ["PowerAttention"]


@implements("powerattention", basis="paper")
@dataclass(frozen=True)
class PowerAttention(Pattern):
    """Blocks at distances 0, 1, 2, 4, 8, …, with a local window and a sink; causal.

    A query in block ``I`` sees key block ``J`` if ``I - J`` is zero or a power of two, if
    ``I - J < window``, or if ``J < sinks``; of its own block what is not behind it. A row sees
    logarithmically many blocks, and after ``d`` layers an output depends on every block at a
    distance whose binary expansion has at most ``d`` ones: on all of ``2 ** d`` blocks.

    Parameters
    ----------
    block : int
        Tokens of a block. The paper's 256 fits its GPU kernel; on a CPU blocks of 128 are cut
        without waste. With 1 the pattern goes by tokens.
    window : int
        Blocks of the local window, the query's own included.
    sinks : int
        So many first blocks are seen by all that come after them.

    References
    ----------
    Chen et al., "PowerAttention: Exponentially Scaling of Receptive Fields for Effective Sparse
    Attention", 2025, Algorithm 1, appendix B (reach) and section 4.1: blocks of 256, a window of
    five, one of sinks; at 32,768 tokens that leaves four blocks at powers of two beyond the window.

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> pattern = fv.patterns.PowerAttention(block=128, window=2, sinks=1)
    >>> round(pattern.density(8192), 3)
    >>> q, k, v = torch.randn(3, 1, 2, 1024, 32)
    >>> fv.attention(q, k, v, causal=True, pattern=pattern).out.shape
    """

    block: int = 256
    window: int = 5
    sinks: int = 1

    def __post_init__(self) -> None:
        whole("PowerAttention", "block", self.block)
        whole("PowerAttention", "window", self.window)
        whole("PowerAttention", "sinks", self.sinks, least=0)

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        there = k // self.block
        back = q // self.block - there
        far = (back & (back - 1)) == 0  # no bit or one
        near = back < self.window
        sink = (there >= 0) & (there < self.sinks)
        return (k <= q) & (near | far | sink)

    def key_ranges(self, q_start: int, q_stop: int, keys: int) -> list[tuple[int, int]]:
        size, top = self.block, min(q_stop, keys)
        blocks = {(0, self.sinks)}
        for own in range(q_start // size, (q_stop - 1) // size + 1):
            blocks.add((own - self.window + 1, own + 1))
            distance = 1
            while distance <= own:
                blocks.add((own - distance, own - distance + 1))
                distance *= 2
        found = joined((max(0, a * size), min(b * size, top)) for a, b in blocks)
        return found or [(0, 0)]

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        ranges = self.key_ranges(q_start, q_stop, keys)
        return ranges[0][0], ranges[-1][1]
