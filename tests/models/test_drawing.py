"""The text-to-image models that come with the package draw what their cards say."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import foveate as fv
from foveate.tasks.shapes import check

pytest.importorskip("diffusers")

LEAST = {"shapes-dit": 6, "shapes-unet": 3}  # of eight pictures; the cards have the shares
HOME = Path(fv.__file__).parent / "models"
NAMES = [name for name in ("shapes-dit", "shapes-unet") if (HOME / name).is_dir()]
pytestmark = pytest.mark.skipif(not NAMES, reason="no text-to-image model comes with this package")


@cache
def loaded(name: str) -> Any:
    pipe, nothing = fv.load(name)
    assert nothing is None
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, prompts: list[str]) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return pipe(prompts, num_inference_steps=12, guidance_scale=4, generator=generator).images


@pytest.mark.parametrize("name", NAMES)
def test_one_thing_is_drawn_as_asked(name: str) -> None:
    asked = [("circle", "red"), ("square", "blue"), ("triangle", "green"), ("square", "yellow")]
    pictures = drawn(loaded(name), [f"a {colour} {shape}" for shape, colour in asked for _ in "ab"])
    right = [
        [thing.kind for thing in check(picture)] == [asked[i // 2]]
        for i, picture in enumerate(pictures)
    ]
    assert sum(right) >= LEAST[name], right


@pytest.mark.parametrize("name", NAMES)
def test_what_the_words_get_at_each_step(name: str) -> None:
    pipe = loaded(name)
    prompt = fv.Prompt(pipe.tokenizer, "a red circle")
    prompt.mark("colour", "red")
    stack = "joint" if name == "shapes-dit" else "cross"
    with fv.attach(pipe, fv.Measure(fv.mass("colour"), stack=stack), prompt=prompt) as run:
        drawn(pipe, ["a red circle"])
    steps = sorted({call.step for call in run.calls if call.batch == 2})
    assert steps == list(range(12))
    result = run.results["mass:colour"]
    mass = result.prefill if name == "shapes-dit" else result.stack("unet.mid.cross").prefill
    assert float(mass[:, 0].max()) == 0.0 < float(mass[:, 1].min())


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_was_measured(name: str) -> None:
    folder = HOME / name
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    card = (folder / "CARD.md").read_text(encoding="utf-8")
    for part in ("one", "two"):
        value, low, high = (100 * share for share in figures[part]["right"])
        assert f"{value:.0f} % ({low:.0f} to {high:.0f})" in card
        assert figures[part]["n"] >= 200
    assert figures["two"]["right"][2] < figures["one"]["right"][1]  # visibly below
    assert sum(file.stat().st_size for file in folder.glob("**/*")) <= 10e6
