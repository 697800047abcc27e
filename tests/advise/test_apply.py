"""Advice applied: short to read, and measured on other questions than those that chose."""

from __future__ import annotations

import pytest

from foveate.advise.apply import command, expression
from foveate.cli.expressions import method, task
from foveate.methods.emphasis import Emphasize
from foveate.policy import Policy

ONE = Policy([Emphasize("question", 5.0, layers=list(range(15, 30)))], name="late")


def test_layers_in_a_row_are_a_range_that_the_command_line_reads() -> None:
    said = expression(ONE)
    assert "layers=range(15, 30)" in said
    _, (one,) = method(said)
    assert one.layers == list(range(15, 30))
    apart = Policy([Emphasize("question", 5.0, layers=[1, 3, 4])], name="apart")
    assert "layers=[1, 3, 4]" in expression(apart)


@pytest.mark.parametrize(
    ("data", "other"),
    [
        ("mine.jsonl", "other.jsonl"),
        ("/a b/mine.CSV", "other.csv"),
        ("distractors", "distractors(seed=1)"),
        ("distractors(n=50, seed=3)", "distractors(n=50, seed=4)"),
        ("distractors(n=50)", "distractors(n=50, seed=1)"),
    ],
)
def test_the_command_asks_other_questions(data: str, other: str) -> None:
    said = command("smollm2", data, ONE)
    assert other in said and "policy.toml" in said
    if "(" in other:
        assert task(other).seed == int(other[-2])
    assert command("smollm2", data, Policy()) == ""
