"""Decoding against a view that does not see a region."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate as fv
from foveate.decoding import AgainstHidden
from foveate.tasks.shapes import render, scenes


@pytest.fixture(scope="module")
def seen() -> Any:
    model, processor = fv.load("shapes-vlm")
    (scene,) = scenes(1, seed=4, objects=(2, 2))
    content = [
        {"type": "image", "image": render(scene)},
        {"type": "text", "text": "describe the picture."},
    ]
    return model, processor, fv.Prompt(processor, [{"role": "user", "content": content}])


def test_alpha_zero_is_the_model(seen: Any) -> None:
    model, processor, prompt = seen
    told = model.generate(**prompt.inputs, max_new_tokens=20, do_sample=False)
    plain = processor.decode(told[0, prompt.length :], skip_special_tokens=True)
    assert AgainstHidden("image", alpha=0).generate(model, processor, prompt, 20) == [plain]


def test_the_first_token_is_the_formulas(seen: Any) -> None:
    model, processor, prompt = seen
    with torch.no_grad():
        whole = model(**prompt.inputs).logits[0, -1].double().log_softmax(-1)
        with fv.attach(model, fv.Hide("image"), prompt=prompt):
            blind = model(**prompt.inputs).logits[0, -1].double().log_softmax(-1)
    for alpha in (0.5, 40.0):
        scores = (1 + alpha) * whole - alpha * blind
        scores[whole.exp() < 0.1 * whole.exp().max()] = -torch.inf
        (said,) = AgainstHidden("image", alpha=alpha).generate(model, processor, prompt, 1)
        assert said == processor.decode([int(scores.argmax())], skip_special_tokens=True)
    free = AgainstHidden("image", alpha=40.0, plausibility=None)
    (said,) = free.generate(model, processor, prompt, 1)
    assert said == processor.decode([int((41 * whole - 40 * blind).argmax())])


def test_bad_settings_are_refused(seen: Any) -> None:
    model, processor, prompt = seen
    for bad in ({"alpha": -1.0}, {"alpha": True}, {"alpha": float("inf")}, {"plausibility": 0.0}):
        with pytest.raises(fv.FoveateError, match="was wanted"):
            AgainstHidden("image", **bad)
    with pytest.raises(fv.FoveateError, match="a region 'map'"):
        AgainstHidden("map").generate(model, processor, prompt)
