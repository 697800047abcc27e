"""What one attention call computes, as data.

A :class:`Program` lists the stages of a call in their order: **select** (who may look at whom),
**score** (additive terms, soft-cap), **normalize** (softmax, with or without learned sinks),
**reweight** (gains on classes of keys), **combine** (per-head scales), **read** (measures). A
method never touches the attention matrix: it returns an edited program.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ..errors import FoveateError
from .measures import Read
from .operator import Operator
from .pattern import Pattern

RowGain = Callable[[dict[str, Tensor]], Tensor]


@dataclass(frozen=True, eq=False)
class Gain:
    """Multiply the probabilities of a region by ``value`` and renormalise the rows.

    Parameters
    ----------
    region : str
        A key of :attr:`Program.regions`.
    value : float, Tensor or callable
        Greater than 0, broadcastable to ``[B, Hq, Sq]``. A shape that does not vary along ``Sq``
        costs nothing (a key-only term); one that does rides along as one extra query/key column.
        A callable makes the gain *row-adaptive*: it is handed what the rows themselves put on the
        regions ``of``, after the score terms and the gains listed before, as
        ``{label: mass [B, Hq, m]}`` for some ``m`` of the rows, and returns the gain of each row,
        ``[B, Hq, m]``. Where it is not a finite number greater than 0 (a row without mass, say)
        the gain is 1. It costs a tile of scores at a time, never the matrix.
    of : mapping of str to str
        For a callable: label -> region.
    """

    region: str
    value: float | Tensor | RowGain
    of: Mapping[str, str] = field(default_factory=dict)

    @property
    def adaptive(self) -> bool:
        """Whether the gain depends on the row's own masses."""
        return callable(self.value) and not isinstance(self.value, Tensor)


@dataclass(frozen=True, eq=False)
class Program:
    """One attention call over ``q [B,Hq,Sq,D]``, ``k [B,Hkv,Sk,D]``, ``v [B,Hkv,Sk,Dv]``.

    With ``s = scale * q·k`` (capped to ``softcap * tanh(s / softcap)`` when asked), the scores are
    ``s + bias + key_bias + sum_r phi_r psi_r + log(gains)`` on visible pairs, the probabilities
    their softmax over the visible keys and the sink, and the output ``head_scale * P v``.

    Attributes
    ----------
    scale : float, optional
        Default ``D ** -0.5``.
    causal : bool
        Query ``i`` sees key ``j`` only if ``j <= i + q_offset``.
    q_offset : int, optional
        The key index at which query 0 stands. Default ``Sk - Sq`` (last query on last key).
    pattern : Pattern, optional
        Further restriction of who sees whom; ANDed with ``causal``.
    key_bias : Tensor, optional
        Broadcastable to ``[B, Hq, Sk]``; ``-inf`` hides a key.
    bias : Tensor, optional
        Dense term ``[B|1, Hq|1, Sq, Sk]`` (float, or bool with True = visible).
    softcap : float, optional
        Scores become ``softcap * tanh(s / softcap)`` before any additive term.
    score_terms : tuple of (phi, psi)
        Low-rank terms, broadcastable to ``[B,Hq,Sq,R]`` and ``[B,Hq,Sk,R]``.
    sinks : Tensor, optional
        ``[Hq]`` logits of a learned sink: it takes part in the softmax and has no value.
    regions : mapping of str to Tensor
        Named sets of keys, bool ``[Sk]``, ``[B, Sk]`` or, one set a head, ``[B|1, Hq|1, Sk]``.
    gains : tuple of Gain
        Overlapping gains multiply.
    head_scale : Tensor, optional
        Broadcastable to ``[B, Hq, Sq]``; multiplies the output of a head (0 ablates it).
    queries : Tensor, optional
        Bool ``[B, Sq]``: the queries that are real (not padding). The others never count in what is
        summed or averaged over queries (``received``, ``block_map``).
    operators : tuple of Operator
        What computes the call, the outermost last: estimates of the softmax, corrections of a
        pattern's output. Measures are those that are linear in the probabilities.
    reads : tuple of Read
        The measures to take.
    """

    scale: float | None = None
    causal: bool = False
    q_offset: int | None = None
    pattern: Pattern | None = None
    key_bias: Tensor | None = None
    bias: Tensor | None = None
    softcap: float | None = None
    score_terms: tuple[tuple[Tensor, Tensor], ...] = ()
    sinks: Tensor | None = None
    regions: Mapping[str, Tensor] = field(default_factory=dict)
    gains: tuple[Gain, ...] = ()
    head_scale: Tensor | None = None
    queries: Tensor | None = None
    operators: tuple[Operator, ...] = ()
    reads: tuple[Read, ...] = ()

    def evolve(self, **changes: Any) -> Program:
        """Return a copy with the given fields replaced."""
        return replace(self, **changes)

    def with_gain(
        self, region: str, value: float | Tensor | RowGain, of: Iterable[str] = ()
    ) -> Program:
        """Return a copy with one more gain (gains on the same keys multiply).

        ``of`` names the regions whose masses a row-adaptive ``value`` is handed.
        """
        gain = Gain(region, value, {name: name for name in of})
        return replace(self, gains=(*self.gains, gain))

    def with_region(self, name: str, mask: Tensor) -> Program:
        """Return a copy with one more region, bool ``[Sk]``, ``[B, Sk]`` or ``[B|1, Hq|1, Sk]``."""
        if name in self.regions:
            raise FoveateError(f"There is a region {name!r} already: choose another name.")
        return replace(self, regions=ChainMap({name: mask}, self.regions))  # type: ignore[arg-type]

    def with_reads(self, *reads: Read) -> Program:
        """Return a copy with more measures."""
        return replace(self, reads=(*self.reads, *reads))


@dataclass(frozen=True, eq=False)
class Output:
    """What a call gave: ``out [B,Hq,Sq,Dv]``, ``lse [B,Hq,Sq]`` (float32 or wider), ``measures``.

    A row with nothing visible has ``out = 0`` and ``lse = -inf``.
    """

    out: Tensor
    lse: Tensor
    measures: dict[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{key} {list(t.shape)}" for key, t in self.measures.items()) or "none"
        return f"Output(out {list(self.out.shape)}, lse {list(self.lse.shape)}; measures: {sizes})"
