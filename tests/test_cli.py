"""The command line: what it prints, its JSON, its reports, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from foveate.cli import app, common, demo
from foveate.methods.emphasis import Emphasize
from foveate.tasks.facts import LIGHTHOUSE

CHAT = "Ann lives in Oslo. Bob lives in Rome. Where does Bob live?"
MARKS = ["--mark", "ann=Ann lives in Oslo.", "--mark", "bob=Bob lives in Rome."]


@pytest.fixture
def run(smollm2: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command; any --model is a tiny random one with the embedded tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(smollm2[1]), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, pad_token_id=2, eos_token_id=2,
        initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    monkeypatch.setattr(common, "load", lambda name: (model, smollm2[1]))
    monkeypatch.setattr(demo, "TIMED", 2)
    return call


def call(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=input)


def refused(result: Result, *words: str) -> None:
    """One red line, exit code 2, nothing on stdout, no traceback."""
    assert result.exit_code == 2, result.output
    assert result.stdout == "" and result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


# -- see -------------------------------------------------------------------------------------------
def test_see(run: Any) -> None:
    result = run("see", CHAT, *MARKS, "--ablate", "--max-new-tokens", "3")
    assert result.exit_code == 0, result.output
    for word in ("ann", "bob", "first", "Looked at most", "sink", "nats"):
        assert word in result.stdout


def test_see_json(run: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run("see", CHAT, *MARKS, "--json", "--report", str(page))
    found = json.loads(result.stdout)
    regions = {one["region"]: one for one in found["regions"]}
    assert {"ann", "bob", "user", "special", "first"} <= set(regions)
    assert regions["bob"]["tokens"] == 5 and 0 < regions["bob"]["last"] < 1
    assert found["sink"]["last"] == regions["first"]["last"]
    assert len(found["looked_at"]) == 8 and found["report"] == str(page)
    assert "<!doctype html>" in page.read_text(encoding="utf-8")


def test_see_reads_files_and_chats(run: Any, tmp_path: Path) -> None:
    text, chat = tmp_path / "p.txt", tmp_path / "chat.json"
    text.write_text(CHAT, encoding="utf-8")
    chat.write_text(json.dumps([{"role": "user", "content": CHAT}]), encoding="utf-8")
    told = [
        json.loads(run("see", *how, "--json", input=given).stdout)
        for how, given in (
            ([CHAT], None),
            (["--file", str(text)], None),
            (["--file", "-"], CHAT),
            (["--messages", str(chat)], None),
        )
    ]
    assert told[0] == told[1] == told[2] == told[3]
    assert json.loads(run("see", CHAT, "--raw", "--json").stdout)["tokens"] < told[0]["tokens"]


def test_see_refuses(run: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    refused(run("see"), "none of them was given")
    refused(run("see", CHAT, "--file", "x"), "PROMPT and --file")
    refused(run("see", "--file", str(tmp_path / "none")), "cannot be read")
    bad.write_text("{", encoding="utf-8")
    refused(run("see", "--messages", str(bad)), "no JSON")
    bad.write_text('{"role": "user"}', encoding="utf-8")
    refused(run("see", "--messages", str(bad)), "no chat")
    refused(run("see", ""), "empty")
    refused(run("see", CHAT, "--mark", "bob"), "NAME=TEXT")
    refused(run("see", CHAT, "--mark", "x=not there"), "does not occur")
    refused(run("see", CHAT, "--report", str(tmp_path / "none" / "r.html")), "no folder")


def test_see_refuses_a_missing_model() -> None:
    refused(call("see", CHAT, "--model", "/no/such/model"), "/no/such/model")


# -- steer -----------------------------------------------------------------------------------------
def test_steer(run: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run(
        "steer", CHAT, "--emphasize", "Bob lives in Rome.", "--also-suppress", "Ann lives in Oslo.",
        "--gain", "4", "--layers", "0-1", "--heads", "0,1", "--max-new-tokens", "3",
        "--report", str(page),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "without steering" in result.stdout and "gain 0.25" in result.stdout
    assert "Before and after" in page.read_text(encoding="utf-8")


def test_steer_json_follows_the_formula(run: Any) -> None:
    """In layer 0 the scores do not depend on steering: p' = g p / (1 + (g - 1) p), head by head."""
    gain = 7.0
    result = run(
        "steer", CHAT, *MARKS, "--emphasize", "bob", "--gain", str(gain), "--heads", "0.1",
        "--max-new-tokens", "2", "--json",
    )  # fmt: skip
    found = json.loads(result.stdout)
    before, after = (
        {(layer, head): mass for layer, head, mass in one["top"]}
        for which in ("without", "steered")
        for one in found[which]["regions"]
        if one["region"] == "bob"
    )
    p = before[0, 1]
    assert after[0, 1] == pytest.approx(gain * p / (1 + (gain - 1) * p), rel=2e-3)
    assert after[0, 0] == before[0, 0]
    assert found["without"]["tokens"] == 2 and found["steered"]["seconds"] > 0


def test_steer_refuses(run: Any) -> None:
    refused(run("steer", CHAT), "--emphasize")
    refused(run("steer", CHAT, "--emphasize", "Carl"), "does not occur")
    refused(run("steer", CHAT, "--emphasize", "user", "--gain", "0"), "gain")
    refused(run("steer", CHAT, "--emphasize", "user", "--gain", "nan"), "gain")
    refused(run("steer", CHAT, "--also-suppress", "user", "--gain", "0"), "gain")
    refused(run("steer", CHAT, "--emphasize", "user", "--layers", "3-x"), "3-10,12")
    refused(run("steer", CHAT, "--emphasize", "user", "--layers", "5-3"), "5-3")
    refused(run("steer", CHAT, "--emphasize", "user", "--layers", "7"), "layer 7")
    refused(run("steer", CHAT, "--emphasize", "user", "--heads", "9"), "head 9")
    refused(run("steer", CHAT, "--emphasize", "user", "--heads", "1.x"), "layer.head")


# -- demo ------------------------------------------------------------------------------------------
def test_demo(run: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run("demo", "--questions", "2", "--report", str(page))
    assert result.exit_code == 0, result.output
    assert "Tarn Point" in result.stdout and "2 questions" in result.stdout
    assert "Hidden from attention" in page.read_text(encoding="utf-8")


def test_demo_json(run: Any) -> None:
    found = json.loads(run("demo", "--questions", "2", "--json").stdout)
    assert found["table"]["questions"] == len(found["outcomes"]) == 2
    assert set(found["story"]["without"]["masses"]) == {
        "Merrow Island", "Gull Rock", "Tarn Point", "Ash Head",
    }  # fmt: skip
    assert found["seconds_per_token"]["steered"] > 0


def test_the_story_holds_for_the_embedded_model(smollm2: tuple[Any, Any]) -> None:
    """Wrong as it is, right when turned, and it follows the control."""
    live, tokenizer = smollm2
    prompt, names = demo.question(tokenizer, LIGHTHOUSE)
    plain = demo.tell(live, prompt, names)
    steered = demo.tell(live, prompt, names, Emphasize("Tarn Point", math.e**3))
    control = demo.tell(live, prompt, names, Emphasize("Merrow Island", math.e**3))
    assert not LIGHTHOUSE.right(plain.answer) and "1934" in plain.answer
    assert LIGHTHOUSE.right(steered.answer) and LIGHTHOUSE.follows(control.answer)
    looked = dict(zip(names, plain.masses[demo.parting(plain, steered)], strict=True))
    assert looked["Tarn Point"] == min(looked.values())


# -- the rest --------------------------------------------------------------------------------------
def test_version_and_help() -> None:
    assert call("--version").stdout.startswith("foveate ")
    listed = call("--help").stdout
    for name in (
        "demo",
        "see",
        "steer",
        "heads",
        "compare",
        "advise",
        "tune",
        "reproduce",
        "papers",
    ):
        assert name in listed
    assert call("sea").exit_code == 2


def test_papers_is_there() -> None:
    assert call("papers", "--json").exit_code == 0


@pytest.mark.parametrize(
    ("text", "wanted"), [("3", [3]), ("3-5,9", [3, 4, 5, 9]), (" 1 , 2 ", [1, 2]), (None, None)]
)
def test_numbers(text: str | None, wanted: list[int] | None) -> None:
    assert common.numbers("--layers", text) == wanted


def test_head_numbers() -> None:
    assert common.head_numbers("5.0,7.3,5.2") == {5: [0, 2], 7: [3]}
    assert common.head_numbers("0-2") == [0, 1, 2]
