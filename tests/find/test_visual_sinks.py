"""Visual sinks: which dimensions, which patches, how much of the attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate as fv
from families import build, inputs, maps
from foveate.find import find_visual_sinks
from foveate.methods.vision.var import default_tau

LENGTH, LAYERS = 11, 2


def planted() -> Any:
    """A llama in which token 7 is massive in dimension 5, from the embedding on."""
    model = build("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[7, 5] = 40.0
    return model


def given() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    found = inputs("llama")
    ids = found["input_ids"]
    ids[ids == 7] = 8
    ids[0, 4] = ids[1, 6] = ids[1, 1] = 7
    picture = torch.zeros_like(ids, dtype=torch.bool)
    picture[:, 3:8] = True
    return found, picture


def test_planted_sinks_are_found() -> None:
    inputs_, picture = given()
    regions = {"image": picture}
    assert find_visual_sinks(planted(), inputs_, regions=regions).tau == default_tau(32)
    found = find_visual_sinks(planted(), inputs_, regions=regions, count=1, tau=4.5)
    assert found.dims == (5,) and found.tau == 4.5
    for layer in found.sinks:  # one patch a picture; the token outside it is none
        assert layer.nonzero().tolist() == [[0, 4], [1, 6]]
    assert found.values.shape == (LAYERS, 2, LENGTH) and bool((found.values[:, 1, 1] > 4.5).all())
    assert "dims=(5,)" in repr(found)


def test_the_share_is_that_of_the_attention_to_the_picture() -> None:
    inputs_, picture = given()
    model = planted()
    found = find_visual_sinks(model, inputs_, regions={"image": picture[0]}, dims=(5,), tau=4.5)
    eager = build("llama", "eager")
    eager.load_state_dict(model.state_dict())
    last = maps("llama", inputs_, eager)["decoder"][..., -1, :]
    for item, place in ((0, 4), (1, 6)):
        want = last[:, item, :, place] / last[:, item, :, 3:8].sum(-1)
        assert torch.allclose(found.share[:, item], want, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"regions": None}, "no region 'image'"),
        ({"image": "picture"}, "no region 'picture'"),
        ({"count": 0}, "whole number from 1"),
        ({"count": 1.5}, "whole number from 1"),
        ({"dims": (77,)}, "dimensions 0–31"),
        ({"tau": -1.0}, "tau"),
    ],
)
def test_what_is_refused(options: dict[str, Any], sentence: str) -> None:
    inputs_, picture = given()
    with pytest.raises(fv.FoveateError, match=sentence):
        find_visual_sinks(build("llama"), inputs_, **({"regions": {"image": picture}} | options))
