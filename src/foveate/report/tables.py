"""The same data as tables for a terminal."""

from __future__ import annotations

from rich.table import Table

from .data import Ablation, Item, Mass, ReportData
from .html import thirds
from .seen import Seen

_SHADES = " ░▒▓█"
_BAR = " ▏▎▍▌▋▊▉█"  # eighths of a cell


def percent(value: float | None) -> str:
    """A share as text."""
    return "–" if value is None else f"{100 * value:.1f} %"


def bar(share: float, width: int = 20) -> str:
    """A horizontal bar of ``share`` (0 to 1) of ``width`` cells."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, part = divmod(eighths, 8)
    return "█" * full + (_BAR[part] if part else "")


def _table(*columns: str, left: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        table.add_column(
            name, justify="left" if name in left else "right", no_wrap=name not in left
        )
    return table


def masses(data: ReportData, item: int = 0) -> Table:
    """Attention by region: of the prompt's last token, of all queries, and by depth."""
    table = _table(
        "region", "tokens", "even", data.reader, "all", "1st ⅓", "2nd ⅓", "3rd ⅓", left=("region",)
    )
    for mass in _of_prompt(data.items[item]):
        table.add_row(
            _plain(mass.region),
            "–" if mass.tokens is None else str(mass.tokens),
            percent(mass.share),
            f"[bold]{percent(mass.last)}[/]",
            percent(mass.mean),
            *map(percent, thirds(mass.layers)),
        )
    return table


def heads(data: ReportData, item: int = 0, k: int = 4) -> Table:
    """The heads that look most at each region, at the prompt's last token."""
    table = _table("region", "layer.head", left=("region", "layer.head"))
    for mass in _of_prompt(data.items[item]):
        found = "   ".join(
            f"{layer}.{head} [dim]{percent(v)}[/]" for layer, head, v in mass.top[:k] if v
        )
        table.add_row(_plain(mass.region), found)
    return table


def before_after(data: ReportData, item: int = 0) -> Table:
    """Attention by region at the prompt's last token, without and with steering."""
    table = _table("region", "before", "after", "change", left=("region",))
    one = data.items[item]
    old = {mass.region: mass.last for mass in one.before}
    for mass in _of_prompt(one):
        before = old.get(mass.region)
        change = f"× {mass.last / before:.2f}" if before and mass.last is not None else "–"
        table.add_row(
            _plain(mass.region), percent(before), f"[bold]{percent(mass.last)}[/]", change
        )
    return table


def tokens(data: ReportData, item: int = 0, k: int = 8) -> Table:
    """The tokens looked at most by the last token (or that receive most, where that is known)."""
    one = data.items[item]
    table = _table("token", "at", "share", "", left=("token", ""))
    ranked = looked_at(one, k)
    for place, value in ranked:
        text = one.tokens[place].replace("\n", "↵") or "·"
        table.add_row(_plain(repr(text)), str(place), percent(value), bar(value / ranked[0][1]))
    return table


def looked_at(item: Item, k: int = 8) -> list[tuple[int, float]]:
    """The ``k`` tokens with most attention of the last token: (position in the prompt, share)."""
    for one in item.token_maps:
        if one.label.startswith("Looked at"):
            values = sorted(((v or 0.0, -i) for i, v in enumerate(one.mean)), reverse=True)
            return [(-i, v) for v, i in values[:k] if v > 0]
    return []


def shares(item: Item, picture: Seen) -> list[list[float]]:
    """What each patch of a picture has of the read token's attention: rows of columns."""
    looked = (one for one in item.token_maps if one.label.startswith("Looked at"))
    values = next(looked, item.token_maps[0]).mean if item.token_maps else []
    flat = [values[i] or 0.0 for i in picture.at if i < len(values)]
    return [flat[i : i + picture.columns] for i in range(0, len(flat), picture.columns or 1)]


def picture(item: Item, seen: Seen) -> str:
    """A picture's patches as shades: the darkest has most of the read token's attention."""
    rows = shares(item, seen)
    top = max((value for row in rows for value in row), default=0.0) or 1.0
    return "\n".join(
        "".join(2 * _SHADES[min(4, round(4 * value / top))] for value in row) for row in rows
    )


def ablations(found: list[Ablation]) -> Table:
    """What becomes of the answer when a region cannot be seen."""
    table = _table("hidden", "it then answers", "log-probability of its own answer",
                   left=("hidden", "it then answers"))  # fmt: skip
    for one in found:
        change = "–" if one.change is None else f"{one.change:+.2f} nats"
        table.add_row(_plain(one.region), _plain(one.answer), change)
    return table


def _of_prompt(item: Item) -> list[Mass]:
    return [mass for mass in item.masses if mass.tokens != 0]


def _plain(text: str) -> str:
    """Text in which rich finds no markup."""
    return text.replace("[", r"\[")
