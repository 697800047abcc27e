"""*Compare*: methods × tasks on a few items, as a table and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from .. import tasks as worlds
from ..cli.expressions import method as expression
from ..errors import FoveateError
from ..evaluate import Table, evaluate
from ..evaluate.page import fragment, settled
from ..methods import ACT, PASTA, Emphasize, Hide, ZeroTuning
from . import inputs
from .session import Desk, Job

__all__ = ["METHODS", "TASKS", "compare", "offered", "plot", "shown"]

MOST_ITEMS = 32
MOST_METHODS = 6
MOST_TASKS = 4
MOST_CHARACTERS = 4000

METHODS: Mapping[str, Any] = {
    "Emphasize evidence × 5": lambda: Emphasize("evidence", 5.0),
    "PASTA α = 0.1": lambda: PASTA("evidence", 0.1),
    "ACT β = 0.4": lambda: ACT(),
    "ZeroTuning γ = 1.7": lambda: ZeroTuning(1.7),
    "Hide evidence": lambda: Hide("evidence"),
}
# each marks its evidence; lengths that a small machine reads in seconds
TASKS: Mapping[str, worlds.Task] = {
    "Distractors: the right one of four passages": worlds.Distractors(),
    "Needle: a number in 512 tokens": worlds.Needle(length=512),
    "Counterfactual: the text against what the model knows": worlds.Counterfactual(),
    "Unanswerable: facts, some of them missing": worlds.Unanswerable(),
    "Classification by examples": worlds.Classification(),
    "Coloured objects": worlds.ColouredObjects(),
}


def compare(
    desk: Desk, methods: Sequence[str], own: str, tasks: Sequence[str], n: int, seed: int
) -> Any:
    """The work of one comparison.

    Parameters
    ----------
    desk
    methods, tasks : sequence of str
        Of :data:`METHODS` (up to 6 with one's own) and :data:`TASKS` (up to 4).
    own : str
        Methods of one's own, one a line, as ``foveate compare --method`` takes them.
    n, seed : int
        Items of every task (up to 32), and which.

    Returns
    -------
    callable
        For :meth:`Desk.run`; shows the :class:`~foveate.evaluate.Table` so far after each task, and
        gives it.

    Raises
    ------
    FoveateError
        For nothing chosen, too much, and what is no method.
    """
    n = inputs.number("Items", n, 1, MOST_ITEMS, whole=True)
    seed = inputs.number("The seed", seed, 0, 2**31 - 1, whole=True)
    named: dict[str, Any] = {"dense": []}
    known = offered(desk)
    for name in methods or ():
        if name not in known:
            raise FoveateError(f"There is no method {name!r}; there are {', '.join(known)}.")
        named[name] = known[name]()
    if len(own or "") > MOST_CHARACTERS:
        raise FoveateError(
            f"Your own methods have {len(own):,} characters; the page takes {MOST_CHARACTERS:,}."
        )
    for line in (own or "").splitlines():
        if line.strip():
            name, made = expression(line)
            if name in named:
                raise FoveateError(f"The method {name!r} was given twice.")
            named[name] = made
    if not 2 <= len(named) <= MOST_METHODS + 1:
        raise FoveateError(
            f"{len(named) - 1} methods were chosen; choose 1 to {MOST_METHODS} to compare with the "
            "model as it is."
        )
    if not 1 <= len(tasks or ()) <= MOST_TASKS or any(task not in TASKS for task in tasks):
        raise FoveateError(f"{len(tasks or ())} tasks were chosen; choose 1 to {MOST_TASKS}.")
    asked = [replace(TASKS[task], n=n, seed=seed) for task in tasks]  # type: ignore[type-var]

    def work(job: Job) -> Table:
        done, total = 0, n * len(named) * len(asked)
        table: Table | None = None

        def tell(answered: int) -> None:
            nonlocal done
            done += answered
            job.stage(f"Asked {done} of {total}")

        job.stage(f"Asked 0 of {total}")
        for task in asked:
            part = evaluate(
                desk.model, desk.tokenizer, named, [task], batch_size=min(n, 8), progress=tell
            )
            table = part if table is None else replace(table, cells=table.cells + part.cells)
            job.show(table)
        assert table is not None
        return table

    return work


def offered(desk: Desk) -> dict[str, Any]:
    """What can be chosen: the methods of the page, and the policy it was opened with."""
    own = {} if desk.policy is None else {f"policy {desk.policy.name}": lambda: desk.policy}
    return {**METHODS, **own}


def shown(table: Table | None) -> str:
    """A table with its plot, as HTML."""
    if table is None:
        return ""
    return f'{plot(table)}<div class="fv-table">{fragment(table)}</div><p>{escape(_NOTE)}</p>'


_NOTE = (
    "Δ base: percentage points more than the model as it is, with a paired bootstrap interval; p: "
    "exact McNemar, each comparison by itself. Coloured where the interval leaves out 0 and p is "
    "below 0.05. With so few items only large differences show; the command line's foveate compare "
    "asks more."
)


def plot(table: Table) -> str:
    """Accuracies with their 95 % intervals: a line with a dot for each method, task by task."""
    parts = []
    for task in table.tasks:
        parts.append(f"<h4>{escape(task)}</h4>")
        for cell in (one for one in table.cells if one.task == task):
            low, high, at = (100 * v for v in (*cell.interval, cell.accuracy))
            kind = {1: "up", -1: "down", 0: ""}[settled(cell)]
            parts.append(
                f'<div class="row {kind}" title="95 %: {low:.0f} to {high:.0f} %">'
                f'<span class="name">{escape(cell.method)}</span><span class="track">'
                f'<i style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
                f'<b style="left:{at:.1f}%"></b></span><span class="share">{at:.0f} %</span></div>'
            )
    axis = "<span>0</span><span>50</span><span>100 %</span>"
    parts.append(f'<div class="row"><span class="axis">{axis}</span></div>')
    return (
        '<div class="fv-plot" role="img" aria-label="Share of right answers by task and method, '
        f'from 0 to 100 %; the table has the figures">{"".join(parts)}</div>'
    )
