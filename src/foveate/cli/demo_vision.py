"""``foveate demo --vision``: before and after in pictures; one model sees, one draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ..decoding import AgainstHidden
from ..methods.diffusion import AttendAndExcite
from ..report import tables
from ..report.vision import Count, Side, Story, write
from ..tasks.shapes import drawing, scenes
from . import common
from .common import err, load, out
from .story import Remedy
from .story_draws import draws
from .story_sees import sees

SEES, DRAWS = "shapes-vlm", "shapes-dit"
_SCENES = 4  # to a prompt: a caption takes a small part of a picture's time


def _seeing() -> Remedy:
    """Against the model that sees no picture: did best on other scenes."""
    return Remedy(
        'fv.decoding.AgainstHidden("image", alpha=1.0)', decoder=AgainstHidden("image", alpha=1.0)
    )


def _drawing() -> Remedy:
    """Attend-and-Excite, with steps that were chosen on other prompts and noise."""
    fields: dict[str, Any] = {"step_size": 10.0, "until": 0.25, "thresholds": {}}
    told = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    return Remedy(
        f'fv.AttendAndExcite(["shape 1", "shape 2"], {told})',
        (AttendAndExcite(["shape 1", "shape 2"], **fields),),
    )


def demo(cases: int, seed: int, json: bool, report: Path | None) -> None:
    """Tell both stories.

    Parameters
    ----------
    cases : int
        Prompts to draw; four times as many scenes are described.
    seed : int
        Of scenes, prompts and noise.
    json : bool
        Print JSON, and nothing else, on stdout.
    report : Path, optional
        Where the page goes.
    """
    with err.status(f"Loading {SEES} …"):
        model, processor = load(SEES)
    with err.status(f"{_SCENES * cases} scenes are described …"):
        shown = scenes(_SCENES * cases, seed=seed + 1000, objects=(1, 4))
        first = sees(model, processor, _seeing(), shown, seed, SEES)
    with err.status(f"Loading {DRAWS} …"):
        pipeline, _ = load(DRAWS)
    with err.status(f"{cases} pictures are drawn …"):
        asked = drawing.prompts(2, cases, seed=seed + 1)
        second = draws(pipeline, _drawing(), asked, seed, DRAWS)
    stories = (first, second)
    if report is not None:
        report = write(stories, report)
    if json:
        common.print_json(
            {
                "stories": [_plain(story) for story in stories],
                "report": str(report) if report is not None else None,
            }
        )
        return
    for number, story in enumerate(stories, start=1):
        _show(number, story)
    if report is None:
        out.print("[dim]The pictures: foveate demo --vision --report page.html[/]\n")
    else:
        err.print(f"report: {report}")


def _plain(story: Story) -> dict[str, Any]:
    def side(one: Side) -> dict[str, Any]:
        return {
            "said": one.said or None,
            "good": one.good,
            "verdict": [{"thing": said, "good": good} for said, good in one.verdict],
            "attention": [
                {"of": look.title, "share": look.share, "patches": look.weights.tolist()}
                for look in one.looks
            ],
        }

    return {
        "title": story.title,
        "model": story.model,
        "method": story.method,
        "task": story.task,
        "chosen": story.chosen,
        "before": side(story.before),
        "after": side(story.after),
        "hidden": [dict(zip(story.hidden.head, row, strict=True)) for row in story.hidden.rows],
        "counts": [count.figures() for count in story.counts],
    }


# -- showing ---------------------------------------------------------------------------------------
def _show(number: int, story: Story) -> None:
    by = f" ({story.model}, {story.method})"
    out.print(Text.assemble((f"\n{number}. {story.title}", "bold"), (by, "dim")))
    out.print(Text(f"  {story.task}"))
    out.print(Text(f"  {story.chosen}", style="dim"))
    for side in (story.before, story.after):
        out.print(f"\n  [bold]{side.label}[/]", Text(side.said))
        for said, good in side.verdict:
            out.print(Text(f"    {'✓' if good else '✗'} {said}", style="green" if good else "red"))
        for look in side.looks:
            out.print(Text(f"    {look.title}: {tables.percent(look.share)}", style="dim"))
    out.print("\n  [bold]Did it matter?[/]")
    out.print(_table(story.hidden.head, story.hidden.rows))
    out.print("\n  [bold]Not only this one[/]")
    head = ("", "of", "as it is", "with it", "change (95 %)")
    out.print(_table(head, [_row(count) for count in story.counts]))
    out.print()


def _row(count: Count) -> tuple[str, ...]:
    told = count.figures()
    low, high = (f"{100 * end:+.1f}" for end in told["interval"])
    return (
        told["what"],
        str(told["n"]),
        tables.percent(told["before"]),
        tables.percent(told["after"]),
        f"{100 * told['gain']:+.1f} ({low} to {high})",
    )


def _table(head: tuple[str, ...], rows: Any) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), header_style="dim")
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i and name else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
