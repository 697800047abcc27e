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

__all__ = ["Documents", "described"]

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


def described(
    own: str | None, mask: Any, options: Mapping[str, Any], queries: Tensor, keys: Tensor
) -> tuple[Any, str | None]:
    """A call's mask with what the call is told of documents beside it.

    Parameters
    ----------
    own : str or None
        The model's own attention implementation.
    mask : MaskInfo, Tensor or None
        What the module was given as its attention mask.
    options : mapping
        What the module passes to its attention function.
    queries, keys : Tensor
        ``[B, H, S, D]``.

    Returns
    -------
    mask : object
    why : str or None
        Why the documents cannot be read; None where they can, or where there are none.
    """
    from .masks import MaskInfo

    flash = own is not None and "flash" in own
    borders = options.get("cu_seq_lens_q")
    if borders is None and not flash:
        return mask, None
    if not isinstance(mask, MaskInfo):
        # whoever prepares a mask for sdpa or eager attention has said all there in the mask
        said = borders is None or (isinstance(mask, Tensor) and not flash)
        return mask, None if said else "the call has no mask that it could be read into"
    source = borders if borders is not None else options.get("position_ids")
    if mask.told is None or mask.told[0] is not source:
        padded = flash and mask.original is not None
        sizes = queries.shape[0], queries.shape[2], keys.shape[2]
        mask.told = source, _told(options, flash, padded, *sizes)
    found = mask.told[1]
    if isinstance(found, str) or found is None:
        return mask, found
    if flash:
        return mask.within(found), None
    if found.agrees(mask.rule.documents):
        return mask, None
    return mask, (
        f"the model runs on {own or 'eager'} attention, which does not heed it, and its mask lets "
        "each document see those before (transformers looks for documents where position_ids "
        "begin anew with each, there is no attention_mask, and use_cache=False)"
    )


def _told(
    options: Mapping[str, Any], flash: bool, padded: bool, rows: int, queries: int, keys: int
) -> Documents | str | None:
    """The documents of a call; a string says why they cannot be read."""
    given = [name for name in _BORDERS if options.get(name) is not None]
    if "cu_seq_lens_q" not in given:
        positions = options.get("position_ids")
        alone = not padded and rows == 1 and queries > 1 and queries == keys
        if not alone or not isinstance(positions, Tensor) or positions.shape != (1, queries):
            return None
        found = Documents.beginning(positions)
        return None if found.agrees(None) else found
    if padded:
        return "there is a padding mask besides, which its flash kernel heeds instead"
    if flash and len(given) < len(_BORDERS):
        missing = ", ".join(name for name in _BORDERS if name not in given)
        return f"its flash kernel heeds it only together with {missing}"
    q_borders = options["cu_seq_lens_q"]
    k_borders = options.get("cu_seq_lens_k")
    k_borders = q_borders if k_borders is None else k_borders
    if not isinstance(q_borders, Tensor) or not isinstance(k_borders, Tensor):
        return f"it is a {type(q_borders).__name__}, not a tensor"
    if q_borders.shape != k_borders.shape or bool((q_borders != k_borders).any()):
        return "cu_seq_lens_k cuts the keys at other places than the queries"
    documents = Documents.between(q_borders.flatten(), rows)
    if documents is None or documents.ids.shape[1] != queries or queries != keys:
        return (
            f"its borders, {q_borders.flatten().tolist()[:8]}, do not cover {rows} row(s) of "
            f"{queries} queries and {keys} keys from 0 to the end, without a cache"
        )
    return documents
