"""``foveate tune``: its table, its JSON, the file it writes or does not, what it refuses."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import families
import foveate as fv
from foveate.cli import common, expressions, tune
from foveate.patterns import SlidingWindow


def row(plan: str, right: int, **more: float) -> dict[str, Any]:
    return {
        "plan": plan,
        "density": 0.25,
        "right": right,
        "n": 4,
        "logp": -1.0,
        "seconds": 0.5,
        **more,
    }


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run the command with a search that has been done."""
    model, asked = families.build("llama"), {}

    def done(live: Any, tokenizer: Any, task: Any, **given: Any) -> fv.Tuned:
        asked.update(given, task=task)
        holds = given["budget"] > 0.2
        table = [
            row("dense", 4, density=1.0),
            row("window everywhere", 2),
            row("by mass", 4 * holds, seconds=given["budget"] * 2),
        ]
        found = {
            "task": task.name, "tokens": 512, "budget": given["budget"], "keep": given["keep"],
            "plan": "by mass", "density": 0.25, "holds": holds, "tuning": table,
            "times_dense": given["budget"] * 4,
            "reporting": table, "versions": {},
            "logp_gain_over": {"window everywhere": {"mean": 0.5, "low": 0.1, "high": 0.9}},
        }  # fmt: skip
        given["progress"](3, 9)
        return fv.Tuned([(SlidingWindow(9), {0: [0]})], model, (2, 4), found=found)

    monkeypatch.setattr(common, "load", lambda name: (model, None))
    monkeypatch.setattr(tune, "search", done)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(tune.tune)

    def invoke(*arguments: str) -> Any:
        result = CliRunner().invoke(app, list(arguments))
        result.asked = asked
        return result

    return invoke


def test_what_holds_is_written(run: Any, tmp_path: Path) -> None:
    result = run("--task", "needle(length=512, needles=2)", "--n", "8", "--seed", "3")
    assert result.exit_code == 0, result.output
    for words in ("needle 512", "reporting half (n = 4)", "by mass holds", "4 right of the 4",
                  "+0.50 (95 %: +0.10 … +0.90)", 'fv.Tuned.load("tuned.json")'):  # fmt: skip
        assert words in result.stdout, words
    assert result.asked["task"] == fv.tasks.Needle(length=512, needles=2, n=8, seed=3)
    assert result.asked["phase"] == "prefill" and result.asked["seed"] == 3
    tuned = fv.Tuned.load(tmp_path / "tuned.json")
    assert tuned.pattern_of(0, 0) == SlidingWindow(9)


def test_what_does_not_hold_is_not(run: Any, tmp_path: Path) -> None:
    result = run("--budget", "0.1", "--phase", "both")
    assert result.exit_code == 1
    assert "Nothing holds at this budget" in result.stdout and "0 right of the 4" in result.stdout
    assert result.asked["phase"] is None
    assert not (tmp_path / "tuned.json").exists()


def test_the_verdict_says_what_time_it_takes(run: Any) -> None:
    slow = " ".join(run("--budget", "0.5").stdout.split())
    assert "2.00 × dense's time at this length" in slow
    assert "It is not faster: 2.00 × dense's time" in slow and "Only 8 questions" in slow
    quick = " ".join(run("--budget", "0.21").stdout.split())
    assert "0.84 × dense's time at this length" in quick and "not faster" not in quick
    assert "0.40 × dense's time" in " ".join(run("--budget", "0.1").stdout.split())


def test_help_names_the_defaults(run: Any) -> None:
    said = " ".join(run("--help").stdout.split())
    assert said.count("the task's own") == 2


def test_json(run: Any, tmp_path: Path) -> None:
    result = run("--json", "--out", "mine.json")
    found = json.loads(result.stdout)
    assert found["holds"] is True and found["out"] == "mine.json" and found["plan"] == "by mass"
    assert found["model"]["architecture"] == "LlamaForCausalLM"
    assert json.loads(run("--json", "--budget", "0.1").stdout)["out"] is None


def test_questions_of_ones_own(run: Any, tmp_path: Path) -> None:
    lines = [{"prompt": f"What is {n} and {n}?", "answer": str(2 * n)} for n in range(6)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert run("--task", "mine.jsonl", "--n", "4").exit_code == 0
    (*some,) = run("--task", "mine.jsonl", "--n", "4").asked["task"].items()
    assert [one.answer for one in some] == ["0", "2", "4", "6"]


def test_the_guides_commands_are_understood() -> None:
    from typer.main import get_command

    from foveate.cli import app

    text = (Path(__file__).parents[2] / "docs" / "guides" / "sparse.md").read_text("utf-8")
    lines = [shlex.split(one) for one in re.findall(r"^foveate (.+)$", text, re.M)]
    assert len(lines) >= 2
    for name, *arguments in lines:
        command = get_command(app).commands[name]  # type: ignore[attr-defined]
        given = command.make_context(name, arguments).params
        assert given
        for one in given.get("method_") or ():
            assert "Tuned(tuned.json)" in one or expressions.method(one)[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--phase", "decode"], "it is prefill or both"),
        (["--out", "/no/such/folder/x.json"], "no such folder"),
        (["--task", "needles"], "There is no task"),
        (["--task", "x.json"], "ends in .jsonl or .csv"),
        (["--task", "a/questions.txt"], "ends in .jsonl or .csv"),
        (["--task", "x.json"], "needle(length=2048, n=50)"),
        (["--task", "needle(length=2 + 2)"], "needle(length=2048, n=50)"),
    ],
)
def test_refused(run: Any, arguments: list[str], words: str) -> None:
    error = run(*arguments).exception
    assert isinstance(error, fv.FoveateError) and words in str(error)
