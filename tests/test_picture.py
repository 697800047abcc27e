"""Picture: what a prompt is for a model that only sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate as fv
import pictured
from foveate.errors import FoveateError
from pictured import noise, processor

pytest.importorskip("PIL")


def tower() -> Any:
    return pictured.model("llava").model.vision_tower


def test_a_batch_of_pictures() -> None:
    picture = fv.Picture(processor("llava"), [noise(32, 32), noise(40, 64)], tower())
    assert picture.inputs["pixel_values"].shape == (2, 3, 16, 16)
    assert [(grid.width, grid.height, grid.lead) for grid in picture.grids] == [
        (32, 32, 1),
        (64, 40, 1),
    ]
    picture.mark_box("box", (0, 0, 32, 20))
    # all of 32, 20 of 32, and the patches below in part
    assert picture.positions("box", 0) == [*range(1, 13)]
    assert picture.positions("box", 1) == [1, 2, 5, 6]
    picture.mark_box("box", (32, 20, 64, 40), item=1)
    assert picture.positions("box", 1) == [1, 2, 5, 6, 11, 12, 15, 16]
    assert picture.regions["image"].sum(-1).tolist() == [16, 16] and picture.reader == 0
    assert "box" in repr(picture) and picture.token_rows[0][:2] == ["<class>", "<patch>"]


def test_a_tower_without_a_class_token() -> None:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = SiglipVisionModel(
        SiglipVisionConfig(**size, intermediate_size=32, image_size=16, patch_size=4)
    ).eval()
    picture = fv.Picture(processor("llava"), noise(16, 16), model)
    assert picture.length == 16 and picture.reader is None
    run = fv.inspect(model, picture)
    assert "rows" not in run.results and run.results["received"].prefill.shape[-1] == 16


def test_refused() -> None:
    own = processor("llava")
    made = fv.Picture(own, noise(16, 16), tower())
    for call, message in (
        (lambda: fv.Picture(own.tokenizer, noise(16, 16), tower()), "no pixels|image processor"),
        (lambda: fv.Picture(object(), noise(16, 16), tower()), "image processor"),
        (lambda: fv.Picture(own, [], tower()), "empty list"),
        (lambda: fv.Picture(own, 7, tower()), "Picture 0 is int"),
        (lambda: fv.Picture(own, noise(16, 16), torch.nn.Linear(2, 2)), "how large its patches"),
        (lambda: made.mark_box("image", (0, 0, 8, 8)), "other than 'image'"),
        (lambda: made.mark_box("box", (0, 0, 8, 8), item=1), "item=1"),
        (lambda: made.mark_box("box", (0, 0, 0, 8)), "is empty"),
        (lambda: made.positions("box"), "no region 'box'"),
    ):
        with pytest.raises(FoveateError, match=message):
            call()
