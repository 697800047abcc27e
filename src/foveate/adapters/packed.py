"""Packed sequences: several documents in one row, none of which sees another.

transformers tells of them in two ways. Its masks are made of the ``position_ids``, which begin anew
with each document. Flash kernels get the borders beside the mask (``cu_seq_lens_q``), or read the
positions themselves; sdpa and eager attention read neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

__all__ = ["Documents", "told"]

_BORDERS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


class Documents:
    """Which document each token of a row belongs to.

    Parameters
    ----------
    ids : Tensor
        Integers ``[B, S]`` that never fall along a row, one number a document.
    """

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    @classmethod
    def between(cls, borders: Tensor, rows: int) -> Documents | None:
        """From the borders ``0, n_1, n_1 + n_2, …`` of documents end to end over ``rows`` rows.

        None where they do not cover whole rows.
        """
        total = int(borders[-1])
        lengths = borders.diff()
        if (
            rows < 1
            or int(borders[0]) != 0
            or total < 1
            or total % rows
            or bool((lengths < 0).any())
        ):
            return None
        ids = torch.repeat_interleave(
            torch.arange(len(lengths), device=borders.device), lengths.long()
        )
        ids = ids.reshape(rows, -1)
        return None if bool((ids[1:, 0] == ids[:-1, -1]).any()) else cls(ids)

    @classmethod
    def beginning(cls, position_ids: Tensor) -> Documents:
        """From positions ``[B, S]`` that begin anew with each document, as flash kernels do."""
        return cls((position_ids == position_ids.min()).cumsum(-1))

    def same(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Whether query and key lie in one document: a mask function in transformers' sense."""
        return self.ids[batch, query] == self.ids[batch, key]

    @property
    def starts(self) -> Tensor:
        """Where the document of each token begins, ``[B, S]``."""
        at = torch.arange(self.ids.shape[1], device=self.ids.device)
        begins = torch.ones_like(self.ids, dtype=torch.bool)
        begins[:, 1:] = self.ids.diff(dim=-1) != 0
        return torch.where(begins, at, 0).cummax(-1).values

    @cached_property
    def reach(self) -> tuple[list[int], list[int]]:
        """First and last key (excluded) of the document of each token, over all rows."""
        last = self.ids.shape[1] - Documents(-self.ids.flip(-1)).starts.flip(-1)
        return self.starts.amin(0).tolist(), last.amax(0).tolist()

    def key_range(self, start: int, stop: int) -> tuple[int, int]:
        """The keys that any of the tokens ``start … stop`` may see."""
        first, last = self.reach
        if start >= len(first) or stop <= start:
            return 0, 0
        return first[max(start, 0)], last[min(stop, len(last)) - 1]

    def agrees(self, other: Documents | None) -> bool:
        """Whether both cut the rows at the same places."""
        if self.ids is getattr(other, "ids", None):
            return True
        mine = self.ids.diff(dim=-1) != 0
        if other is None:
            return not bool(mine.any())
        theirs = other.ids.to(mine.device).diff(dim=-1) != 0
        return mine.shape[1] == theirs.shape[1] and bool((mine == theirs).all())

    def follow(self, position_ids: Tensor) -> bool:
        """Whether positions rise by one from token to token within each document."""
        steps = position_ids.to(self.ids.device).diff(dim=-1) == 1
        return bool((steps | (self.ids.diff(dim=-1) != 0)).all())


def told(
    own: str | None, options: Mapping[str, Any], padded: bool, rows: int, queries: int, keys: int
) -> Documents | str | None:
    """What a call is told of documents beside its mask.

    Parameters
    ----------
    own : str or None
        The model's own attention implementation.
    options : mapping
        What the module passes to its attention function.
    padded : bool
        Whether there is a padding mask too.
    rows, queries, keys : int
        The batch size and the lengths of the call.

    Returns
    -------
    Documents, str or None
        A string says why the call cannot be read.
    """
    given = [name for name in _BORDERS if options.get(name) is not None]
    flash = own is not None and "flash" in own
    if not given:
        positions = options.get("position_ids")
        if not flash or padded or rows != 1 or queries == 1 or queries != keys:
            return None
        if not isinstance(positions, Tensor) or positions.shape != (1, queries):
            return None
        found = Documents.beginning(positions)
        return None if found.agrees(None) else found
    if flash and padded:
        return "a padding mask besides (its flash kernel heeds that one alone)"
    if flash and len(given) < len(_BORDERS):
        missing = ", ".join(name for name in _BORDERS if name not in given)
        return f"no {missing} (its flash kernel heeds them only together)"
    q_borders = options.get("cu_seq_lens_q")
    k_borders = options.get("cu_seq_lens_k", q_borders)
    if not isinstance(q_borders, Tensor) or not isinstance(k_borders, Tensor):
        return f"cu_seq_lens_q of type {type(q_borders).__name__}, not a tensor"
    if q_borders.shape != k_borders.shape or bool((q_borders != k_borders).any()):
        return "queries and keys cut at different places (cu_seq_lens_q and cu_seq_lens_k differ)"
    documents = Documents.between(q_borders.flatten(), rows)
    if documents is None or documents.ids.shape[1] != queries or queries != keys:
        return (
            f"borders up to {int(q_borders[-1])} for {rows} row(s) of {queries} queries and {keys} "
            "keys (they must cover whole rows, from 0, and there must be no cache)"
        )
    return documents
