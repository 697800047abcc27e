"""The table as rows of text, as Markdown and as a self-contained page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .table import Cell, Table

__all__ = ["fragment", "markdown", "page", "rows", "settled"]

HEAD = ("task", "method", "right", "accuracy", "95 %", "Δ base", "95 %", "p", "s/item", "peak MiB")

_CSS = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #8884;white-space:nowrap}
th{font-weight:600;opacity:.75}th:nth-child(-n+2),td:nth-child(-n+2){text-align:left}
details{margin:.4rem 0}details td{white-space:pre-wrap;text-align:left;max-width:40rem}
.bad{color:#c33}.note{opacity:.75}
"""


def percent(value: float) -> str:
    """A share as text."""
    return f"{100 * value:.1f} %"


def points(value: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{100 * value:+.1f}"


def settled(cell: Cell) -> int:
    """1 or -1 where the interval of the difference leaves out 0 and p < 0.05; else 0.

    With few items that differ the bootstrap is too sure, so the exact test has a say.
    """
    if cell.difference_interval is None or cell.p is None or cell.p >= 0.05:
        return 0
    low, high = cell.difference_interval
    return 1 if low > 0 else -1 if high < 0 else 0


def figures(cell: Cell) -> tuple[str, ...]:
    """One cell as texts, in the order of the head."""
    low, high = cell.interval
    found = [cell.task, cell.method, f"{sum(cell.right)}/{cell.n}", percent(cell.accuracy)]
    found.append(f"{100 * low:.1f}–{100 * high:.1f}")
    if cell.difference is None or cell.difference_interval is None or cell.p is None:
        found += ["base", "", ""]
    else:
        a, b = cell.difference_interval
        p = "< 0.001" if cell.p < 0.001 else f"{cell.p:.3f}"
        found += [points(cell.difference), f"{points(a)} to {points(b)}", p]
    found.append(f"{cell.seconds:.3f}")
    found.append("–" if cell.memory is None else f"{cell.memory / 2**20:.0f}")
    return tuple(found)


def rows(table: Table) -> list[tuple[str, ...]]:
    """The head and the figures."""
    return [HEAD, *(figures(cell) for cell in table.cells)]


def markdown(table: Table) -> str:
    """The figures as a Markdown table."""

    def line(texts: Any) -> str:
        plain = (" ".join(str(one).split()).replace("|", "\\|") for one in texts)
        return "| " + " | ".join(plain) + " |"

    head, *body = rows(table)
    ruler = ("---", "---", *["---:"] * (len(head) - 2))
    return "\n".join([line(head), line(ruler), *map(line, body), "", _note(table)])


def fragment(table: Table) -> str:
    """The figures as an HTML table, for a notebook."""
    head, *body = rows(table)
    lines = ["<table><thead><tr>", *(f"<th>{escape(one)}</th>" for one in head), "</tr></thead>"]
    lines.append("<tbody>")
    for cell, texts in zip(table.cells, body, strict=True):
        # in place, for a notebook has no style sheet of ours
        colour = {1: ' style="background:#2a83"', -1: ' style="background:#c333"', 0: ""}
        shown = "".join(f"<td>{escape(one)}</td>" for one in texts)
        lines.append(f"<tr{colour[settled(cell)]}>{shown}</tr>")
    lines.append("</tbody></table>")
    return "".join(lines)


def page(table: Table) -> str:
    """The whole page: figures, settings, replies. No script, no network."""
    title = f"{len(table.methods)} methods × {len(table.tasks)} tasks"
    said = "".join(_replies(table, task) for task in table.tasks)
    settings = ", ".join(f"{escape(str(k))}: {escape(str(v))}" for k, v in table.settings.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_CSS}</style></head><body><h1>{title}</h1>{fragment(table)}"
        f'<p class="note">{escape(_note(table))}</p><h2>Replies</h2>{said}'
        f'<p class="note">{settings}</p></body></html>'
    )


def _note(table: Table) -> str:
    return (
        f"Against {table.base}: difference in percentage points with a paired bootstrap interval, "
        "exact McNemar p (each comparison by itself). Seconds are prefill and generation; memory "
        "is the peak over what was held before."
    )


def _replies(table: Table, task: str) -> str:
    cells = [cell for cell in table.cells if cell.task == task]
    head = "".join(f"<th>{escape(one)}</th>" for one in ("item", "answer", *table.methods))
    lines = []
    for i, (name, answer) in enumerate(zip(cells[0].ids, cells[0].answers, strict=True)):
        said = "".join(
            f"<td{'' if cell.right[i] else ' class=bad'}>{escape(cell.replies[i]) or '–'}</td>"
            for cell in cells
        )
        lines.append(f"<tr><td>{escape(name)}</td><td>{escape(answer)}</td>{said}</tr>")
    return (
        f"<details><summary>{escape(task)}</summary><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></details>"
    )
