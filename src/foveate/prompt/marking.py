"""What a mark takes in: of one item, by text, characters, tokens or a box in a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import FoveateError
from ..grid import Grid
from .item import Item, Span
from .rows import Rows
from .text import brief, find, nearest, short

__all__ = ["by_box", "by_characters", "by_text", "by_tokens"]


def by_tokens(rows: Rows, number: int, tokens: Span) -> Tensor:
    """Tokens ``i <= t < j`` of the padded row: bool ``[S]``."""
    i, j = _pair("tokens", tokens, rows.length, "tokens", rows.of(number))
    own = rows.slice(number)
    if i < own.start or j > own.stop:
        raise FoveateError(
            f"tokens=({i}, {j}) reaches into the padding: the tokens{rows.of(number)} stand "
            f"at {own.start} to {own.stop}. Mark one item at a time with item=."
        )
    row = torch.zeros(rows.length, dtype=torch.bool)
    row[i:j] = True
    return row


def by_characters(rows: Rows, number: int, span: Span) -> Tensor:
    """The tokens of characters ``a <= c < b``: bool ``[S]``."""
    size = len(rows.items[number].text)
    return _inside(rows, number, [_pair("span", span, size, "characters", rows.of(number))])


def by_text(rows: Rows, number: int, wanted: str, nth: int | None) -> Tensor:
    """The tokens of every occurrence, or of one of them: bool ``[S]``."""
    if not isinstance(wanted, str):
        raise FoveateError(
            f"mark() wants the text as a str, not {type(wanted).__name__}; use span= for "
            "characters and tokens= for tokens."
        )
    if not wanted:
        raise FoveateError("mark() got an empty text; give the piece of the prompt to mark.")
    text = rows.items[number].text
    found = list(find(text, wanted))
    if not found:
        hint = " Choose one with item=." if len(rows.items) > 1 else ""
        raise FoveateError(
            f"The text {short(wanted)!r} does not occur in the prompt{rows.of(number)}; the "
            f"nearest piece is {short(nearest(_told(rows.items[number]), wanted))!r}.{hint}"
        )
    if nth is not None:
        if isinstance(nth, bool) or not isinstance(nth, int):
            raise FoveateError(f"nth={brief(nth)}, but it is an int: 0 is the first occurrence.")
        if not -len(found) <= nth < len(found):
            raise FoveateError(
                f"nth={nth}, but {short(wanted)!r} occurs {len(found)} time(s){rows.of(number)}: "
                f"nth is {-len(found)} to {len(found) - 1}."
            )
        found = [found[nth]]
    return _inside(rows, number, found)


def by_box(
    rows: Rows, number: int, box: Sequence[float], picture: int, grids: Sequence[Grid]
) -> Tensor:
    """The tokens of a part of one of the item's pictures: bool ``[S]``."""
    own = [grid for grid in grids if grid.item == number]
    whole = not isinstance(picture, bool) and isinstance(picture, int)
    if not whole or not -len(own) <= picture < len(own):
        raise FoveateError(
            f"picture={brief(picture)}, but there are {len(own)} picture(s){rows.of(number)}, "
            "counted from 0."
        )
    row = torch.zeros(rows.length, dtype=torch.bool)
    grid = own[picture]
    for view in (grid, grid.overview):
        if view is not None:
            row[torch.tensor(view.places)[view.mask(box)]] = True
    return row


def _inside(rows: Rows, number: int, spans: list[Span]) -> Tensor:
    item = rows.items[number]
    inside = item.inside(spans)
    if not inside.any():
        a, b = spans[0]
        raise FoveateError(
            f"Characters {a} to {b} of the text{rows.of(number)}, {brief(item.text[a:b])}, "
            "belong to no token of their own; take in the word beside them."
        )
    return rows.row(number, inside)


def _told(item: Item) -> str:
    """The item's text without the walls of one token by which a processor stands for a picture."""
    ids = torch.tensor(item.ids)
    alike = ids[1:] == ids[:-1]
    edge = torch.zeros(1, dtype=torch.bool)
    wall = item.special & (torch.cat([edge, alike]) | torch.cat([alike, edge]))
    left = list(item.text)
    for a, b in zip(item.starts[wall].tolist(), item.ends[wall].tolist(), strict=True):
        left[a:b] = ["\0"] * (b - a)
    return re.sub("\0+", " ", "".join(left)).strip() or item.text


def _pair(label: str, given: Any, size: int, unit: str, of: str) -> Span:
    whole = isinstance(given, Sequence) and len(given) == 2
    if not whole or any(isinstance(one, bool) or not isinstance(one, int) for one in given):
        raise FoveateError(f"{label}={brief(given)}, but it is a pair of ints (from, to).")
    a, b = given
    if not 0 <= a < b <= size:
        raise FoveateError(
            f"{label}=({a}, {b}) does not fit: there are {size} {unit}{of}, so "
            f"0 <= from < to <= {size}."
        )
    return a, b
