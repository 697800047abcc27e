"""Patterns chosen by content: who sees whom is known once the queries and keys are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..engine.backends.pieces import Pieces, Selected
from ..errors import FoveateError
from ._base import Pattern, sizes

__all__ = ["Pieces", "Routed", "Selection"]

_HELD = 4_000_000  # pairs of a call up to which its matrix is kept


class Routed(Pattern):
    """The base of patterns that look at a call's queries and keys: a subclass says :meth:`choose`.

    ``fv.attention(pattern=...)`` and ``fv.attach`` take it like any other. Combined by ``&``, ``|``
    or ``~``, or given some heads only, it runs on tiles of scores: right, and no faster than dense.
    """

    routed = True

    def choose(
        self, q: Tensor, k: Tensor, *, causal: bool, q_offset: int, scale: float,
        visible: Tensor | None = None,
    ) -> Selection:  # fmt: skip
        """What a subclass says: :meth:`route` with nothing left out."""
        raise NotImplementedError

    def route(
        self, q: Tensor, k: Tensor, *, causal: bool = False, q_offset: int | None = None,
        scale: float | None = None, visible: Tensor | None = None,
    ) -> Selection:  # fmt: skip
        """Who sees whom in this call; what is left out is as in ``fv.attention``.

        Parameters
        ----------
        q, k : Tensor
            ``[B, Hq, Sq, D]`` and ``[B, Hkv, Sk, D]``, behind the rotary embedding and the cache.
        causal : bool
            Query ``i`` sees key ``j`` only if ``j <= i + q_offset``.
        q_offset : int, optional
            The key index of query 0; default ``Sk - Sq`` (last query on last key).
        scale : float, optional
            What multiplies ``q · k``; default ``D ** -0.5``.
        visible : Tensor, optional
            Bool ``[B, Sk]``: the keys that are real, where some are not (padding).
        """
        q_offset = sizes(q.shape[2], k.shape[2], q_offset)[2]
        scale = q.shape[3] ** -0.5 if scale is None else scale
        return self.choose(q, k, causal=causal, q_offset=q_offset, scale=scale, visible=visible)

    def moved(self, by: int | Tensor) -> Pattern:
        """Itself: it goes by content, and is told which keys are real."""
        return self

    def sees(self, q: Tensor, k: Tensor, head: Tensor | None) -> Tensor:
        raise FoveateError(
            f"{self!r} looks at the content: it has no mask without queries and keys. "
            f"{type(self).__name__}.route(q, k, ...) gives the pattern of one call."
        )


class Selection(Pattern):
    """What was chosen for one call.

    Parameters
    ----------
    pieces : sequence of Pieces
    Sq, Sk : int
        The sizes of the call.
    causal, q_offset
        As the call's.
    """

    def __init__(
        self, pieces: Sequence[Pieces], Sq: int, Sk: int, *, causal: bool, q_offset: int
    ) -> None:
        self.pieces, self.Sq, self.Sk = tuple(pieces), Sq, Sk
        self.causal, self.q_offset = causal, q_offset

    def selected(self) -> Selected:
        """For the executor."""
        return Selected(self.pieces, self.causal, self.q_offset)

    def _seen(self, piece: Pieces) -> int:
        leading = torch.broadcast_shapes(piece.rows.shape[:-1], piece.keys.shape[:-1])
        rows = piece.rows.expand(*leading, -1).flatten(0, -2)
        keys = piece.keys.expand(*leading, -1).flatten(0, -2)
        count = 0
        for r, u in zip(rows.split(256), keys.split(256), strict=True):
            inside = torch.arange(piece.unit, device=u.device)
            tokens = (u.unsqueeze(-1) * piece.unit + inside).flatten(1)
            there = ((u >= 0).repeat_interleave(piece.unit, 1)) & (tokens < self.Sk)
            if self.causal and not piece.past:
                ahead = tokens[:, None] > (r + self.q_offset)[:, :, None]
                count += int((there[:, None] & (r >= 0)[:, :, None] & ~ahead).sum())
            else:
                count += int(((r >= 0).sum(1) * there.sum(1)).sum())
        return count

    def _sizes(self, Sq: Any, Sk: Any, q_offset: Any) -> tuple[int, int, int]:
        own = self.Sq, self.Sk, self.q_offset
        for name, given, wanted in zip(
            ("Sq", "Sk", "q_offset"), (Sq, Sk, q_offset), own, strict=True
        ):
            if given is not None and (isinstance(given, bool) or given != wanted):
                raise FoveateError(
                    f"{name}={given!r} was given; this was chosen for a call of {self.Sq} × "
                    f"{self.Sk} at {self.q_offset} and has no other size: leave it out."
                )
        return own

    def mask(
        self, Sq: int | None = None, Sk: int | None = None, q_offset: int | None = None
    ) -> Tensor:
        """:meth:`matrix`: the sizes are the call's."""
        self._sizes(Sq, Sk, q_offset)
        return self.matrix()

    def density(
        self, Sq: int | None = None, Sk: int | None = None, q_offset: int | None = None
    ) -> float:
        """The share of the call's pairs that is seen, over its heads and batch items."""
        self._sizes(Sq, Sk, q_offset)
        seen = 0.0
        for piece in self.pieces:  # one that is not told apart counts for every head
            told = torch.broadcast_shapes(piece.rows.shape[:2], piece.keys.shape[:2])
            seen += self._seen(piece) / told.numel()
        return seen / (self.Sq * self.Sk)

    def matrix(self) -> Tensor:
        """Who sees whom, written out: bool ``[B|1, H|1, Sq, Sk]``."""
        return self._seen_by(torch.arange(self.Sq))

    def _told_apart(self) -> tuple[int, int]:
        """Batch items and heads: of what cannot be told apart, one."""
        index = [x for p in self.pieces for x in (p.rows, p.keys)]
        b, h = (max([1, *(x.shape[d] for x in index)]) for d in (0, 1))
        return b, h

    def _seen_by(self, rows: Tensor) -> Tensor:
        """What some rows of the call see, bool ``[B|1, H|1, rows, Sk]``."""
        device = self.pieces[0].rows.device if self.pieces else rows.device
        rows = rows.to(device)
        place = torch.full((self.Sq + 1,), -1, device=device)  # the last is for -1, no row
        place[rows] = torch.arange(len(rows), device=device)
        seen = torch.zeros(*self._told_apart(), len(rows), self.Sk, dtype=torch.bool, device=device)
        for piece in self.pieces:
            lead = torch.broadcast_shapes(piece.rows.shape[:2], piece.keys.shape[:2])
            at, keys = place[piece.rows].expand(*lead, -1, -1), piece.keys.expand(*lead, -1, -1)
            here = (at >= 0).any(-1)
            some = here.int().argsort(-1, descending=True)[..., : int(here.sum(-1).amax())]
            at, keys = (
                x.gather(2, some.unsqueeze(-1).expand(-1, -1, -1, x.shape[-1])) for x in (at, keys)
            )
            if piece.unit > 1:
                inside = torch.arange(piece.unit, device=keys.device)
                tokens = (keys.unsqueeze(-1) * piece.unit + inside).flatten(-2)
                keys = torch.where(tokens < self.Sk, tokens, -1)
            seen |= _hot(at, len(rows)).mT @ _hot(keys, self.Sk) > 0
        if self.causal:
            seen &= torch.arange(self.Sk, device=device) <= rows[:, None] + self.q_offset
        return seen

    def tile(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """Visibility, bool ``[B|1, H|1, m, n]``; positions past the call's are an error."""
        rows, keys = q_pos.cpu() - self.q_offset, k_pos.cpu()
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < self.Sq:
            raise FoveateError(
                f"{self!r} was asked about queries that its call, at {self.q_offset} … "
                f"{self.q_offset + self.Sq - 1}, does not have."
            )
        b, h = self._told_apart()
        if b * h * self.Sq * self.Sk > _HELD:
            each, of = rows.unique(return_inverse=True)
            seen = self._seen_by(each)
            seen = seen[:, :, of.to(seen.device)]
        else:
            if not hasattr(self, "_matrix"):
                self._matrix = self.matrix()
            seen = self._matrix[:, :, rows.to(self._matrix.device)]
        return seen[..., keys.to(seen.device)].to(q_pos.device)

    def __repr__(self) -> str:
        return f"Selection({len(self.pieces)} pieces of {self.Sq} × {self.Sk})"


def _hot(index: Tensor, size: int) -> Tensor:
    """``[..., n]`` to ``[..., size]``: 1 where an index stands, float."""
    found = torch.zeros(*index.shape[:-1], size + 1, device=index.device)
    return found.scatter_(-1, torch.where(index < 0, size, index), 1.0)[..., :size]
