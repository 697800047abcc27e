"""A prompt's tokens with their marks, for a notebook; everything of the prompt is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..display import COLOURS, chip, folded, lines, note
from .rows import BUILT_IN

if TYPE_CHECKING:
    from .prompt import Prompt

__all__ = ["drawn", "stretches"]

_OPEN = 4  # items of a batch shown open
_LONG, _KEPT = 160, 40  # tokens without a mark that are folded; shown at both ends of the gap
_MOST = 2000  # tokens of one fold that go into the page


def drawn(prompt: Prompt) -> str:
    """HTML of the prompt.

    Long stretches without a mark are folded, and so are the items of a batch after the fourth.
    """
    regions = prompt.regions
    marks = [name for name in regions if name not in BUILT_IN]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(marks)}
    masks = {name: region.cpu() for name, region in regions.items()}
    legend = [chip(f"{name} ({int(masks[name].sum())})", colours[name]) for name in marks]
    size = f"{prompt.batch_size} × {prompt.length}" if prompt.batch_size > 1 else str(prompt.length)
    head = f"{size} tokens; hover over one for its position, id and regions"
    rows = prompt.token_rows
    items = [_item(prompt, number, rows[number], masks, colours) for number in range(len(rows))]
    if len(items) > 1:
        names = (
            f"item {number} · {len(one.ids)} tokens"
            for number, one in enumerate(prompt._rows.items)
        )
        items = [
            folded(name, item, shown=number < _OPEN)
            for number, (name, item) in enumerate(zip(names, items, strict=True))
        ]
    return lines(note(head), f"<div>{''.join(legend)}</div>" if legend else "", *items)


def _item(
    prompt: Prompt,
    number: int,
    row: list[str],
    masks: Mapping[str, Tensor],
    colours: Mapping[str, str],
) -> str:
    own = prompt._rows.slice(number)
    ids = prompt.inputs["input_ids"][number].tolist()
    marked = torch.zeros(prompt.length, dtype=torch.bool)
    names: list[list[str]] = [[] for _ in range(prompt.length)]
    for name, mask in masks.items():
        for position in mask[number].nonzero().flatten().tolist():
            names[position].append(name)
        if name in colours:
            marked |= mask[number]

    def token(position: int) -> str:
        inside = names[position]
        title = f"{position} · id {ids[position]} · {', '.join(inside) or '–'}"
        style = _background([colours[name] for name in inside if name in colours])
        style += "opacity:.5" if "special" in inside else ""
        shown = html.escape(row[position]).replace("\n", "↵\n")
        return f'<span style="{style}" title="{html.escape(title)}">{shown}</span>'

    parts = ['<div style="white-space:pre-wrap;overflow-wrap:anywhere;font-family:monospace;'
             'line-height:1.8;margin:.4em 0">']  # fmt: skip
    for start, stop, hidden in stretches(marked.tolist(), own.start, own.stop):
        body = "".join(map(token, range(start, min(stop, start + _MOST) if hidden else stop)))
        if hidden and stop - start > _MOST:
            body += f" … and {stop - start - _MOST} more, not shown"
        if hidden:
            body = (
                '<details style="display:inline"><summary style="display:inline;cursor:pointer;'
                f'opacity:.7"> ⋯ {stop - start} tokens ⋯ </summary>{body}</details>'
            )
        parts.append(body)
    return "".join([*parts, "</div>"])


def stretches(marked: list[bool], start: int, stop: int) -> Iterator[tuple[int, int, bool]]:
    """``(from, to, folded)``: all tokens in order; what is far from any mark is folded."""
    shown = start
    edges = [start, *(i for i in range(start, stop) if marked[i]), stop - 1]
    for before, after in pairwise(edges):
        if after - before > _LONG:
            yield shown, before + _KEPT, False
            yield before + _KEPT, after - _KEPT, True
            shown = after - _KEPT
    yield shown, stop, False


def _background(colours: list[str]) -> str:
    """One colour, or as many stripes as a token has marks."""
    if len(colours) < 2:
        return f"background:{colours[0]};" if colours else ""
    bands = [
        f"{colour} {100 * i // len(colours)}% {100 * (i + 1) // len(colours)}%"
        for i, colour in enumerate(colours)
    ]
    return f"background:linear-gradient({','.join(bands)});"
