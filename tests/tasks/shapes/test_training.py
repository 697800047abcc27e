"""The training scripts: a run that was stopped goes on as it would have; packing hides well."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foveate.tasks.shapes import render, scenes

SCRIPTS = Path(__file__).parents[3] / "scripts" / "train"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def trained(fit: Any, file: Path, *minutes: float) -> Tensor:
    """The weights of a small model after runs of so many minutes each, one step a minute."""
    for limit in minutes:
        torch.manual_seed(0)
        module = nn.Linear(3, 1)
        clock = [0.0]

        def loss(step: int, module: nn.Module = module, clock: Any = clock) -> dict[str, Tensor]:
            clock[0] += 60
            x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
            return {"loss": (module(x) - x.sum(-1, keepdim=True)).square().mean()}

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("time.monotonic", lambda clock=clock: clock[0])
            options = {"steps": 12, "rate": 0.1, "file": file, "warm": 2, "report": 4}
            fit(module, loss, minutes=limit, **options)
    return module.weight.detach()


def test_a_stopped_run_goes_on_where_it_was(script: Any, tmp_path: Path) -> None:
    fit = script("_common").fit
    whole = trained(fit, tmp_path / "whole.pt", 99)
    parts = trained(fit, tmp_path / "parts.pt", 5, 1, 99)
    assert torch.equal(whole, parts)
    state = torch.load(tmp_path / "parts.pt", weights_only=True)
    assert state["step"] == 12
    curve = [json.loads(line) for line in (tmp_path / "whole.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curve] == [4, 8, 12]
    assert curve[-1]["loss"] < curve[0]["loss"]


def test_conversations_in_one_sequence_do_not_see_each_other(script: Any) -> None:
    parts = script("_vlm")
    tokenizer = parts.tokenizer_of_the_world()
    model, pack = parts.build(tokenizer).eval(), parts.Packer(tokenizer)
    drawn = scenes(2, 4, objects=(2, 3))
    pixels = script("_common").pictures(drawn)
    lessons = [parts.lesson(scene, 1) for scene in drawn]
    assert all(len(lesson) >= 4 for lesson in lessons)
    with torch.no_grad():
        together, targets = parts.supervised(model, pixels, pack(lessons))
        alone = [
            parts.supervised(model, pixels[i : i + 1], pack([[pair]]))
            for i, lesson in enumerate(lessons)
            for pair in lesson
        ]
    assert torch.allclose(together, torch.cat([logits for logits, _ in alone]), atol=1e-5)
    assert torch.equal(targets, torch.cat([wanted for _, wanted in alone]))


def test_a_conversation_is_trained_on_as_it_is_asked(script: Any) -> None:
    """The packed sequence is what processor and chat template make, answer by answer."""
    parts = script("_vlm")
    tokenizer = parts.tokenizer_of_the_world()
    model, pack = parts.build(tokenizer).eval(), parts.Packer(tokenizer)
    processor = parts.processor_of(tokenizer)
    (scene,) = scenes(1, 4)
    question, answer = "is there a red circle?", "yes"
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    inputs = processor(
        text=processor.apply_chat_template([user, said]),
        images=render(scene),
        return_tensors="pt",
    )
    with torch.no_grad():
        packed, targets = parts.supervised(
            model, inputs["pixel_values"], pack([[(question, answer)]])
        )
        whole = model(**inputs).logits[0, :-1]
    assert tokenizer.convert_ids_to_tokens(targets.tolist()) == ["yes", "</s>"]
    assert torch.allclose(packed, whole[-2:], atol=1e-5)
    assert inputs["input_ids"][0, -2:].tolist() == targets.tolist()
