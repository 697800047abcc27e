"""Groups of tokens, shifted by half a group in some heads: LongLoRA's and SinkLoRA's attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._implements import implements
from ..errors import FoveateError
from ._base import Pattern, joined, whole

__all__ = ["ShiftedGroups"]


@implements("sinklora", basis="abstract")
@dataclass(frozen=True)
class ShiftedGroups(Pattern):
    """Groups of ``group`` tokens that see themselves, cut half a group later in the last heads.

    A mask to fine-tune a language model with on sequences longer than it knows; afterwards it runs
    with dense attention. Two sets of parameters have a name:

    ============================ ========================================= =====================
    S²-Attn (LongLoRA)           ``ShiftedGroups(n // 4, heads)``          half the heads shifted
    SF-Attn (SinkLoRA)           ``ShiftedGroups(n // 4, heads,``          a quarter, and four
                                 ``shifted=heads // 4, sinks=4)``          sinks that all see
    ============================ ========================================= =====================

    Parameters
    ----------
    group : int
        Tokens of a group; even if heads are shifted. Both papers take a quarter of the sequence.
    heads : int
        Query heads of the call.
    shifted : int, optional
        How many of them, counted from the last, are cut half a group later; default: half,
        rounded up.
    sinks : int
        So many first tokens are seen by all that come after them.
    causal : bool
        Otherwise groups see themselves whole, and sinks see every token too, as in Longformer.

    Notes
    -----
    The authors of both shift by rolling the sequence, so that the first half group lands behind
    the last one and their causal mask lets it see the end of the text. Here it is a group of its
    own: nothing sees what comes later (LongLoRA's kernel for flash attention cuts there as well).

    SinkLoRA's published code is LongLoRA's; of its segmentation and reassembly the text read says
    that part of the shifted heads stays in place and part is shifted. A half of each is chosen
    here: ``shifted=heads // 4``.

    References
    ----------
    Zhang, "SinkLoRA: Enhanced Efficiency and Chat Capabilities for Long-Context Large Language
    Models", 2024, section 3.2; Chen et al., "LongLoRA", 2023, section 3.2 and the authors'
    ``llama_attn_replace.py``.

    Examples
    --------
    >>> import foveate as fv
    >>> pattern = fv.patterns.ShiftedGroups(4, heads=4, shifted=1, sinks=1)
    >>> pattern.mask(8)[0].int()
    >>> pattern.mask(8)[3].int()
    """

    group: int
    heads: int | None  # a field: what differs in it is not equal
    shifted: int | None = None
    sinks: int = 0
    causal: bool = True

    def __post_init__(self) -> None:
        heads = whole("ShiftedGroups", "heads", self.heads)
        whole("ShiftedGroups", "group", self.group)
        whole("ShiftedGroups", "sinks", self.sinks, least=0)
        shifted = heads - heads // 2 if self.shifted is None else self.shifted
        if whole("ShiftedGroups", "shifted", shifted, least=0) > heads:
            raise FoveateError(
                f"ShiftedGroups(shifted={shifted}): at most all of the {heads} heads can be."
            )
        if shifted and self.group % 2:
            raise FoveateError(
                f"ShiftedGroups(group={self.group}): shifted heads are cut half a group later; "
                "give an even group, or shifted=0."
            )
        object.__setattr__(self, "shifted", shifted)

    def _sink(self, position: Tensor) -> Tensor:
        return (position >= 0) & (position < self.sinks)

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        assert head is not None and self.heads is not None and self.shifted is not None
        late = torch.where(head >= self.heads - self.shifted, self.group // 2, 0)
        same = (q - late) // self.group == (k - late) // self.group
        if self.causal:
            return (k <= q) & (same | self._sink(k))
        return same | self._sink(k) | self._sink(q)

    def key_ranges(self, q_start: int, q_stop: int, keys: int) -> list[tuple[int, int]]:
        if not self.causal and q_start < self.sinks:
            return [(0, keys)]
        spans = [(0, self.sinks)]
        for late, heads in ((0, (self.heads or 0) - (self.shifted or 0)), (1, self.shifted)):
            if heads:
                by = late * (self.group // 2)
                first, last = ((i - by) // self.group for i in (q_start, q_stop - 1))
                spans.append((first * self.group + by, (last + 1) * self.group + by))
        top = min(keys, q_stop) if self.causal else keys
        return joined((max(0, a), min(b, top)) for a, b in spans) or [(0, 0)]

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        ranges = self.key_ranges(q_start, q_stop, keys)
        return ranges[0][0], ranges[-1][1]
