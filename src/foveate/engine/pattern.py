"""Who may look at whom: the protocol that every pattern fulfils."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Pattern(Protocol):
    """A set of visible (query, key) pairs that can be evaluated one tile at a time.

    Positions are key indices of the call: query row ``r`` stands at ``r + q_offset``.

    A pattern may further have ``visible(batch, head, q_pos, k_pos)``: the same as ``tile``, for one
    pair given by four scalar index tensors, without control flow on them. FlexAttention
    compiles it into its kernel; without one it looks the tiles up.
    """

    def tile(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """Visibility of ``q_pos [m]`` by ``k_pos [n]``: bool, broadcasts to ``[B, Hq, m, n]``."""
        ...

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        """A half-open range of key indices outside which ``tile`` is False for these positions.

        ``(0, keys)`` is always right; a narrower one saves time.
        """
        ...
