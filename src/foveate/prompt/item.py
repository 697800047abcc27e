"""One text with its tokens, before padding, and the pictures that stand in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

__all__ = ["Item", "Shown", "Span"]

Span = tuple[int, int]


@dataclass(frozen=True)
class Shown:
    """One picture among the tokens."""

    processor: Any
    item: int
    text: str  # what the processor put in its place
    places: tuple[int, ...]  # of its tokens in the padded row
    starts: tuple[int, ...]  # of these tokens in that text


@dataclass(frozen=True)
class Item:
    """One text with its tokens, before padding."""

    text: str
    ids: list[int]
    starts: Tensor  # [n] first character of each token
    ends: Tensor  # [n] one past the last; equal to the start for tokens the tokenizer added
    ink: Tensor  # [chars + 1] how many characters before this one are not white space
    special: Tensor  # [n] bool
    roles: dict[str, list[Span]]  # characters of the messages' contents

    @classmethod
    def tokenized(
        cls, tokenizer: Any, text: str, roles: dict[str, list[Span]], add_special_tokens: bool
    ) -> Item:
        encoded = tokenizer(
            text, add_special_tokens=add_special_tokens, return_offsets_mapping=True
        )
        ids = list(encoded["input_ids"])
        offsets = torch.tensor(encoded["offset_mapping"], dtype=torch.long).reshape(-1, 2)
        ink = torch.tensor([0, *accumulate(not char.isspace() for char in text)])
        special_ids, unknown = _special_ids(tokenizer), tokenizer.unk_token_id
        special = [
            # A word the tokenizer does not know is content; the same token written out is not.
            token in special_ids
            and (token != unknown or a == b or text[a:b] == tokenizer.unk_token)
            for token, (a, b) in zip(ids, offsets.tolist(), strict=True)
        ]
        starts, ends = offsets.unbind(1)
        return cls(text, ids, starts, ends, ink, torch.tensor(special, dtype=torch.bool), roles)

    def inside(self, spans: Sequence[Span]) -> Tensor:
        """Which tokens lie in any of the spans: bool ``[n]`` (rule: head of the package)."""
        inside = torch.zeros(len(self.ids), dtype=torch.bool)
        blank = self.ink[self.ends] == self.ink[self.starts]
        for a, b in spans:
            low, high = self.starts.clamp(min=a), self.ends.clamp(max=b)
            overlaps = low < high
            low, high = torch.where(overlaps, low, 0), torch.where(overlaps, high, 0)
            inside |= overlaps & (blank | (self.ink[high] > self.ink[low]))
        return inside

    def strings(self, tokenizer: Any) -> list[str]:
        pieces = tokenizer.convert_ids_to_tokens(self.ids)
        strings, done = [], 0
        for piece, a, b in zip(pieces, self.starts.tolist(), self.ends.tolist(), strict=True):
            if b <= max(a, done):  # covers nothing, or the rest of a character already shown
                strings.append(piece)
                continue
            # Some tokenizers leave the blank between two words to neither: show it with the second.
            start = done if a < done or self.text[done:a].isspace() else a
            strings.append(self.text[start:b])
            done = b
        return strings


def _special_ids(tokenizer: Any) -> set[int]:
    # Headers such as <|start_header_id|> are special tokens without being bos, eos and the like.
    added = getattr(tokenizer, "added_tokens_decoder", {})
    also = {number for number, token in added.items() if getattr(token, "special", False)}
    return set(tokenizer.all_special_ids) | also
