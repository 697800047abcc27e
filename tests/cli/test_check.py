"""``foveate check``: its tables, its JSON, its exit status and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from families import build
from foveate.cli import check as room
from foveate.errors import FoveateError

MODULE = """
import torch
from families import build, inputs

def tiny():
    return build("vit")

def pair():
    return build("bert"), inputs("bert", padded="right")

def broken():
    class Shy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = build("llama")
        def forward(self, input_ids):
            return self.inner(input_ids).logits + len(self._forward_hooks)
    return Shy(), {"input_ids": torch.arange(3, 13)[None]}

def wants(size):
    return None

def nothing():
    return 3

class made:
    here = staticmethod(tiny)
number = 7
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command in a folder that holds a module ``mine``."""
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(room, "load", lambda name: (build("llama"), None))
    app = typer.Typer()
    app.command()(room.check)
    yield lambda *arguments: CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    sys.modules.pop("mine", None)


def test_the_tables_and_success(run: Any) -> None:
    result = run("any/model")
    assert result.exit_code == 0, result.output
    for words in ("LlamaForCausalLM", "decoder", "interface", "passthrough", "10 passed"):
        assert words in result.stdout


def test_json(run: Any) -> None:
    result = run("any/model", "--json")
    found = json.loads(result.stdout)
    assert found["ok"] and found["asked"] == "any/model"
    assert found["stacks"][0]["reach"] == "interface"
    assert {one["state"] for one in found["outcomes"]} == {"passed"}


@pytest.mark.parametrize(
    ("path", "model"),
    [("mine:tiny", "ViTModel"), ("mine:pair", "BertModel"), ("mine:made.here", "ViTModel")],
)
def test_a_model_of_ones_own(run: Any, path: str, model: str) -> None:
    found = json.loads(run("--class", path, "--json").stdout)
    assert found["ok"] and found["model"] == model
    assert "mine" not in sys.path


def test_failure_has_exit_status_1(run: Any) -> None:
    result = run("--class", "mine:broken")
    assert result.exit_code == 1
    assert "✗" in result.stdout and "the outputs under attach differ" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "neither was given"),
        (["any/model", "--class", "mine:tiny"], "both were given"),
        (["--class", "mine"], "module:factory was wanted"),
        (["--class", "yours:tiny"], "names nothing that can be imported"),
        (["--class", "mine:big"], "names nothing that can be imported"),
        (["--class", "mine:number"], "is int; give a callable"),
        (["--class", "mine:wants"], "called without arguments and raised TypeError"),
        (["--class", "mine:nothing"], "gave int"),
    ],
)
def test_refused(run: Any, arguments: list[str], words: str) -> None:
    error = run(*arguments).exception
    assert isinstance(error, FoveateError) and words in str(error)
