"""The tables say what the data say, and markup in a prompt stays text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from foveate.report import Ablation, build, tables

Make = Callable[..., Any]


def text(table: Table) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as shown:
        console.print(table)
    return shown.get()


def test_masses_and_heads(make_run: Make) -> None:
    data = build(make_run(steps=1))
    cat = data.items[0].masses[0]
    shown = text(tables.masses(data))
    assert "<cat>" in shown and tables.percent(cat.last) in shown
    assert "generated" not in shown and "system" not in shown
    layer, head, _ = cat.top[0]
    assert f"{layer}.{head}" in text(tables.heads(data))


def test_before_and_after(make_run: Make) -> None:
    shown = text(tables.before_after(build(make_run(), baseline=make_run(seed=1))))
    assert "×" in shown
    assert "–" in text(tables.before_after(build(make_run())))


def test_tokens(make_run: Make) -> None:
    run = make_run(tokens=["<s>", "[bold]x", "[/]", "a", "b", "c", "d"])
    data = build(run)
    shown = text(tables.tokens(data))
    assert "'[bold]x'" in shown and "'[/]'" in shown
    last = run.attention[:, 0, :, -1].mean((0, 1))
    assert tables.looked_at(data.items[0])[0][0] == last.argmax().item()


def test_ablations() -> None:
    shown = text(tables.ablations([Ablation("[b]", "[/]", -1.25), Ablation("x", "y")]))
    assert "[b]" in shown and "-1.25 nats" in shown and "–" in shown


@pytest.mark.parametrize(
    ("share", "drawn"), [(0, ""), (1, "████"), (2, "████"), (0.5, "██"), (0.03125, "▏"), (-1, "")]
)
def test_bars(share: float, drawn: str) -> None:
    assert tables.bar(share, 4) == drawn
