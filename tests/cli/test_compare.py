"""foveate compare: what is understood, what is refused, what comes out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

import foveate as fv
from foveate import tasks
from foveate.cli import common
from foveate.cli.compare import compare, sized
from foveate.cli.expressions import (
    known_methods,
    known_patterns,
    known_tasks,
    method,
    task,
)
from foveate.errors import FoveateError
from foveate.evaluate import Table
from foveate.find.scores import HeadScores, ModelId


@pytest.fixture
def run(smollm2: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command on a tiny random model with the embedded tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(smollm2[1]), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, pad_token_id=2, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    monkeypatch.setattr(common, "load", lambda name: (model, smollm2[1]))
    app = typer.Typer()
    app.command()(compare)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


QUICK = ["--task", "ioi", "--task", "coloured-objects(n=3)", "--method", "gone = Hide(end)"]


def test_a_table(run: Any, tmp_path: Path) -> None:
    files = [tmp_path / f"t{end}" for end in (".json", ".md", ".html")]
    outs = [word for path in files for word in ("--out", str(path))]
    result = run("--task", "ioi", "--n", "4", "--method", "gone = Hide(end)", *outs)
    assert result.exit_code == 0, result.output
    assert "gone" in result.stdout and "dense" in result.stdout and "McNemar" in result.stdout
    assert all(path.stat().st_size for path in files)
    assert Table.load(files[0]).methods == ["dense", "gone"]


def test_json_and_resume(run: Any, tmp_path: Path) -> None:
    options = ["--task", "ioi(n=3)", "--json", "--resume", str(tmp_path / "r.jsonl")]
    one = json.loads(run(*options).stdout)
    kept = (tmp_path / "r.jsonl").read_text()
    two = json.loads(run(*options).stdout)
    assert one["cells"] == two["cells"] and (tmp_path / "r.jsonl").read_text() == kept
    seeded = json.loads(run(*options, "--seed", "4", "--n", "2").stdout)
    assert seeded["cells"][0]["n"] == 2
    assert seeded["cells"][0]["answers"] != one["cells"][0]["answers"][:2]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "no task"),
        (["--task", "nothing"], "no task 'nothing'"),
        (["--task", "ioi", "--method", "Nothing(1)"], "no method 'Nothing'"),
        (["--task", "ioi", "--out", "t.csv"], ".json, .md, .html"),
        (["--task", "ioi", "--out", "/no/where/t.md"], "no such folder"),
        (["--task", "ioi", "--method", "dense = Hide(end)"], "taken already"),
        (["--task", "ioi", "--method", "Hide(evidence)"], "'evidence', which the task 'ioi'"),
    ],
)
def test_refusals(run: Any, arguments: list[str], sentence: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, FoveateError) and sentence in str(result.exception)
    assert result.stdout == ""


def test_methods_are_understood() -> None:
    name, (one,) = method("Emphasize(evidence, gain=5)")
    assert name == "Emphasize(evidence, gain=5)" and (one.region, one.gain) == ("evidence", 5)
    _, (one,) = method("Emphasize('evidence', 0.5, heads={3: [0, 1]}, layers=[-1, 3])")
    assert one.heads == {3: [0, 1]} and one.layers == [-1, 3]
    _, (one,) = method("Emphasize('evidence', 0.5, layers=range(15, 18))")
    assert one.layers == [15, 16, 17]
    for wrong in ("range(1, 9, 0)", "range(10**9)", "range(x)", "range(20000)"):
        with pytest.raises(FoveateError, match="no number, text, list"):
            method(f"Emphasize('evidence', 0.5, layers={wrong})")
    _, (one,) = method("Emphasize(evidence, 2, heads=[(5, 0), (7, 3)], phase=None)")
    assert one.heads == [(5, 0), (7, 3)]
    name, made = method(" both of them = Emphasize(evidence, 2) + Hide(decoy) + Hide(question)")
    assert name == "both of them" and len(made) == 3
    assert {"Emphasize", "PASTA", "Hide", "Ablate"} <= set(known_methods())


def test_patterns_are_methods() -> None:
    window = fv.SlidingWindow(64, sinks=4)
    name, (one,) = method("SlidingWindow(64, sinks=4)")
    assert name == "SlidingWindow(64, sinks=4)"
    assert isinstance(one, fv.Select) and one.pattern == window
    name, (one, two) = method("mended = SlidingWindow(64, sinks=4) + DeltaCorrection(64)")
    assert name == "mended" and one.pattern == window and isinstance(two, fv.DeltaCorrection)
    _, (one,) = method("Select(SlidingWindow(64, sinks=4), layers=[1, -1], phase=prefill)")
    assert one.pattern == window and one.scope.phase == "prefill" and one.scope.layers is not None
    assert {"SlidingWindow", "Strided", "HiP"} <= set(known_patterns())
    assert "Pattern" not in known_patterns()


def test_tuned_patterns_from_a_file(tmp_path: Path) -> None:
    model = ModelId("m", "M", "0" * 16)
    tuned = fv.Tuned([(fv.SlidingWindow(9), {0: [0]})], model, (2, 2))
    path = tuned.save(tmp_path / "tuned-1.json")
    for text in (f"Tuned({path})", f"Tuned( '{path}' )", f"mine = Tuned({path})"):
        _, (one,) = method(text)
        assert isinstance(one, fv.Tuned) and one.choices == tuned.choices
    name, made = method(f"Tuned({path}) + DeltaCorrection(64)")
    assert len(made) == 2 and name.startswith("Tuned(/")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Tuned(none.json)", "no such file"),
        ("Tuned([1])", "Tuned(tuned.json)"),
        ("Tuned('a.json', phase=None)", "Tuned(tuned.json)"),
        ("SlidingWindow(0)", "window"),
        ("SlidingWindow(64, sink=4)", "takes window"),
        ("Select(3)", "takes a pattern"),
        ("Select(Hide(end))", "is no number"),
        ("Select(SlidingWindow(os.system))", "is no number"),
        ("Select(Causal() | Causal())", "is no number"),
        ("Pattern()", "no method 'Pattern'"),
    ],
)
def test_patterns_and_files_refused(text: str, sentence: str) -> None:
    with pytest.raises(FoveateError, match=re.escape(sentence)):
        method(text)


def test_patterns_are_no_tasks() -> None:
    for text in ("SlidingWindow(64)", "needle(SlidingWindow(64))", "Tuned(tuned.json)"):
        with pytest.raises(FoveateError):
            task(text)


def test_a_pattern_in_a_table(run: Any) -> None:
    result = run("--task", "ioi", "--n", "2", "--method", "SlidingWindow(3, sinks=1)")
    assert result.exit_code == 0 and "SlidingWindow" in result.stdout


def test_heads_from_a_file(tmp_path: Path) -> None:
    scores = HeadScores("retrieval", torch.arange(6.0).reshape(2, 3), ModelId("m", "M", "0" * 16))
    scores.save(tmp_path / "s.json")
    _, (one,) = method(f"Emphasize(evidence, 2, heads='{tmp_path / 's.json'}:2')")
    assert one.heads == [(1, 2), (1, 1)]
    with pytest.raises(FoveateError, match="24 best"):
        method("Emphasize(evidence, 2, heads=all)")


def test_tasks_are_understood() -> None:
    assert task("needle") == tasks.Needle()
    assert task("Needle(2048, needles=4)") == tasks.Needle(2048, needles=4)
    assert task("distractors(houses, n=3)") == tasks.Distractors("houses", n=3)
    assert task("coloured-objects") == task("Coloured_Objects()") == tasks.ColouredObjects()
    assert len(known_tasks()) == 9


def test_questions_of_ones_own_are_a_task(tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"prompt": "Two and two?", "answer": 4}\n{"prompt": "Pi?", "answer": 3}\n')
    assert sized(task(str(mine)), 1, None).records == tasks.Questions.load(mine).records[:1]
    with pytest.raises(FoveateError, match="no such file"):
        task("none.jsonl")


@pytest.mark.parametrize(
    "text",
    [
        "", "(", "Emphasize(evidence", "Emphasize(evidence, gain=5); import os", "os.system('ls')",
        "__import__('os')", "Emphasize(evidence, gain=__import__('os').getpid())",
        "Emphasize(evidence, gain=open('x'))", "Emphasize(evidence, gain=1 + 1)",
        "Emphasize(evidence, gain=[x for x in (1,)])", "Emphasize(evidence, gain=lambda: 1)",
        "Emphasize(*[1])", "Emphasize(**{'region': 'a'})", "Emphasize(evidence, gain=f'{1}')",
        "Emphasize.of(1)", "(lambda: 1)()", "Emphasize(evidence, gain=b'1')", "Emphasize(a.b, 1)",
        "Emphasize(evidence, gain=...)", "Emphasize(evidence, gain={**{}})", "1", "dense",
        "Emphasize - Hide", "Emphasize(evidence, nothing=3)", "Emphasize()", "(" * 5000,
        "Emphasize(evidence, gain=-evidence)", "FoveateError(a)", "Emphasize(evidence, gain=3j)",
    ],
)  # fmt: skip
def test_nothing_else_is_understood(text: str) -> None:
    with pytest.raises(FoveateError):
        method(text)
    with pytest.raises(FoveateError):
        task(text)
