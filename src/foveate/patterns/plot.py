"""Pictures of patterns: who sees whom in a sequence, or what single tokens see on a grid."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..display import ORANGE
from ..errors import FoveateError

if TYPE_CHECKING:
    from ._base import Pattern

__all__ = ["Picture", "plot"]

SIDE = 128  # cells of a picture of the matrix, at most
WIDE = 288  # of a panel
_BLUE = "rgb(45,105,210)"
_FRAME = 'fill="none" stroke="rgba(128,128,128,.5)"'
_PANELS = 8  # of heads that differ, and of frames of a grid with three axes
_DARK = "<style>svg{color:#222}@media(prefers-color-scheme:dark){svg{color:#ddd}}</style>"
_PAGE = (
    '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" '
    'content="light dark"><title>{}</title><body style="margin:1.5em">{}</body></html>\n'
)


@dataclass(frozen=True)
class Picture:
    """A drawing as SVG; a notebook shows it.

    Attributes
    ----------
    title : str
    svg : str
    """

    title: str
    svg: str

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to a file that ends in ``.svg`` or ``.html``.

        Raises
        ------
        FoveateError
            Another ending, or a file that cannot be written.
        """
        path = Path(path).expanduser()
        if path.suffix not in (".svg", ".html"):
            raise FoveateError(
                f"{str(path)!r} was given to save a picture; a name that ends in .svg or .html was "
                "wanted."
            )
        text = self.svg.replace(">", f">{_DARK}", 1)
        if path.suffix == ".html":
            text = _PAGE.format(html.escape(self.title), self.svg)
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise FoveateError(
                f"The picture cannot be written to {str(path)!r} ({error.strerror or error}); give "
                "the name of a file in a folder that is there."
            ) from error
        return path

    def _repr_html_(self) -> str:
        return self.svg


def plot(
    pattern: Pattern,
    Sq: int | None,
    Sk: int | None,
    q_offset: int | None,
    grid: Sequence[int] | None,
    query: Any,
) -> Picture:
    """See :meth:`Pattern.plot`."""
    from ._base import sizes, whole

    if hasattr(pattern, "pieces"):  # chosen for one call: it has that call's sizes
        call: Any = pattern
        Sq, Sk = call.Sq if Sq is None else Sq, call.Sk if Sk is None else Sk
        q_offset = call.q_offset if q_offset is None else q_offset
        if (Sq, Sk, q_offset) != (call.Sq, call.Sk, call.q_offset):
            raise FoveateError(
                f"plot(Sq={Sq}, Sk={Sk}): this was chosen for a call of {call.Sq} × {call.Sk} and "
                "has no other size."
            )
    own = grid_of(pattern)
    if grid is not None:
        if isinstance(grid, int | str) or not 1 <= len(tuple(grid)) <= 3:
            raise FoveateError(
                f"plot(grid={grid!r}): the grid's sides were wanted, such as (16, 16), of one to "
                "three axes."
            )
        own = tuple(whole("plot", "grid", side) for side in grid)
    tokens = None if own is None else torch.Size(own).numel()
    if query is not None and own is None:
        raise FoveateError(
            f"plot(query={query!r}) was given, but {pattern!r} lies on no grid; say which with "
            "grid=(height, width), or leave out query= for the whole matrix."
        )
    Sq = tokens or size_of(pattern) if Sq is None else Sq
    Sq, Sk, offset = sizes(Sq, Sk, q_offset)
    if own is None or (len(own) == 1 and query is None):
        return _matrix(pattern, Sq, Sk, offset)
    if tokens != Sk:
        raise FoveateError(
            f"A grid of {' × '.join(map(str, own))} has {tokens} tokens and Sk={Sk} keys were "
            f"given; a picture on the grid wants Sk={tokens} (leave out Sq and Sk)."
        )
    return _on_grid(pattern, own, _queries(query, own), Sk)


# -- what there is to draw -------------------------------------------------------------------------
def grid_of(pattern: Pattern) -> tuple[int, ...] | None:
    """The grid that a pattern lies on, where it has one."""
    for part in pattern.parts():
        grid = getattr(part, "grid", None)
        if isinstance(grid, tuple) and grid:
            return grid
    return None


def size_of(pattern: Pattern) -> int:
    """A length at which a pattern shows what it is.

    Four times its largest number, and more for as long as that makes it sparser.
    """
    numbers = [16]
    parts: list[Any] = [*pattern.parts()]
    for part in parts:
        for field in fields(part) if is_dataclass(part) else ():
            value = getattr(part, field.name)
            if field.name == "lengths":
                return min(4096, sum(value))
            values = value if isinstance(value, tuple) else (value,)
            numbers += [n for n in values if isinstance(n, int) and not isinstance(n, bool)]
    size = min(4096, 4 * max(numbers))
    share = pattern.density(size)
    while size < 2048 and share > 0.25:
        longer = pattern.density(2 * size)
        if longer > 0.9 * share:
            break
        size, share = 2 * size, longer
    return size


def _tile(pattern: Pattern, q: Tensor, k: Tensor) -> Tensor:
    """Bool ``[heads, m, n]``; of a batch, the first item."""
    tile = pattern.tile(q, k)
    tile = tile[0] if tile.dim() == 4 else tile
    return tile.reshape(-1, *tile.shape[-2:]).expand(-1, len(q), len(k))


def _alike(shares: Tensor) -> list[tuple[str, Tensor]]:
    """Heads that see the same together: ``[heads, …]`` → names and one of each."""
    groups: list[tuple[list[int], Tensor]] = []
    for head, share in enumerate(shares):
        for members, known in groups:
            if torch.equal(known, share):
                members.append(head)
                break
        else:
            groups.append(([head], share))
    if len(groups) == 1:
        return [("", groups[0][1])]
    return [
        (f"head{'s' * (len(members) > 1)} {_listed(members)}", share) for members, share in groups
    ]


def _listed(numbers: list[int]) -> str:
    whole = len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]}–{numbers[-1]}" if whole else ", ".join(map(str, numbers))


# -- the matrix ------------------------------------------------------------------------------------
def _matrix(pattern: Pattern, Sq: int, Sk: int, offset: int) -> Picture:
    size = 1 << (-(-max(Sq, Sk) // SIDE) - 1).bit_length()  # blocks are mostly powers of 2 too
    columns = -(-Sk // size)
    rows: list[Tensor] = []
    seen = total = 0
    for start in range(0, Sq, size):
        q = torch.arange(start, min(start + size, Sq)) + offset
        low, high = pattern.key_range(int(q[0]), int(q[-1]) + 1, Sk)
        low = min(low, high) // size * size
        tile = _tile(pattern, q, torch.arange(low, high)) if low < high else torch.zeros(1, 1, 0)
        seen, total = seen + int(tile.sum()), total + tile.shape[0] * len(q) * Sk
        tile = torch.nn.functional.pad(tile.sum(-2), (low, columns * size - max(low, high)))
        keys = torch.full((columns,), size).index_fill(0, torch.tensor([columns - 1]), 0)
        keys[-1] = Sk - (columns - 1) * size
        rows.append(tile.unflatten(-1, (columns, size)).sum(-1) / (keys * len(q)))
    heads = max(row.shape[0] for row in rows)
    shares = torch.stack([row.expand(heads, -1) for row in rows], 1)
    cell = WIDE / max(shares.shape[1:])
    panels = []
    groups = _alike(shares)
    for name, share in groups[:_PANELS]:
        tall, wide = share.shape[0] * cell, share.shape[1] * cell
        panels.append(
            (
                wide,
                tall,
                f'<text x="0" y="-18" font-size="11">{name}</text>'
                f'<text x="0" y="-5">key 0</text><text x="{wide:.1f}" y="-5" text-anchor="end">'
                f"{Sk - 1:,}</text>"
                f'<text transform="translate(-5,0) rotate(-90)" text-anchor="end">query {0:,}'
                f'</text><text transform="translate(-5,{tall:.1f}) rotate(-90)">{Sq - 1:,}</text>'
                + _shades(share, cell)
                + f'<rect width="{wide:.1f}" height="{tall:.1f}" {_FRAME}/>',
            )
        )
    share_seen = seen / max(1, total)
    note = f"{Sq:,} queries × {Sk:,} keys, {share_seen:.1%} of the pairs seen"
    note += _cells_note(size) + _more(len(groups))
    return _picture(repr(pattern), note, [panels], left=14, top=20 + 13 * (len(groups) > 1))


def _cells_note(size: int) -> str:
    return f"; a cell is {size} × {size} pairs, darker where more of them are seen" * (size > 1)


def _more(groups: int) -> str:
    return f"; {groups - _PANELS} more kinds of heads are not drawn" * (groups > _PANELS)


def _shades(share: Tensor, cell: float) -> str:
    """One path for all cells of a shade, runs of a row joined."""
    level = torch.where(share > 0, (share * 8).ceil().clamp(1, 8), share).long()
    found = []
    for shade in level.unique().tolist():
        if shade:
            path = _runs(level == shade, cell)
            fill = f"rgba({ORANGE},{0.2 + 0.1 * shade:.2f})"
            found.append(f'<path shape-rendering="crispEdges" fill="{fill}" d="{path}"/>')
    return "".join(found)


def _runs(on: Tensor, cell: float) -> str:
    """A path over the cells ``[rows, columns]`` that are on."""
    found = []
    edges = torch.nn.functional.pad(on.to(torch.int8), (1, 1)).diff()
    for y in range(on.shape[0]):
        starts, stops = ((edges[y] == way).nonzero().flatten().tolist() for way in (1, -1))
        for a, b in zip(starts, stops, strict=True):
            wide = f"{(b - a) * cell:.2f}"
            found.append(f"M{a * cell:.2f} {y * cell:.2f}h{wide}v{cell:.2f}h-{wide}z")
    return "".join(found)


# -- on a grid -------------------------------------------------------------------------------------
def _queries(query: Any, grid: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Coordinates of the queries: a number, coordinates, or a list of either."""
    if query is None:
        corner, middle = tuple(0 for _ in grid), tuple(side // 2 for side in grid)
        edge = (*middle[:-1], grid[-1] - 1)
        return list(dict.fromkeys([corner, middle, edge]))
    found = []
    for one in query if isinstance(query, list) else [query]:
        at = one
        if isinstance(one, int) and not isinstance(one, bool):
            inside = 0 <= one < torch.Size(grid).numel()
            at = torch.unravel_index(torch.tensor(one), grid) if inside else ()
            at = tuple(map(int, at))
        good = isinstance(at, tuple) and len(at) == len(grid)
        if not good or not all(isinstance(i, int) and 0 <= i < n for i, n in zip(at, grid)):  # noqa: B905
            raise FoveateError(
                f"plot(query={one!r}): a token of the grid {grid} was wanted: its number, or its "
                "coordinates as a tuple, or a list of either."
            )
        found.append(at)
    return found


def _on_grid(
    pattern: Pattern, grid: tuple[int, ...], queries: list[tuple[int, ...]], Sk: int
) -> Picture:
    shape = (1,) * (3 - len(grid)) + grid
    cell = min(14.0, WIDE / 1.5 / max(shape[1:]))
    lines = []
    counts = []
    for at in queries:
        index = 0
        for i, side in zip(at, grid, strict=True):
            index = index * side + i
        seen = _tile(pattern, torch.tensor([index]), torch.arange(Sk))[:, 0]
        line = []
        groups = _alike(seen)
        for name, one in groups[:_PANELS]:
            name = f"query {at}" + f", {name}" * bool(name) + f": {int(one.sum()):,} keys"
            line += _frames(one.reshape(shape), (0,) * (3 - len(grid)) + at, cell, name, len(grid))
        counts.append(len(groups))
        lines.append(line)
    note = f"a grid of {' × '.join(map(str, grid))} tokens; blue: the query, orange: what it sees"
    if all(len(line) == 1 for line in lines):
        lines = [[panel for line in lines for panel in line]]
    return _picture(repr(pattern), note + _more(max(counts)), lines, left=2, top=20)


def _frames(
    seen: Tensor, at: tuple[int, ...], cell: float, name: str, axes: int
) -> list[tuple[float, float, str]]:
    """Panels of one query: one, or with three axes one a frame in which it sees something."""
    shown = [f for f in range(len(seen)) if bool(seen[f].any()) or f == at[0]]
    if len(shown) > _PANELS:
        middle = shown.index(at[0])
        first = min(max(0, middle - _PANELS // 2), len(shown) - _PANELS)
        shown = shown[first : first + _PANELS]
    panels = []
    for n, frame in enumerate(shown):
        tall, wide = seen.shape[1] * cell, seen.shape[2] * cell
        title = f"frame {frame}" if n or axes < 3 else f"{name} · frame {frame}"
        title = title if axes == 3 else name
        dot = ""
        if frame == at[0]:
            side = max(cell, 4.0)
            x, y = ((at[axis] + 0.5) * cell - side / 2 for axis in (2, 1))
            dot = (
                f'<rect x="{x:.2f}" y="{y:.2f}" width="{side:.2f}" height="{side:.2f}" '
                f'fill="{_BLUE}"/>'
            )
        text = f'<text x="0" y="-5">{html.escape(title)}</text>'
        back = f'<rect width="{wide:.1f}" height="{tall:.1f}" fill="rgba(128,128,128,.10)"/>'
        path = f'<path fill="rgba({ORANGE},.85)" d="{_runs(seen[frame], cell)}"/>'
        rect = f'<rect width="{wide:.1f}" height="{tall:.1f}" {_FRAME}/>'
        panels.append((max(wide, 5.4 * len(title)), tall, text + back + path + dot + rect))
    return panels


# -- put together ----------------------------------------------------------------------------------
def _picture(
    title: str, note: str, lines: list[list[tuple[float, float, str]]], left: float, top: float
) -> Picture:
    """Panels ``(width, height, content)`` in lines below a title."""
    y, widest, parts = 34.0, 0.0, []
    for line in lines:
        x = left
        for wide, _, content in line:
            parts.append(f'<g transform="translate({x:.1f},{y + top:.1f})">{content}</g>')
            x += wide + left + 18
        widest = max(widest, x)
        y += top + max(tall for _, tall, _ in line) + 8
    short = title if len(title) <= 110 else title[:107] + "…"
    wide = max(widest, 7.7 * len(short), 5.6 * len(note)) + 4
    text = (
        f'<text y="13" font-size="12" font-weight="600">{html.escape(short)}</text>'
        f'<text y="28" opacity=".75">{html.escape(note)}</text>'
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide:.0f}" height="{y + 4:.0f}" '
        f'viewBox="0 0 {wide:.0f} {y + 4:.0f}" role="img" font-family="system-ui,sans-serif" '
        f'font-size="10" fill="currentColor">{text}{"".join(parts)}</svg>'
    )
    return Picture(title, svg)
