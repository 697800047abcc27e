"""The small pictures of a notebook: tables, heat maps, lines, as pieces of HTML.

Self-contained: inline styles and SVG, no script, no style sheet, nothing from outside. Colours are
translucent and text takes the page's own colour, so that a piece reads on a light and on a dark
page, whatever a notebook calls its theme. What comes from a user is escaped here.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

from torch import Tensor

__all__ = [
    "COLOURS", "bar", "beside", "chip", "folded", "heat", "line", "lines", "note", "table"
]  # fmt: skip

ORANGE = "232,120,20"
# Of regions, in the order of their marking.
COLOURS = tuple(
    f"rgba({rgb},.35)"
    for rgb in ("255,176,0", "76,132,255", "54,179,126", "232,84,120", "150,95,214", "0,173,181")
)
_FONT = "font:13px/1.5 system-ui,'Segoe UI',Roboto,sans-serif"
_TIPS = 1200  # cells of a heat map up to which each says its number; beyond, they would weigh MBs
_LEVELS = 24
_POINTS = 300  # of a line


def lines(*parts: str) -> str:
    """Pieces below one another, in one block with the font of all."""
    return f'<div style="{_FONT};max-width:70em">{"".join(part for part in parts if part)}</div>'


def beside(*parts: str) -> str:
    """Pieces side by side, below one another where the page is narrow."""
    inside = "".join(f"<div>{part}</div>" for part in parts if part)
    return f'<div style="display:flex;flex-wrap:wrap;gap:0 2.5em;align-items:start">{inside}</div>'


def note(text: str) -> str:
    """A faint sentence."""
    return f'<div style="opacity:.7">{html.escape(text)}</div>'


def chip(text: str, colour: str) -> str:
    """A coloured name, for a legend."""
    style = f"background:{colour};padding:0 .5em;border-radius:.3em;margin-right:.6em"
    return f'<span style="{style};white-space:nowrap">{html.escape(text)}</span>'


def folded(summary: str, body: str, shown: bool = False) -> str:
    """A body of HTML behind a line of text that opens it."""
    return (
        f'<details style="margin:.3em 0"{" open" if shown else ""}>'
        f'<summary style="cursor:pointer">{html.escape(summary)}</summary>{body}</details>'
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table of texts: the first ``words`` columns to the left, the figures to the right.

    A cell that :func:`bar` made is taken as it is; all others are escaped.
    """

    def cells(tag: str, texts: Sequence[str], style: str) -> str:
        found = []
        for i, text in enumerate(texts):
            side = "left" if i < words else "right"
            shown = text if isinstance(text, _Html) else html.escape(str(text))
            found.append(
                f'<{tag} style="padding:.1em 1.2em .1em 0;text-align:{side};white-space:nowrap;'
                f'{style}">{shown}</{tag}>'
            )
        return "".join(found)

    top = cells("th", head, "font-weight:600;border-bottom:1px solid rgba(128,128,128,.4)")
    body = "".join(f"<tr>{cells('td', row, 'vertical-align:top')}</tr>" for row in rows)
    return (
        '<table style="border-collapse:collapse;font:inherit;font-variant-numeric:tabular-nums;'
        f'margin:.4em 0"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
    )


class _Html(str):
    """Text that is HTML already."""


def bar(share: float) -> str:
    """A bar of ``share`` (0 to 1) of a cell's width."""
    width = 100 * min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0
    return _Html(
        '<span style="display:inline-block;width:7em;text-align:left"><span style="display:'
        f"inline-block;height:.6em;border-radius:2px;background:rgb({ORANGE});"
        f'width:{width:.0f}%"></span></span>'
    )


# -- pictures --------------------------------------------------------------------------------------
def heat(
    grid: Tensor,
    rows: Sequence[int],
    title: str,
    *,
    row: str = "layer",
    column: str = "head",
) -> str:
    """An inline SVG of a grid, one row a layer; strong colour is a high number.

    Parameters
    ----------
    grid : Tensor
        ``[rows, columns]``; NaN where nothing is known, which stays empty.
    rows : sequence of int
        The numbers of the rows.
    title : str
        Above the picture, beside the range.
    row, column : str
        What they are.
    """
    grid = grid.detach().float().cpu()
    finite = grid[grid.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)
    height, width = grid.shape
    cell = max(3, min(14, 420 // max(1, height), 560 // max(1, width)))
    left, top = 30, 36
    share = (grid - low) / (high - low) if high > low else grid * 0.0
    draw = _cells if grid.numel() <= _TIPS else _levels
    parts = [draw(grid, share, rows, (left, top, cell), row, column)]
    every = -(-12 // cell)  # labels must not overlap
    for i in range(0, height, every):
        text = f"{row[0].upper()}{rows[i]}"
        parts.append(f'<text x="0" y="{top + i * cell + min(cell, 11)}">{text}</text>')
    step = every * 2 if width > 10 else 1
    for i in range(0, width, step):
        at = left + i * cell + cell / 2
        parts.append(f'<text x="{at:g}" y="{top - 3}" text-anchor="middle">{i}</text>')
    scale = f"{html.escape(title)} · {low:.3g} … {high:.3g}"
    size = (max(left + width * cell, 7 * len(title) + 110) + 4, top + height * cell + 4)
    return _svg(size, f'<text x="0" y="12" font-size="12">{scale}</text>', *parts)


def _svg(size: tuple[float, float], *parts: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]:g}" height="{size[1]:g}" '
        'font-family="system-ui,sans-serif" font-size="10" fill="currentColor" '
        f'style="display:block;margin:.4em 0;max-width:none">{"".join(parts)}</svg>'
    )


def _cells(
    grid: Tensor,
    share: Tensor,
    rows: Sequence[int],
    place: tuple[int, int, int],
    row: str,
    column: str,
) -> str:
    """A square a cell, which says its number when hovered."""
    left, top, cell = place
    found = []
    for i, (values, shares) in enumerate(zip(grid.tolist(), share.tolist(), strict=True)):
        for j, (value, part) in enumerate(zip(values, shares, strict=True)):
            known = math.isfinite(value)
            fill = f"rgba({ORANGE},{0.06 + 0.94 * part:.2f})" if known else "none"
            found.append(
                f'<rect x="{left + j * cell}" y="{top + i * cell}" width="{cell - 1}" '
                f'height="{cell - 1}" fill="{fill}"><title>{row} {rows[i]}, {column} {j}: '
                f"{value:.4g}</title></rect>"
            )
    return "".join(found)


def _levels(
    grid: Tensor,
    share: Tensor,
    rows: Sequence[int],
    place: tuple[int, int, int],
    row: str,
    column: str,
) -> str:
    """One path for all cells of a shade: large grids stay small files."""
    left, top, cell = place
    level = (share.nan_to_num(-1.0) * _LEVELS).round().long()
    found = []
    for shade in level.unique().tolist():
        if shade < 0:
            continue
        path = "".join(
            f"M{left + j * cell} {top + i * cell}h{cell}v{cell}h-{cell}z"
            for i, j in (level == shade).nonzero().tolist()
        )
        fill = f"rgba({ORANGE},{0.06 + 0.94 * shade / _LEVELS:.2f})"
        found.append(f'<path fill="{fill}" d="{path}"/>')
    return "".join(found)


def line(values: Tensor, places: Sequence[int], title: str, *, along: str) -> str:
    """An inline SVG of one number along an axis.

    Parameters
    ----------
    values : Tensor
        ``[n]``; NaN leaves a gap. Beyond 300 numbers, means of neighbours are drawn.
    places : sequence of int
        Where on the axis each stands.
    title : str
    along : str
        What the axis counts: steps, positions.
    """
    values = values.detach().float().cpu()
    size = -(-len(values) // _POINTS)
    if size > 1:
        values = values[: len(values) // size * size].unflatten(0, (-1, size)).nanmean(1)
        title += f" (means of {size})"
    known = values[values.isfinite()]
    low, high = (float(known.min()), float(known.max())) if known.numel() else (0.0, 0.0)
    wide, tall, left, top = 420, 70, 58, 20
    span = high - low or 1.0
    path, pen = [], "M"
    for i, value in enumerate(values.tolist()):
        if not math.isfinite(value):
            pen = "M"
            continue
        x = left + wide * (i / (len(values) - 1) if len(values) > 1 else 0.5)
        y = top + tall * (1 - (value - low) / span if high > low else 0.5)
        path.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    if len(path) == 1:  # a single number has no line
        path.append("h.1")
    first, last = (places[0], places[-1]) if len(places) else (0, 0)
    base = top + tall + 13
    axis = f"M{left - 4} {top - 4}V{top + tall + 2}H{left + wide}"
    return _svg(
        (max(left + wide, 6.5 * len(title)) + 20, base + 8),
        f'<text x="0" y="12" font-size="12">{html.escape(title)}</text>',
        f'<path d="{axis}" fill="none" stroke="rgba(128,128,128,.5)"/>',
        f'<path d="{"".join(path)}" fill="none" stroke="rgb({ORANGE})" stroke-width="2" '
        'stroke-linecap="round" stroke-linejoin="round"/>',
        f'<text x="{left - 7}" y="{top + 6}" text-anchor="end">{high:.3g}</text>',
        f'<text x="{left - 7}" y="{top + tall}" text-anchor="end">{low:.3g}</text>'
        if high > low
        else "",
        f'<text x="{left}" y="{base}">{html.escape(along)} {first}</text>',
        f'<text x="{left + wide}" y="{base}" text-anchor="end">{last}</text>'
        if last != first
        else "",
    )
