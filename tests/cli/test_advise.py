"""foveate advise: what is refused before a model is loaded, what is printed, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from foveate.advise import candidates
from foveate.advise import run as found
from foveate.cli import advise as command
from foveate.cli import common
from foveate.errors import FoveateError
from foveate.policy import Policy


@pytest.fixture
def run(smollm2: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run the command on a tiny random model with the embedded tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(smollm2[1]), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, pad_token_id=2, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    monkeypatch.setattr(common, "load_model", lambda name: (model, smollm2[1]))
    monkeypatch.setattr(command, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(found, "candidates", lambda *a: candidates(*a)[:3])
    monkeypatch.setattr(found._Advising, "_diagnosis", lambda *a: None)  # tested where it lives
    monkeypatch.setattr(found._Advising, "_controls", lambda self: None)
    app = typer.Typer()
    app.command()(command.advise)
    return lambda *given: CliRunner().invoke(app, list(given))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    lines = [
        {"prompt": f"What is in box {k}?", "context": [f"Box {k}: ink.", f"Box {k + 1}: tea."],
         "answer": "ink"}
        for k in range(14)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_from_a_file_to_a_policy_and_a_page(run: Any, mine: Path, tmp_path: Path) -> None:
    policy, page = tmp_path / "policy.toml", tmp_path / "report.html"
    done = run("--data", str(mine), "--minutes", "0.6", "--max-new-tokens", "2",
               "--out", str(policy), "--report", str(page))  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "As it is" in done.output and "0 of 14 right" in done.output
    assert "Verdict" in done.output and "change nothing" in done.output
    assert f"policy: {policy} (it changes nothing)" in done.output
    assert Policy.load(policy).methods == () and page.stat().st_size > 1000
    assert not list((tmp_path / "home" / "advise").iterdir())  # ended: nothing to take up


def test_what_one_has_competes(
    run: Any, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []

    def stopped(*_: Any, policies: Any, **more: Any) -> None:
        given.extend(one.name for one in policies)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "find", stopped)
    files = [str(Policy((), [name], name=name).save(tmp_path / f"{k}.toml"))
             for k, name in enumerate(("question twice", "quote first"))]  # fmt: skip
    run("--data", str(mine), "--policy", files[0], "--policy", files[1])
    assert given == ["question twice", "quote first"]


def test_json_is_all_there_is_on_stdout(run: Any, mine: Path) -> None:
    done = run("--data", str(mine), "--minutes", "0.5", "--max-new-tokens", "2", "--json")
    said = json.loads(done.stdout)
    assert said["verdict"]["recommended"] == "nothing" and said["settings"]["n"] > 0


def test_an_interrupt_says_how_to_go_on(
    run: Any, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*given: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "find", stopped)
    done = run("--data", str(mine))
    assert done.exit_code == 130 and "--resume" in done.output


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--data", "nowhere.jsonl"], "no such file"),
        (["--data", "distractors", "--check", "exact"], "checks its own answers"),
        (["--data", "distractors", "--goal", "fame"], "it is one of accuracy"),
        (["--data", "distractors", "--policy", "nowhere.toml"], "no such file"),
        (["--data", "distractors", "--out", "/nowhere/policy.toml"], "no such folder"),
        (["--data", "distractors", "--report", "/nowhere/a.html"], "no folder"),
    ],
)
def test_refusals(run: Any, given: list[str], sentence: str, tmp_path: Path) -> None:
    done = run(*given)
    assert isinstance(done.exception, FoveateError) and sentence in str(done.exception)
    assert not list(tmp_path.glob("home/advise/*"))
