"""The shipped models: loaded by name, as good as their figures say, and attached like any other."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from foveate.tasks.shapes import Scene, answered, questions, render, scenes

MODELS = Path(fv.__file__).parent / "models"
MEGABYTES = 10


@cache
def vlm() -> tuple[Any, Any]:
    return fv.load("shapes-vlm")


def asked(drawn: list[Scene], texts: list[str]) -> dict[str, Tensor]:
    _, processor = vlm()
    chats = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        for text in texts
    ]
    return processor(
        text=[processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats],
        images=[render(scene) for scene in drawn],
        padding=True,
        return_tensors="pt",
    )


def replies(inputs: dict[str, Tensor], tokens: int = 4) -> list[str]:
    model, processor = vlm()
    out = model.generate(**inputs, max_new_tokens=tokens)
    return processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_what_is_shipped_is_small_and_says_what_it_can() -> None:
    names = sorted(path.parent.name for path in MODELS.glob("shapes-*/CARD.md"))
    assert "shapes-vlm" in names
    for name in names:
        weights = list((MODELS / name).rglob("*.safetensors"))
        assert weights and sum(file.stat().st_size for file in weights) < MEGABYTES * 2**20
        assert json.loads((MODELS / name / "figures.json").read_text(encoding="utf-8"))


def test_the_vlm_comes_as_a_pair_in_float32() -> None:
    model, processor = vlm()
    assert type(model).__name__ == "LlavaForConditionalGeneration" and not model.training
    assert next(model.parameters()).dtype == torch.float32
    assert type(processor).__name__ == "LlavaProcessor"
    assert processor.tokenizer.padding_side == "left"
    inputs = asked(scenes(1, 3), ["is there a red circle?"])
    assert (inputs["input_ids"] == model.config.image_token_index).sum() == 64
    half, _ = fv.load("shapes-vlm", dtype="bfloat16")
    assert next(half.parameters()).dtype == torch.bfloat16


def test_words_of_the_world_come_back_as_they_went() -> None:
    tokenizer = vlm()[1].tokenizer
    text = "an orange cross, two red circles and a blue square left of a cyan diamond."
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text
    assert tokenizer("a zebra")["input_ids"][1] == tokenizer.unk_token_id


@pytest.mark.parametrize("sort, least", [("existence", 0.85), ("colour", 0.75), ("shape", 0.75)])
def test_the_vlm_answers(sort: str, least: float) -> None:
    pairs = [
        (scene, question)
        for i, scene in enumerate(scenes(60, 77, objects=(1, 3)))
        for question in questions(scene, i, sorts=[sort])
    ]
    said = replies(asked([s for s, _ in pairs], [q.text for _, q in pairs]))
    right = [answered(q, reply) for (_, q), reply in zip(pairs, said, strict=True)]
    assert sum(right) >= least * len(right)


def test_the_vlm_looks_at_the_picture() -> None:
    (scene,) = scenes(1, 5, objects=(2, 2), repeats=0)
    inputs = asked([scene] * 2, ["is there a red circle?"] * 2)
    inputs["pixel_values"][1] = inputs["pixel_values"][1].flip(-1)
    logits = vlm()[0](**inputs).logits[:, -1]
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_padding_changes_nothing() -> None:
    drawn = scenes(3, 9, objects=(1, 3))
    texts = ["describe the picture.", "is there a red circle?", "what colour is the square?"]
    together = replies(asked(drawn, texts), 24)
    alone = [replies(asked([s], [t]), 24)[0] for s, t in zip(drawn, texts, strict=True)]
    assert together == alone


# --------------------------------------------------------------------------- attached


def test_attached_without_a_method_it_is_the_same_bit_by_bit() -> None:
    model, _ = vlm()
    inputs = asked(scenes(2, 9), ["describe the picture."] * 2)
    plain = model(**inputs).logits
    with fv.attach(model):
        assert torch.equal(model(**inputs).logits, plain)


def test_image_tokens_are_a_region() -> None:
    model, _ = vlm()
    inputs = asked(scenes(2, 9), ["is there a red circle?", "describe the picture."])
    image = inputs["input_ids"] == model.config.image_token_index
    model.set_attn_implementation("eager")
    try:
        truth = model(**inputs, output_attentions=True).attentions
    finally:
        model.set_attn_implementation("sdpa")
    oracle = torch.stack(truth).mul(image[:, None, None]).sum(-1)  # [L, B, H, S]
    with fv.attach(model, fv.Measure(fv.mass("image")), regions={"image": image}) as run:
        model(**inputs)
    seen = run.results["mass:image"].prefill
    assert seen.shape == oracle.shape == (4, 2, 6, inputs["input_ids"].shape[1])
    real = inputs["attention_mask"].bool()[:, None].expand(-1, 6, -1)
    assert torch.allclose(seen[:, real], oracle[:, real], atol=1e-5)

    gained = fv.Emphasize("image", gain=4.0)
    with fv.attach(model, gained, fv.Measure(fv.mass("image")), regions={"image": image}) as run:
        model(**inputs)
    first = run.results["mass:image"].prefill[0][real], oracle[0][real]
    assert torch.allclose(first[0], 4 * first[1] / (1 + 3 * first[1]), atol=1e-5)


def test_the_vision_tower_is_a_stack_of_its_own() -> None:
    model, _ = vlm()
    inputs = asked(scenes(2, 9), ["describe the picture."] * 2)
    with fv.attach(model, fv.Measure(fv.entropy(), stack="vision")) as run:
        model(**inputs)
    assert run.results["entropy"].prefill.shape == (3, 2, 6, 65)


def test_a_model_that_is_not_shipped_is_refused_by_name() -> None:
    with pytest.raises(fv.FoveateError, match=r"no model 'shapes-gpt'.*shapes-vlm"):
        fv.load("shapes-gpt")
