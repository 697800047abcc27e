"""Patterns on sequences: windows, sinks, steps, documents, prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ._base import Pattern, several, truth, whole

__all__ = ["Causal", "Dilated", "Documents", "MultiWindow", "PrefixLM", "SlidingWindow", "Strided"]


@dataclass(frozen=True)
class Causal(Pattern):
    """Every token sees itself and what came before."""

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        return k <= q

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        return 0, min(keys, max(0, q_stop))


@dataclass(frozen=True)
class SlidingWindow(Pattern):
    """The last ``window`` tokens, itself included, and the first ``sinks`` of all.

    Parameters
    ----------
    window : int
        A token sees key ``j`` if ``0 <= i - j < window``; with ``causal=False`` if
        ``|i - j| < window``. One larger than the sequence hides nothing.
    sinks : int
        So many first tokens are seen by all that come after them (StreamingLLM: 4).
    causal : bool

    References
    ----------
    Xiao et al., "Efficient Streaming Language Models with Attention Sinks", 2023.

    Examples
    --------
    >>> import foveate as fv
    >>> fv.SlidingWindow(3, sinks=1).mask(5).int().tolist()[4]
    [1, 0, 1, 1, 1]
    """

    window: int
    sinks: int = 0
    causal: bool = True

    def __post_init__(self) -> None:
        whole("SlidingWindow", "window", self.window)
        whole("SlidingWindow", "sinks", self.sinks, least=0)
        truth("SlidingWindow", "causal", self.causal)

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        back = q - k
        near = back < self.window
        if self.sinks:
            near = near | ((k >= 0) & (k < self.sinks))
        if self.causal:
            return near & (back >= 0)
        return near & ((back > -self.window) | ((k >= 0) & (k < self.sinks)))

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        ahead = 0 if self.causal else self.window - 1
        low = 0 if self.sinks else min(max(0, q_start - self.window + 1), keys)
        high = max(q_stop + ahead, 0 if self.causal else self.sinks)
        return low, max(low, min(keys, high))

    def key_ranges(self, q_start: int, q_stop: int, keys: int) -> list[tuple[int, int]]:
        low, high = self.key_range(q_start, q_stop, keys)
        near = max(0, q_start - self.window + 1)
        if self.sinks >= near:
            return [(low, high)]
        return (
            [(0, min(self.sinks, keys)), (min(near, keys), high)] if self.sinks else [(low, high)]
        )


@dataclass(frozen=True)
class Dilated(Pattern):
    """``window`` tokens, every ``dilation``-th: ``i - j`` is 0, ``dilation``, 2 ``dilation``, …

    Parameters
    ----------
    window : int
        How many keys a token sees (on either side, with ``causal=False``, itself counted once).
    dilation : int
    causal : bool
    """

    window: int
    dilation: int
    causal: bool = True

    def __post_init__(self) -> None:
        whole("Dilated", "window", self.window)
        whole("Dilated", "dilation", self.dilation)
        truth("Dilated", "causal", self.causal)

    @property
    def reach(self) -> int:
        """The largest distance seen."""
        return (self.window - 1) * self.dilation

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        back = q - k
        near = (back % self.dilation == 0) & (back <= self.reach)
        return near & ((back >= 0) if self.causal else (back >= -self.reach))

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        low = min(max(0, q_start - self.reach), keys)
        return low, max(low, min(keys, q_stop + (0 if self.causal else self.reach)))


@dataclass(frozen=True)
class Strided(Pattern):
    """The last ``local`` tokens, and one column in ``stride``: ``j % stride == stride - 1``.

    Parameters
    ----------
    stride : int
    local : int, optional
        Default: the stride.
    causal : bool

    References
    ----------
    Child et al., "Generating Long Sequences with Sparse Transformers", 2019, the "fixed" pattern
    (one summary column a block) with a sliding local part.
    """

    stride: int
    local: int | None = None
    causal: bool = True

    def __post_init__(self) -> None:
        whole("Strided", "stride", self.stride)
        if self.local is not None:
            whole("Strided", "local", self.local)
        truth("Strided", "causal", self.causal)

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        back, local = q - k, self.local or self.stride
        column = k % self.stride == self.stride - 1
        if self.causal:
            return (back >= 0) & ((back < local) | column)
        return (back.abs() < local) | column

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        return (0, min(keys, max(0, q_stop))) if self.causal else (0, keys)


@dataclass(frozen=True)
class Documents(Pattern):
    """Several documents in one sequence: a token sees its own document only.

    Parameters
    ----------
    lengths : sequence of int
        Of the documents, in order. Tokens behind the last belong to one more document.
    """

    lengths: tuple[int, ...]
    _ends: Tensor = field(init=False, repr=False, compare=False)
    _number: Tensor = field(init=False, repr=False, compare=False)  # of each token's document

    def __init__(self, lengths: Sequence[int]) -> None:
        wanted = "the list of the documents' lengths, such as [120, 80],"
        given = several("Documents", "lengths", lengths, wanted)
        object.__setattr__(self, "lengths", given)
        object.__setattr__(self, "_ends", torch.tensor(given).cumsum(0))
        numbers = torch.arange(len(given) + 1).repeat_interleave(torch.tensor([*given, 1]))
        object.__setattr__(self, "_number", numbers)

    def _document(self, position: Tensor) -> Tensor:
        # looked up, not searched for: FlexAttention compiles no search into its kernel
        return self._number.to(position.device)[position.clamp(0, len(self._number) - 1)]

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        return self._document(q) == self._document(k)

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        ends = [0, *self._ends.tolist()]
        low = max(end for end in ends if end <= max(q_start, 0))
        # what stands before the first token (padding) is of the first document
        high = min((end for end in ends if end >= max(q_stop, 1)), default=keys)
        return min(low, keys), min(high, keys)


@dataclass(frozen=True)
class PrefixLM(Pattern):
    """Causal, but for the first ``prefix`` tokens, which all tokens see (each other too)."""

    prefix: int

    def __post_init__(self) -> None:
        whole("PrefixLM", "prefix", self.prefix)

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        return (k <= q) | (k < self.prefix)

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        return 0, min(keys, max(q_stop, self.prefix))


@dataclass(frozen=True)
class MultiWindow(Pattern):
    """Non-overlapping windows, of another length for every head.

    Parameters
    ----------
    windows : sequence of int
        One a head: a head with window ``w`` cuts the sequence into pieces of ``w`` tokens, each of
        which sees itself. A last piece may be shorter.

    See Also
    --------
    foveate.layers.MultiWindowAttention : the trainable layer, with the paper's position biases.

    References
    ----------
    Yadav et al., "Masked Autoencoders with Multi-Window Local-Global Attention Are Better Audio
    Learners", 2023.

    Examples
    --------
    >>> from foveate.patterns import MultiWindow
    >>> MultiWindow.of(250).windows
    (2, 5, 10, 25, 50, 125, 250, 250)
    """

    windows: tuple[int, ...]
    _of_head: Tensor = field(init=False, repr=False, compare=False)

    def __init__(self, windows: Sequence[int]) -> None:
        wanted = "a window for every head, such as [2, 5, 10, 25],"
        given = several("MultiWindow", "windows", windows, wanted)
        object.__setattr__(self, "windows", given)
        object.__setattr__(self, "heads", len(given))
        object.__setattr__(self, "_of_head", torch.tensor(given))

    @classmethod
    def of(cls, tokens: int, heads: int | None = None) -> MultiWindow:
        """The paper's windows for a number of tokens: its divisors but 1, and once more all.

        Parameters
        ----------
        tokens : int
        heads : int, optional
            How many windows; default: what the paper's rule gives (250 tokens: 8 heads, 500: 12).
            With more, the last heads see everything, too. With fewer, that many divisors are
            taken, evenly from the shortest to all tokens, and the last head sees everything. Both
            are chosen here: the paper takes as many heads as its rule gives.
        """
        whole("MultiWindow.of", "tokens", tokens, least=2)
        divisors = [w for w in range(2, tokens + 1) if tokens % w == 0]
        rule = [*divisors, tokens]
        count = len(rule) if heads is None else whole("MultiWindow.of", "heads", heads)
        if count >= len(rule):
            return cls([*rule, *[tokens] * (count - len(rule))])
        last = max(1, count - 2)
        places = [round(i * (len(divisors) - 1) / last) for i in range(count - 1)]
        return cls([*(divisors[place] for place in places), tokens])

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        assert head is not None
        window = self._of_head.to(q.device)[head]
        return q // window == k // window

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        low = min(q_start // w * w for w in self.windows)
        high = max(-(-q_stop // w) * w for w in self.windows)
        return min(max(0, low), keys), min(keys, high)

    def on(self, item: int, head: int) -> Pattern:
        return _Pieces(self.windows[head])


@dataclass(frozen=True)
class _Pieces(Pattern):
    """The sequence cut into pieces of ``window`` tokens, each of which sees itself."""

    window: int

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        return q // self.window == k // self.window

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        low, high = q_start // self.window * self.window, -(-q_stop // self.window) * self.window
        return min(max(0, low), keys), min(keys, high)
