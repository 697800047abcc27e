"""``foveate see --image``: attention on pictures, in the terminal, as JSON and as a page."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import foveate as fv
import pictured
from foveate.cli import app, common
from foveate.cli import see as room

Image = pytest.importorskip("PIL.Image")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["see", *arguments])


@pytest.fixture
def picture(tmp_path: Path) -> str:
    file = tmp_path / "it.png"
    Image.fromarray(pictured.noise(16, 16)).save(file)
    return str(file)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of models that were loaded: each is a tiny one of LLaVA's class."""
    names: list[str] = []

    def load(name: str) -> Any:
        names.append(name)
        return pictured.model("llava"), pictured.processor("llava")

    monkeypatch.setattr(common, "load", load)
    return names


def test_a_picture_is_shown(asked: list[str], picture: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = call(
        "what?", "--image", picture, "--box", "corner=0,0,8,8", "--ablate", "--max-new-tokens", "2",
        "--report", str(page),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert asked == ["shapes-vlm"]  # the default model does not see
    for word in ("corner", "image", "On picture 1", "4 × 4 patches", "█", "nats"):
        assert word in result.stdout
    assert '"rows":4' in page.read_text(encoding="utf-8")


def test_as_json(asked: list[str], picture: str) -> None:
    result = call("what?", "--image", picture, "--box", "corner=0,0,8,8", "--model", "x", "--json")
    assert result.exit_code == 0 and asked == ["x"]
    told = json.loads(result.stdout)
    (one,) = told["pictures"]
    assert (one["rows"], one["columns"]) == (4, 4)
    corner = next(mass for mass in told["regions"] if mass["region"] == "corner")
    there = sum(sum(row[:2]) for row in one["shares"][:2])
    assert corner["tokens"] == 4 and corner["last"] == pytest.approx(there, rel=1e-3)


def test_a_classifier_needs_no_text(monkeypatch: pytest.MonkeyPatch, picture: str) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    own = ViTConfig(**size, intermediate_size=32, image_size=16, patch_size=4, num_labels=3)
    model = ViTForImageClassification(own).eval()
    monkeypatch.setattr(room, "load", lambda name: (model, pictured.processor("llava")))
    told = json.loads(call("--image", picture, "--model", "vit", "--json").stdout)["classes"]
    with torch.no_grad():
        wanted = model(**fv.Picture(pictured.processor("llava"), picture, model).inputs).logits[0]
    assert [one["class"] for one in told] == [f"LABEL_{i}" for i in wanted.argsort().flip(0)]
    assert sum(one["probability"] for one in told) == pytest.approx(1)
    result = call("--image", picture, "--model", "vit", "--box", "corner=0,0,8,8", "--ablate")
    assert f"It says {told[0]['class']} (" in result.stdout
    assert result.exit_code == 0, result.output
    for word in ("class token", "corner", "LABEL_", "On picture 1"):
        assert word in result.stdout


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["what?", "--box", "corner=0,0,8,8"], "--box names a part of a picture"),
        (["what?", "--image", "PICTURE", "--box", "corner=0,0,8"], "NAME=X0,Y0,X1,Y1"),
        (
            ["what?", "--image", "PICTURE", "--box", "corner=40,0,50,9"],
            "covers nothing of any patch",
        ),
        (["what?", "--image", "PICTURE", "--raw"], "not with --raw"),
        (["what?", "--image", "nowhere.png"], "cannot be read"),
    ],
)
def test_refused(asked: list[str], picture: str, arguments: list[str], word: str) -> None:
    result = call(*(picture if one == "PICTURE" else one for one in arguments))
    assert result.exit_code == 2 and word in result.stderr, result.output
    assert "Traceback" not in result.stderr


def test_a_model_that_writes_is_told_something(
    monkeypatch: pytest.MonkeyPatch, picture: str
) -> None:
    pair = pictured.model("llava"), pictured.processor("llava")
    monkeypatch.setattr(room, "load", lambda name: pair)
    result = call("--image", picture, "--model", "x")
    assert result.exit_code == 2 and "say something about the picture" in result.stderr


def test_what_is_not_needed_is_not_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of what transformers says while it loads, only that torchvision is not installed."""
    told = logging.getLogger("transformers.utils.import_utils")
    weights = logging.getLogger("transformers.modeling_utils")
    for logger in (told, weights):
        logger.addHandler(caplog.handler)
        monkeypatch.setattr(logger, "disabled", False)

    def loads(name: str) -> tuple[str, None]:
        told.warning("it requires torchvision")
        weights.warning("newly initialized")
        return name, None

    monkeypatch.setattr(common, "_load", loads)
    level = told.level
    assert common.load("x") == ("x", None)
    assert (
        "newly initialized" in caplog.messages and "it requires torchvision" not in caplog.messages
    )
    assert told.level == level
    for logger in (told, weights):
        logger.removeHandler(caplog.handler)
