"""Patterns: who may look at whom, as values that combine with ``&``, ``|`` and ``~``.

A pattern is a predicate on pairs of positions. It is asked about tiles, never about the whole
matrix; :meth:`Pattern.mask` writes the matrix out where it is small enough to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import FoveateError

if TYPE_CHECKING:
    from .cost import Cost
    from .machine import Machine
    from .plot import Picture

__all__ = ["Pattern"]

_ROWS = 1024  # queries looked at together where the whole of a pattern is counted


class Pattern:
    """Who may look at whom: the base of all patterns.

    A subclass says :meth:`sees`; where it can, :meth:`key_range` and :attr:`heads` too. Positions
    are key indices of a call (query row ``r`` of a call stands at ``r + q_offset``), or, attached
    to a live model, absolute token positions counted from the first token that is no padding.

    Attributes
    ----------
    heads : int or None
        How many heads it tells apart; None where all see the same.
    items : int or None
        How many batch items it tells apart.
    """

    heads: int | None = None
    items: int | None = None
    routed = False

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        """Whether positions ``q`` see positions ``k``: int64 tensors that broadcast → bool.

        ``head`` counts the query heads; None where :attr:`heads` is None.
        """
        raise NotImplementedError

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        """A half-open range of keys outside which queries ``q_start … q_stop - 1`` see nothing."""
        return 0, keys

    def key_ranges(self, q_start: int, q_stop: int, keys: int) -> list[tuple[int, int]]:
        """The same in several ranges, ascending and apart: what lies between is not looked at."""
        return [self.key_range(q_start, q_stop, keys)]

    def tiling(self, size: int, queries: int, q_offset: int) -> Tensor | None:
        """Which queries to take together, int64 ``[blocks, about size]``; None: as they come."""
        return None

    def on(self, item: int, head: int) -> Pattern:
        """What one head of one batch item sees: a pattern that tells nothing apart."""
        from ._algebra import OneHead

        return self if self.heads is None else OneHead(self, head)

    def moved(self, by: int | Tensor) -> Pattern:
        """The same with ``by`` (int, or int64 ``[B]``) added to a call's positions."""
        from ._algebra import Moved

        return Moved(self, by)

    def route(
        self, q: Tensor, k: Tensor, *, causal: bool = False, q_offset: int | None = None,
        scale: float | None = None, visible: Tensor | None = None,
    ) -> Pattern:  # fmt: skip
        """The pattern of one call: itself, where it does not look at the content."""
        return self

    def parts(self) -> list[Pattern]:
        """What it is combined of; itself where it is one."""
        of = [getattr(self, name, None) for name in ("left", "right", "of")]
        found = [one for part in of if isinstance(part, Pattern) for one in part.parts()]
        return found or [self]

    def fits(self, queries: int, keys: int, q_offset: int, causal: bool = True) -> None:
        """Raise a FoveateError where a call of these sizes has no meaning under the pattern."""
        for name in ("left", "right", "of"):  # what it is combined of
            part = getattr(self, name, None)
            if isinstance(part, Pattern):
                part.fits(queries, keys, q_offset, causal)

    def _sizes(self, Sq: Any, Sk: Any, q_offset: Any) -> tuple[int, int, int]:
        found = sizes(Sq, Sk, q_offset)
        self.fits(*found)
        return found

    # -- the engine's protocol -------------------------------------------------------------------
    def tile(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """Visibility of ``q_pos [m]`` by ``k_pos [n]``: bool ``[m, n]``, or ``[heads, m, n]``."""
        head = None
        if self.heads is not None:
            head = torch.arange(self.heads, device=q_pos.device)[:, None, None]
        return self.sees(q_pos[:, None], k_pos[None, :], head)

    def visible(self, batch: Tensor, head: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """The same for one pair, as FlexAttention asks."""
        return self.sees(q_pos, k_pos, head)

    # -- composing -------------------------------------------------------------------------------
    def __and__(self, other: object) -> Pattern:
        from ._algebra import And

        return And(self, _pattern(other, "&"))

    def __or__(self, other: object) -> Pattern:
        from ._algebra import Or

        return Or(self, _pattern(other, "|"))

    def __invert__(self) -> Pattern:
        from ._algebra import Not

        return Not(self)

    # -- looking at it ---------------------------------------------------------------------------
    def mask(self, Sq: int, Sk: int | None = None, q_offset: int | None = None) -> Tensor:
        """The whole matrix, True where a key is seen: bool ``[Sq, Sk]`` or ``[heads, Sq, Sk]``.

        ``Sk`` defaults to ``Sq`` and ``q_offset`` to ``Sk - Sq`` (last query on last key).
        """
        Sq, Sk, offset = self._sizes(Sq, Sk, q_offset)
        return self.tile(torch.arange(Sq) + offset, torch.arange(Sk)).expand(
            *(() if self.heads is None else (self.heads,)), Sq, Sk
        )

    def density(self, Sq: int, Sk: int | None = None, q_offset: int | None = None) -> float:
        """The share of the ``Sq × Sk`` pairs that is seen (a causal triangle has about a half)."""
        Sq, Sk, offset = self._sizes(Sq, Sk, q_offset)
        seen = 0
        for start in range(0, Sq, _ROWS):
            stop = min(start + _ROWS, Sq)
            low, high = self.key_range(start + offset, stop + offset, Sk)
            if low < high:
                seen += int(
                    self.tile(torch.arange(start, stop) + offset, torch.arange(low, high)).sum()
                )
        return seen / (Sq * Sk * (self.heads or 1))

    def blocks(
        self, size: int, Sq: int | None = None, Sk: int | None = None, q_offset: int | None = None
    ) -> Tensor:
        """Blocks of ``size × size`` pairs: 0 nothing is seen, 1 a part, 2 everything.

        int8 ``[ceil(Sq / size), ceil(Sk / size)]``, with the heads in front where they differ.
        ``Sq`` may be left out of what :meth:`route` chose, which has one size.
        """
        Sq, Sk, offset = self._sizes(Sq, Sk, q_offset)
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise FoveateError(f"blocks(size) takes a whole number of at least 1; {size!r} given.")
        columns = -(-Sk // size)
        rows = []
        for start in range(0, Sq, size):
            stop = min(start + size, Sq)
            tile = self.tile(torch.arange(start, stop) + offset, torch.arange(Sk))
            tile = tile.expand(*tile.shape[:-2], stop - start, Sk)
            missing = columns * size - Sk
            some = torch.nn.functional.pad(tile, (0, missing)).unflatten(-1, (columns, size))
            every = torch.nn.functional.pad(tile, (0, missing), value=True)
            full = every.unflatten(-1, (columns, size)).all(-1).all(-2)
            rows.append(some.any(-1).any(-2).to(torch.int8) + full.to(torch.int8))
        return torch.stack(rows, -2)

    # -- elsewhere -------------------------------------------------------------------------------
    def mask_mod(self, q_offset: int = 0) -> Callable[..., Tensor]:
        """The pattern as a mask function of torch's FlexAttention.

        ``(batch, head, q_idx, kv_idx) -> bool``, all scalar index tensors; ``q_offset`` is the key
        index of query 0. For ``create_block_mask``, or to combine with mask functions of others.

        Examples
        --------
        >>> import foveate as fv
        >>> from torch.nn.attention.flex_attention import create_block_mask
        >>> window = fv.SlidingWindow(256, sinks=4).mask_mod()
        >>> create_block_mask(window, None, None, 4096, 4096, device="cpu").sparsity() > 80
        True
        """
        from .flex import mask_mod

        return mask_mod(self, q_offset)

    def block_mask(
        self,
        Sq: int | None = None,
        Sk: int | None = None,
        q_offset: int | None = None,
        device: Any = "cpu",
    ) -> Any:
        """The pattern as torch's ``BlockMask`` of blocks of 128 × 128, for ``flex_attention``.

        Made tile by tile: the matrix, which torch's ``create_block_mask`` holds, is never there.
        Sizes as in :meth:`mask`; one head axis where the heads differ, else for any number.
        """
        from .flex import block_mask

        return block_mask(self, *self._sizes(Sq, Sk, q_offset), device)

    def plot(
        self,
        Sq: int | None = None,
        Sk: int | None = None,
        q_offset: int | None = None,
        *,
        grid: Sequence[int] | None = None,
        query: Any = None,
    ) -> Picture:
        """A picture: the matrix of who sees whom, or on a grid what single tokens see.

        Parameters
        ----------
        Sq, Sk, q_offset : int, optional
            As in :meth:`mask`; ``Sq`` defaults to a length at which the pattern shows what it is,
            on a grid to the grid's tokens. Long sequences are drawn in cells of several pairs.
        grid : sequence of int, optional
            Sides of the grid to draw on; default: the pattern's own, where it has one.
        query : int, tuple of int, or a list of these, optional
            Tokens of the grid whose keys are drawn; default: a corner, the middle, an edge.

        Returns
        -------
        Picture
            Shown by a notebook; ``.save("pattern.svg")`` (or ``.html``) writes it, ``.svg`` is it.

        Raises
        ------
        FoveateError
            Sizes that are no numbers of tokens, or a query that is not on the grid.
        """
        from .plot import plot

        return plot(self, Sq, Sk, q_offset, grid, query)

    def cost(
        self,
        Sq: int | None = None,
        Sk: int | None = None,
        q_offset: int | None = None,
        *,
        heads: int | None = None,
        kv_heads: int | None = None,
        head_dim: int = 64,
        dtype: torch.dtype = torch.float32,
        causal: bool | None = None,
        threads: int | None = None,
        machine: Machine | None = None,
    ) -> Cost:
        """Predict what attention under the pattern takes, against dense attention; nothing runs.

        Parameters
        ----------
        Sq, Sk, q_offset : int
            As in :meth:`mask`. ``Sq`` may be left out of what :meth:`route` chose.
        heads, kv_heads, head_dim : int
            Default: the heads that the pattern tells apart, or 8; as many keys; 64 features.
        causal : bool, optional
            Whether the call is causal: dense attention is then the triangle. Default: False for
            patterns on a grid and those made with ``causal=False``, as its call for what
            :meth:`route` chose, else True.
        threads : int, optional
            Default: as many as torch uses.
        machine : Machine, optional
            The machine's constants; default: those that ``foveate.patterns.calibrate`` kept, or
            documented ones.

        Returns
        -------
        Cost
            ``.seconds``, ``.dense_seconds``, ``.speedup``, ``.pairs``, ``.share``, ``.parts``; to
            print. What is done once a pattern and size (cutting it) is not in it.

        Raises
        ------
        FoveateError
            What is no size, head count, dtype or machine; heads that do not fit the pattern's.

        Examples
        --------
        >>> import foveate as fv
        >>> cost = fv.SlidingWindow(256, sinks=4).cost(8192, heads=9, threads=2)
        >>> cost.speedup > 2, cost.by
        (True, 'blocks')
        """
        from .cost import cost

        Sq, Sk, q_offset = self._sizes(Sq, Sk, q_offset)
        return cost(
            self, Sq, Sk, q_offset, heads=heads, kv_heads=kv_heads, head_dim=head_dim, dtype=dtype,
            causal=causal, threads=threads, on=machine,
        )  # fmt: skip

    def _repr_html_(self) -> str | None:
        try:
            return self.plot().svg
        except (FoveateError, NotImplementedError):  # what is chosen by content has no one picture
            return None


def sizes(Sq: Any, Sk: Any, q_offset: Any) -> tuple[int, int, int]:
    """Checked sizes, with what is left out filled in."""
    Sk = Sq if Sk is None else Sk
    for name, value in (("Sq", Sq), ("Sk", Sk)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise FoveateError(
                f"{name}={value!r} was given; a number of tokens (at least 1) was wanted."
            )
    offset = Sk - Sq if q_offset is None else q_offset
    if not isinstance(offset, int) or isinstance(offset, bool):
        raise FoveateError(
            f"q_offset={q_offset!r} was given; the key index of query 0 was wanted, a whole number."
        )
    return Sq, Sk, offset


def whole(who: str, name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise FoveateError(
            f"{who}({name}={value!r}): a whole number of at least {least} was wanted."
        )
    return value


def truth(who: str, name: str, value: Any) -> bool:
    """True or False, and nothing that is merely taken for it."""
    if not isinstance(value, bool):
        raise FoveateError(f"{who}({name}={value!r}): True or False was wanted.")
    return value


def several(who: str, name: str, given: Any, wanted: str) -> tuple[int, ...]:
    """Whole numbers of at least 1, one or more."""
    given = given.tolist() if isinstance(given, Tensor) else given
    values = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else ()
    if not values:
        raise FoveateError(f"{who}({name}={given!r}): {wanted} was wanted.")
    return tuple(whole(who, name, value) for value in values)


def _pattern(other: object, operator: str) -> Pattern:
    if not isinstance(other, Pattern):
        given, hint = f"a {type(other).__name__}", ""
        if isinstance(other, type):
            given, hint = f"the class {other.__name__}", f" Give an object: {other.__name__}(…)."
        raise FoveateError(
            f"A pattern {operator} {given} was given; patterns combine with "
            f"patterns: fv.SlidingWindow(256) | fv.patterns.Dilated(64, 16).{hint}"
        )
    return other


def joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in order, those that touch made one."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if low >= high:
            continue
        if found and low <= found[-1][1]:
            found[-1] = found[-1][0], max(high, found[-1][1])
        else:
            found.append((low, high))
    return found
