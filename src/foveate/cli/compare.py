"""``foveate compare``: methods × tasks, in one table."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table as Drawn
from rich.text import Text

from ..errors import FoveateError
from ..evaluate import Table, evaluate
from ..evaluate.page import figures, settled
from ..policy import Policy
from ..tasks import Questions
from . import common
from .common import err, out
from .expressions import method, task

_SUFFIXES = (".json", ".md", ".html")


def compare(
    task_: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="TASK", help="needle, 'needle(length=2048)', mine.jsonl."),
    ] = None,
    method_: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="METHOD",
            help="'Emphasize(evidence, gain=5)', 'NAME = A(…) + B(…)'; repeatable.",
        ),
    ] = None,
    policy: Annotated[
        list[Path] | None,
        common.policy_option("Ask under this policy too, as one more method; repeatable."),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Items of every task.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of every task.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Items at once.")] = 8,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="FILE", help="Keep finished batches here; use them."),
    ] = None,
    save: Annotated[
        list[Path] | None,
        typer.Option("--out", metavar="FILE", help="Write .json, .md or .html; repeatable."),
    ] = None,
    model: common.Model = "smollm2",
    json: common.Json = False,
) -> None:
    """Ask tasks with the model as it is ("dense") and under methods; say what differs for sure."""
    if not task_:
        raise FoveateError("compare was given no task: --task distractors, for example.")
    for path in save or ():
        if path.suffix not in _SUFFIXES:
            raise FoveateError(f"--out {path}: a name that ends in {', '.join(_SUFFIXES)}.")
        if not path.expanduser().resolve().parent.is_dir():
            raise FoveateError(f"--out {path}: there is no such folder.")
    tasks = [sized(task(text), n, seed) for text in task_]
    methods: dict[str, Any] = {"dense": []}
    for text in method_ or ():
        name, made = method(text)
        if name in methods:
            raise FoveateError(f"--method {text!r}: the name {name!r} is taken already.")
        methods[name] = made
    for path in policy or ():
        held = common.read_policy(path)
        assert held is not None
        if held.name in methods:
            raise FoveateError(f"--policy {path}: the name {held.name!r} is taken already.")
        methods[held.name] = held
    live, tokenizer = common.load_model(model)
    for name, one in methods.items():
        if isinstance(one, Policy):
            methods[name] = common.for_model(one, live)
    answers = len(methods) * sum(getattr(one, "n", 1) for one in tasks)
    with common.progress(f"{len(methods)} methods × {len(tasks)} tasks", answers) as done:
        table = evaluate(
            live,
            tokenizer,
            methods,
            tasks,
            batch_size=batch_size,
            resume=resume,
            progress=done,
        )
    for path in save or ():
        table.save(path)
    if json:
        common.print_json(table.to_dict())
        return
    for name in table.tasks:
        out.print(drawn(table, name))
    out.print(
        "[dim]Δ: percentage points more than dense, with a paired bootstrap interval (coloured\n"
        "where it leaves out 0 and p < 0.05); p: exact McNemar; seconds: prefill and generation;\n"
        "MiB: the peak over what was held before.[/]"
    )
    for path in save or ():
        err.print(f"table: {path}")


def drawn(table: Table, task_: str) -> Drawn:
    """One task's part of the table, for a terminal."""
    cells = [cell for cell in table.cells if cell.task == task_]
    title = Text(f"{task_} (n = {cells[0].n})", style="bold")
    made = Drawn(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim",
                 title=title, title_justify="left")  # fmt: skip
    made.add_column("method", min_width=12, overflow="fold")
    for name in ("right %", "95 %", "Δ", "95 %", "p", "s/item", "MiB"):
        made.add_column(name, justify="right", no_wrap=True)
    for cell in cells:
        style = {1: "green bold", -1: "red bold", 0: ""}[settled(cell)]
        *_, p, seconds, memory = figures(cell)
        change, between = "dense", ""
        if cell.difference is not None and cell.difference_interval is not None:
            change = f"{100 * cell.difference:+.1f}"
            between = "{:+.0f}…{:+.0f}".format(*(100 * edge for edge in cell.difference_interval))
        made.add_row(
            Text(cell.method),
            f"{100 * cell.accuracy:.1f}",
            "{:.0f}–{:.0f}".format(*(100 * edge for edge in cell.interval)),
            *(Text(one, style=style) for one in (change, between, p)),
            seconds,
            memory,
        )
    return made


def sized(made: Any, n: int | None, seed: int | None) -> Any:
    """The task with the options that hold for all; of a file's questions the first ``n``."""
    if isinstance(made, Questions):
        return replace(made, records=made.records[:n])
    names = {one.name for one in fields(made)}
    given = {"n": n, "seed": seed}
    return replace(made, **{k: v for k, v in given.items() if v is not None and k in names})
