"""Relevance where pictures are: what is told of it, several pictures, what is refused."""

from __future__ import annotations

import pytest
import torch

import foveate as fv
from foveate.find.attribution import attribute, attributions, faithfulness
from foveate.find.attribution._flow import through
from seeing import IMAGE_TOKEN, seeing, shown


def test_a_tower_below_a_decoder_is_asked_about_the_decoders_output() -> None:
    model, given = seeing("llava"), shown("llava")
    text, tower = attribute(model, given), attribute(model, given, stack="vision")
    assert (tower.target, tower.value, tower.position) == (text.target, text.value, text.position)
    assert len(text) == len(given["input_ids"][0]) and len(tower) == 5
    assert tower.scores.abs().sum() > 0
    raw = attribute(model, given, "attention", stack="vision")
    assert raw.value is None and raw.target is None and raw.scores.sum() == pytest.approx(1)


def test_two_pictures_are_two_towers_in_a_row() -> None:
    model, one = seeing("llava"), shown("llava")
    pixels = torch.cat([one["pixel_values"], one["pixel_values"].flip(-1)])
    ids = torch.tensor([[5, *[IMAGE_TOKEN] * 4, 9, *[IMAGE_TOKEN] * 4, 7]])
    found = attribute(model, {"input_ids": ids, "pixel_values": pixels}, stack="vision")
    assert len(found) == 10
    text = attribute(model, {"input_ids": ids, "pixel_values": pixels}).scores
    per_picture = found.scores.view(2, 5).sum(1)
    own = text[ids[0] == IMAGE_TOKEN].view(2, 4).sum(1)  # what arrives only grows on its way
    assert (per_picture >= own - 1e-6).all()


def test_items_with_pictures_in_a_batch_are_those_alone() -> None:
    model, one = seeing("llava"), shown("llava")
    pixels = torch.cat([one["pixel_values"], one["pixel_values"].flip(-1)])
    batch = {"input_ids": one["input_ids"].repeat(2, 1), "pixel_values": pixels}
    for stack in (None, "vision"):
        both = attributions(model, batch, target=7, stack=stack)
        for n, found in enumerate(both):
            alone = {"input_ids": one["input_ids"], "pixel_values": pixels[n : n + 1]}
            expected = attribute(model, alone, target=7, stack=stack).scores
            torch.testing.assert_close(found.scores, expected, rtol=1e-4, atol=1e-7)


def test_gradients_with_several_pictures_an_item() -> None:
    pytest.importorskip("captum")
    model, one = seeing("llava"), shown("llava")
    pixels = torch.cat([one["pixel_values"], one["pixel_values"].flip(-1)])
    ids = torch.tensor([[5, *[IMAGE_TOKEN] * 4, 9, *[IMAGE_TOKEN] * 4, 7]])
    given = {"input_ids": ids, "pixel_values": pixels}
    assert len(attribute(model, given, "gradient-input")) == 11
    two = {"input_ids": ids.repeat(2, 1), "pixel_values": torch.cat([pixels, pixels])}
    for method, some in (("integrated-gradients", given), ("gradient-input", two)):
        with pytest.raises(fv.FoveateError, match="one picture an item"):
            attributions(model, some, method)


def test_patches_of_a_classifier_are_deleted() -> None:
    model, given = seeing("vit"), shown("vit")
    found = attribute(model, given)
    curves = faithfulness(model, given, found, fractions=(0, 0.5, 1), random=2)
    logits = model(**given).logits[0].detach()
    assert curves.deletion[0] == pytest.approx(float(logits.softmax(-1)[found.target]), rel=1e-4)
    assert curves.deletion[1] != curves.deletion[0]


def test_what_is_refused() -> None:
    model, given = seeing("llava"), shown("llava")
    embeds = model.get_input_embeddings()(given["input_ids"]).detach()
    bare = {"inputs_embeds": embeds, "pixel_values": given["pixel_values"]}
    with pytest.raises(fv.FoveateError, match="Which tokens"):
        attribute(model, bare, stack="vision")
    image = torch.tensor([[True, True, False], [True, False, False]])
    with pytest.raises(fv.FoveateError, match="explain the others one by one"):
        through(torch.ones(2, 3), image, [], 1)
