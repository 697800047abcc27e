"""What may be read from one attention call: the public constructors of measures.

With ``P`` the final probabilities (or, with ``at="before"``, those without any gain), ``i`` the
position of a query among the keys (its index plus ``q_offset``) and ``j`` a key's index:

=================== ======================== =====================================================
key                 shape                    meaning
=================== ======================== =====================================================
``mass:NAME``       ``[B, Hq, Sq]``          sum of ``P`` over the region
``entropy``         ``[B, Hq, Sq]``          ``-sum P log P`` in nats; a learned sink is one outcome
``distance``        ``[B, Hq, Sq]``          mean ``|i - j|`` in tokens
``distance_signed`` ``[B, Hq, Sq]``          mean ``i - j`` in tokens (positive: looks back)
``received``        ``[B, Hq, Sk]``          ``P`` summed over the queries
``block_map``       ``[B, Hq, n, n]``        mean mass on a block of keys over a block of queries
``rows``            ``[B, Hq, len, Sk]``     the rows of ``P`` asked for
``top.values``      ``[B, Hq, Sq, k]``       the k largest probabilities of a row, descending
``top.indices``     ``[B, Hq, Sq, k]``       their keys (int64); -1 where a row has fewer than k
``max``             ``[B, Hq, Sq]``          the largest probability of a row
=================== ======================== =====================================================

``distance_signed`` is made by ``distance(signed=True)``. To read one thing before and after the
gains, give one of them another key with ``as_=``.

All are float32 (float64 for float64 inputs and from the reference). A row with nothing visible
reads 0 everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Literal

import torch
from torch import Tensor

from ..errors import FoveateError

At = Literal["after", "before"]


@dataclass(frozen=True)
class Read:
    """One measure of one call. Made by :func:`mass`, :func:`entropy`, … rather than by hand.

    Attributes
    ----------
    kind : str
        ``mass``, ``entropy``, ``distance``, ``distance_signed``, ``received``, ``block_map``,
        ``rows``, ``top`` or ``max``.
    region : str, optional
        For ``mass``.
    size : int, optional
        ``n`` of ``block_map``, ``k`` of ``top``.
    index : tuple of int, optional
        For ``rows``: queries, negative ones counted from the end.
    name : str, optional
        Another key than the usual one.
    at : {"after", "before"}
        Whether the final probabilities are read or those without gains.
    """

    kind: str
    region: str | None = None
    size: int | None = None
    index: tuple[int, ...] | None = None
    name: str | None = None
    at: At = "after"

    @property
    def key(self) -> str:
        """The measure's key in ``measures`` (the stem of two keys for ``top``)."""
        if self.name is not None:
            return self.name
        return f"mass:{self.region}" if self.kind == "mass" else self.kind

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys that this measure writes."""
        return (f"{self.key}.values", f"{self.key}.indices") if self.kind == "top" else (self.key,)


def _read(kind: str, as_: str | None, at: str, **fields: object) -> Read:
    if at not in ("after", "before"):
        raise FoveateError(f'at={at!r} was given; it must be "after" or "before" (the gains).')
    if as_ is not None and (not isinstance(as_, str) or not as_):
        raise FoveateError(
            f"as_={as_!r} was given; it must be a non-empty string, the measure's key."
        )
    return replace(Read(kind, name=as_, at=at), **fields)  # type: ignore[arg-type]


def _count(what: str, n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
        raise FoveateError(f"{what} takes a whole number of at least 1; {n!r} was given.")
    return int(n)


def mass(region: str, *, as_: str | None = None, at: At = "after") -> Read:
    """Share of each query's attention that falls on ``region``; ``[B, Hq, Sq]``."""
    if not isinstance(region, str) or not region:
        raise FoveateError(f"mass(region) takes the name of a region; {region!r} was given.")
    return _read("mass", as_, at, region=region)


def entropy(*, as_: str | None = None, at: At = "after") -> Read:
    """Entropy of each query's attention in nats; ``[B, Hq, Sq]``."""
    return _read("entropy", as_, at)


def distance(*, signed: bool = False, as_: str | None = None, at: At = "after") -> Read:
    """Mean ``|i - j|`` (``signed``: ``i - j``) in tokens; ``[B, Hq, Sq]``."""
    return _read("distance_signed" if signed else "distance", as_, at)


def received(*, as_: str | None = None, at: At = "after") -> Read:
    """Attention that each key receives, summed over the queries; ``[B, Hq, Sk]``."""
    return _read("received", as_, at)


def block_map(n: int, *, as_: str | None = None, at: At = "after") -> Read:
    """Attention pooled into ``n`` blocks of queries by ``n`` blocks of keys; ``[B, Hq, n, n]``.

    Entry ``[a, b]`` is the mass on key block ``b``, averaged over the queries of block ``a`` that
    see anything (0 where there is none). Block ``a`` of ``n`` over ``S`` positions is
    ``[ceil(a S / n), ceil((a + 1) S / n))``.
    """
    return _read("block_map", as_, at, size=_count("block_map(n)", n))


def rows(index: Sequence[int] | Tensor | int, *, as_: str | None = None, at: At = "after") -> Read:
    """The rows of ``P`` of the given queries (negative: from the end); ``[B, Hq, len, Sk]``."""
    given = index.flatten().tolist() if isinstance(index, Tensor) else index
    given = [given] if isinstance(given, Integral) else given
    if not isinstance(given, Iterable) or isinstance(given, str) or not (found := tuple(given)):
        raise FoveateError(f"rows(index) takes one or more whole numbers; {index!r} was given.")
    if not all(isinstance(i, Integral) and not isinstance(i, bool) for i in found):
        raise FoveateError(f"rows(index) takes one or more whole numbers; {index!r} was given.")
    return _read("rows", as_, at, index=tuple(int(i) for i in found))


def top(k: int, *, as_: str | None = None, at: At = "after") -> Read:
    """The ``k`` most attended keys of a query: ``top.values``, ``top.indices`` ``[B,Hq,Sq,k]``."""
    return _read("top", as_, at, size=_count("top(k)", k))


def max(*, as_: str | None = None, at: At = "after") -> Read:
    """The largest probability of each row; ``[B, Hq, Sq]``."""
    return _read("max", as_, at)


def block_ids(size: int, n: int, device: torch.device) -> Tensor:
    """The block of each position, int64 ``[size]``."""
    return torch.arange(size, device=device) * n // size
