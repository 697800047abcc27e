"""Inputs made up for a model: they run, and reach what the model has."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from families import NAMES, build
from foveate.check.inputs import example_inputs, vocabulary
from foveate.errors import FoveateError


@pytest.mark.parametrize("name", NAMES)
def test_every_family_runs_on_what_is_made_up(name: str) -> None:
    model = build(name)
    given = example_inputs(model)
    with torch.no_grad():
        model(**given)
    again = example_inputs(model)
    assert all(torch.equal(given[key], again[key]) for key in given)
    assert {value.shape[0] for value in given.values()} == {2}


def test_a_picture_gets_its_places_in_the_text() -> None:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers import LlavaForConditionalGeneration as Llava

    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        image_size=8, patch_size=4,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4,
    )  # fmt: skip
    model = Llava(LlavaConfig(vision_config=vision, text_config=text, image_token_index=63)).eval()
    given = example_inputs(model)
    assert given["pixel_values"].shape == (2, 3, 8, 8)
    assert (given["input_ids"] == 63).sum(1).tolist() == [4, 4]  # 2 x 2 patches


def test_special_tokens_are_no_words() -> None:
    words = vocabulary(build("llama"))
    assert not {0, 1, 2} & set(words) and max(words) < 64


def test_the_first_error_is_told() -> None:
    class Picky(nn.Module):
        main_input_name = "input_ids"

        def forward(self, input_ids: torch.Tensor) -> None:
            raise ValueError("only on Sundays")

    with pytest.raises(FoveateError, match="only on Sundays"):
        example_inputs(Picky())
