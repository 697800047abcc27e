"""Items as the padded rows of a batch: where each one's tokens stand, and the regions it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import FoveateError
from .given import ROLES
from .item import Item, Shown
from .text import brief

__all__ = ["BUILT_IN", "IMAGE", "Rows"]

BUILT_IN = (*ROLES, "special", "first", "generated")
"""Regions that every prompt has."""
IMAGE = "image"
"""The region of the pictures' tokens: of prompts with pictures."""


@dataclass(frozen=True)
class Rows:
    """Items padded on one side to the longest of them.

    Attributes
    ----------
    items : tuple of Item
        At least one.
    side : {"left", "right"}
        Where the padding is.
    """

    items: tuple[Item, ...]
    side: str

    @cached_property
    def length(self) -> int:
        """Tokens in a row, padding included."""
        return max(len(item.ids) for item in self.items)

    def slice(self, number: int) -> slice:
        """Where an item's own tokens stand in its padded row."""
        size = len(self.items[number].ids)
        start = self.length - size if self.side == "left" else 0
        return slice(start, start + size)

    def row(self, number: int, inside: Tensor) -> Tensor:
        """A bool over an item's own tokens ``[n]``, placed in its padded row ``[S]``."""
        row = torch.zeros(self.length, dtype=torch.bool)
        row[self.slice(number)] = inside
        return row

    def nowhere(self) -> Tensor:
        """A region without tokens: bool ``[B, S]``."""
        return torch.zeros(len(self.items), self.length, dtype=torch.bool)

    def inputs(self, tokenizer: Any) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, int64 ``[B, S]``."""
        # Which id fills the gap does not matter, since the mask hides it: GPT-2 has none.
        candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        filler = next(token for token in candidates if token is not None)
        ids = torch.full((len(self.items), self.length), filler, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, item in enumerate(self.items):
            ids[number, self.slice(number)] = torch.tensor(item.ids)
            mask[number, self.slice(number)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def built_in(self, pictures: Sequence[Shown]) -> dict[str, Tensor]:
        """The regions that are there unasked, by name: bool ``[B, S]``."""
        regions = {
            role: torch.stack(
                [
                    self.row(number, item.inside(item.roles.get(role, ())))
                    for number, item in enumerate(self.items)
                ]
            )
            for role in ROLES
        }
        special = [self.row(number, item.special) for number, item in enumerate(self.items)]
        regions["special"] = torch.stack(special)
        if pictures:
            seen = self.nowhere()
            for shown in pictures:
                seen[shown.item, list(shown.places)] = True
            regions["special"] &= ~seen
            regions[IMAGE] = seen
        first = self.nowhere()
        for number in range(len(self.items)):
            first[number, self.slice(number).start] = True
        regions["first"] = first
        regions["generated"] = torch.zeros_like(first)
        return regions

    def only(self, singular: str, plural: str) -> int:
        """The number of the only item; refused for a batch."""
        if len(self.items) > 1:
            raise FoveateError(
                f"This prompt has {len(self.items)} items, and .{singular} is for one; "
                f"use .{plural}."
            )
        return 0

    def numbers(self, item: int | None) -> list[int]:
        """The numbers of the items that are meant: all of them for None."""
        count = len(self.items)
        if item is None:
            return list(range(count))
        if isinstance(item, bool) or not isinstance(item, int):
            raise FoveateError(f"item={brief(item)}, but it is an int: the number of an item.")
        if not -count <= item < count:
            raise FoveateError(f"item={item}, but the prompt has {count} item(s), counted from 0.")
        return [item % count]

    def of(self, number: int) -> str:
        """An item's name within a sentence, where there are several."""
        return f" of item {number}" if len(self.items) > 1 else ""
