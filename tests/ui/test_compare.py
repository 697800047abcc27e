"""Compare: the same figures as evaluate, shown as they come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from foveate.errors import FoveateError
from foveate.evaluate import Table, evaluate
from foveate.methods import Emphasize
from foveate.ui.compare import METHODS, TASKS, compare, plot, shown
from foveate.ui.session import Desk, Session, Stopped

ONE, TWO = "Coloured objects", "Distractors: the right one of four passages"
EMPHASIZE = next(iter(METHODS))


def test_the_table_is_evaluates_own(desk: Desk, done: Callable[..., Any]) -> None:
    from dataclasses import replace

    found: Table = done(
        compare(desk, [EMPHASIZE], "mine = Emphasize(evidence, gain=3)", [ONE], 4, 1)
    )
    task = replace(TASKS[ONE], n=4, seed=1)  # type: ignore[type-var,call-arg]
    methods = {
        "dense": [], EMPHASIZE: Emphasize("evidence", 5.0), "mine": Emphasize("evidence", 3.0),
    }  # fmt: skip
    wanted = evaluate(desk.model, desk.tokenizer, methods, [task], batch_size=4, progress=False)
    assert [c.replies for c in found.cells] == [c.replies for c in wanted.cells]
    assert found.methods == ["dense", EMPHASIZE, "mine"]


def test_tasks_are_shown_one_after_the_other_and_a_stop_keeps_them(desk: Desk) -> None:
    session, tables = Session(), []
    with pytest.raises(Stopped):
        for update in desk.run(session, compare(desk, [EMPHASIZE], "", [ONE, TWO], 32, 0)):
            tables.append(update.value)
            if update.value is not None and len(update.value.tasks) == 1:
                session.stop()
    assert tables[-1].tasks and len(tables[-1].tasks) == 1


@pytest.mark.parametrize("method", METHODS)
def test_every_method_fits_every_task(desk: Desk, done: Callable[..., Any], method: str) -> None:
    found = done(compare(desk, [method], "", list(TASKS)[:4], 1, 0))
    assert len(found.cells) == 8


@pytest.mark.parametrize("task", list(TASKS)[4:])
def test_the_other_tasks_fit_too(desk: Desk, done: Callable[..., Any], task: str) -> None:
    assert len(done(compare(desk, list(METHODS), "", [task], 1, 0)).cells) == len(METHODS) + 1


@pytest.mark.parametrize(
    ("methods", "own", "tasks", "n", "sentence"),
    [
        ([], "", [ONE], 4, "choose 1 to"),
        ([EMPHASIZE], "", [], 4, "0 tasks"),
        ([EMPHASIZE], "", list(TASKS), 4, "6 tasks"),
        ([EMPHASIZE], "", ["nothing"], 4, "tasks"),
        (["nothing"], "", [ONE], 4, "no method"),
        ([EMPHASIZE], "", [ONE], 1000, "Items"),
        ([EMPHASIZE], "", [ONE], None, "Items"),
        ([], "__import__('os')", [ONE], 4, "not understood|no method"),
        ([], "Emphasize(evidence)", [ONE], 4, "gain"),
        ([], "Emphasize(nowhere, gain=2)", [ONE], 4, "nowhere"),
        ([], "Hide(evidence)\n" * 9_000, [ONE], 4, "characters"),
        ([], "a = Hide(evidence)\na = Hide(evidence)", [ONE], 4, "twice"),
        ([], "\n".join(f"m{i} = Hide(evidence)" for i in range(9)), [ONE], 4, "9 methods"),
    ],
)
def test_bad_input(
    desk: Desk, done: Callable[..., Any], methods: Any, own: str, tasks: Any, n: Any, sentence: str
) -> None:
    with pytest.raises(FoveateError, match=sentence):
        done(compare(desk, methods, own, tasks, n, 0))


def test_names_stay_text_in_plot_and_table(desk: Desk, done: Callable[..., Any]) -> None:
    found = done(compare(desk, [], "<b>x</b> = Hide(evidence)", [ONE], 2, 0))
    assert "<b>x" not in plot(found) and "<b>x" not in shown(found)
    assert "&lt;b&gt;x" in plot(found)
    assert shown(None) == ""
