"""The scripts that train the text-to-image models: what a step sees, and what is shipped."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import foveate as fv
from foveate.tasks.shapes import caption, mentions, render

pytest.importorskip("diffusers")

SCRIPTS = Path(__file__).parents[2] / "scripts" / "train"
NAMES = ("shapes_dit", "shapes_unet")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script by its name; afterwards none of them is known."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    before = set(sys.modules)

    def imported(name: str) -> ModuleType:
        return __import__(name)

    yield imported
    for name in set(sys.modules) - before:
        if str(SCRIPTS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_each_word_is_a_token(script: Any) -> None:
    words = script("_diffusion").tokenizer()
    for text in ("a red circle and an orange cross", "two yellow triangles, left of six diamonds"):
        begin, *told, end = words.convert_ids_to_tokens(words(text).input_ids)
        assert [token.removesuffix("</w>") for token in told] == text.replace(",", " ,").split()
        assert (begin, end) == (words.bos_token, words.eos_token)


def test_a_step_sees_the_same_pictures_again(script: Any) -> None:
    batch = script("_diffusion").batch
    (a, texts, _), (b, again, _), (other, _, _) = batch(3, 64), batch(3, 64), batch(4, 64)
    assert torch.equal(a, b) and texts == again and not torch.equal(a, other)
    assert a.shape == (64, 3, 32, 32) and -1 <= float(a.min()) < float(a.max()) <= 1
    assert 0 < texts.count("") < 20
    assert {sum(mentions(text).values()) for text in texts} == {0, 1, 2}


def test_judged_by_what_is_drawn(script: Any) -> None:
    import random

    drawing, diffusion = script("_drawing"), script("_diffusion")
    rng = random.Random(0)
    scenes = [diffusion.scene(rng, 2) for _ in range(20)]
    texts, pictures = [caption(s) for s in scenes], [render(s) for s in scenes]
    told = drawing.shares(texts, pictures)
    assert told["n"] == 20 and told["right"][0] == 1.0 and told["neglected"][0] == 0.0
    empty = drawing.shares(texts, [0 * picture for picture in pictures])
    assert empty["right"][0] == 0.0 and empty["neglected"][0] == 1.0
    for count in (1, 2):
        asked = drawing.prompts(count, 30)
        assert [len(mentions(text)) for text in asked] == [count] * 30


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_step_and_what_is_shipped(
    script: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, drawing = script(name), script("_drawing")
    trained = module.build()
    start = [p.clone() for p in trained.average.parameters()]
    optimizer = torch.optim.AdamW(trained.live.parameters(), lr=1e-3)
    loss = module.loss_of(trained, 4, False)
    for step in range(2):  # the last layer begins at zero: the others learn from the second step on
        loss(step)["loss"].backward()
        optimizer.step()
        trained.follow(step)
    assert all(p.grad is not None for p in trained.live["denoiser"].parameters())
    moved = [not torch.equal(a, b) for a, b in zip(start, trained.average.parameters())]
    assert sum(moved) > 0.5 * len(moved)

    torch.save({"step": 2, "seconds": 60.0}, tmp_path / "checkpoint.pt")
    (tmp_path / "figures.jsonl").write_text('{"step": 1}\n', encoding="utf-8")
    monkeypatch.setattr(drawing, "SHIPPED", tmp_path / "models")
    monkeypatch.setattr(drawing, "montage", lambda pipe, file: None)
    figures = drawing.figures
    monkeypatch.setattr(drawing, "figures", lambda pipe: figures(pipe, 2, steps=2))
    slug = name.replace("_", "-")
    drawing.ship(trained, module.pipeline(trained), slug, "About it.", tmp_path, 4)
    folder = tmp_path / "models" / slug
    told = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    assert told["steps"] == 2 and told["one"]["n"] == 2 and told["curve"] == [{"step": 1}]
    assert "About it." in (folder / "CARD.md").read_text(encoding="utf-8")
    assert sum(file.stat().st_size for file in folder.glob("**/*")) <= 10e6
    pipe, _ = fv.load(folder)
    stored = dict(pipe.text_encoder.named_parameters())
    for key, value in trained.average["encoder"].named_parameters():
        assert torch.allclose(stored[key], value.float(), rtol=1e-3, atol=1e-6), key
