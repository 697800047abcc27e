"""What test-time registers are refused, what comes out of towers in larger models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate as fv
from families import build
from foveate.find.registers import patch_norms, register_neurons
from seeing import seeing, shown
from timm_alone import imported

PIXELS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"neurons": {0: [1.5]}}, "a mapping layer -> neurons"),
        ({"neurons": [3]}, "a mapping layer -> neurons"),
        ({"neurons": {0: [-1]}}, "counted from 0"),
        ({"neurons": "all"}, "a mapping layer -> neurons"),
        ({"neurons": {}, "registers": 0}, "registers=0"),
        ({"neurons": {}, "registers": True}, "registers=True"),
        ({"neurons": {}, "lead": -1}, "lead=-1"),
    ],
)
def test_bad_input(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        fv.TestTimeRegisters(**options)


def test_one_neuron_or_pairs_are_the_same_thing() -> None:
    one = fv.TestTimeRegisters({0: 3, 1: [2, 2, 1]})
    assert one.neurons == fv.TestTimeRegisters([(1, 2), (0, 3), (1, 1)]).neurons
    assert one.neurons == {0: (3,), 1: (1, 2)} and "3 neurons" in repr(one)


@pytest.mark.parametrize(
    ("neurons", "sentence"), [({7: [0]}, "names layer 7"), ({0: [48]}, "names neuron 48")]
)
def test_neurons_that_are_not_there(neurons: dict[int, list[int]], sentence: str) -> None:
    model = build("vit")
    with (
        pytest.raises(fv.FoveateError, match=sentence),
        fv.attach(model, fv.TestTimeRegisters(neurons)),
    ):
        model(pixel_values=PIXELS)
    model(pixel_values=PIXELS)  # nothing is left on it


def test_towers_that_are_refused() -> None:
    with (
        pytest.raises(fv.FoveateError, match="stack"),
        fv.attach(build("llama"), fv.TestTimeRegisters({})),
    ):
        pass
    model = build("vit")
    model.register_module("rotary_emb", torch.nn.Identity())
    with (
        pytest.raises(fv.FoveateError, match="positions of tokens to each other"),
        fv.attach(model, fv.TestTimeRegisters({})),
    ):
        pass


def test_a_decoder_that_sees_gets_the_patches_it_expects() -> None:
    model, given = seeing("llava"), shown("llava")
    with torch.no_grad():
        base = model(**given).logits
        with fv.attach(model, fv.TestTimeRegisters({0: [3, 4]}, registers=2)):
            found = model(**given).logits
        assert found.shape == base.shape and (found - base).abs().max() > 1e-6
        torch.testing.assert_close(model(**given).logits, base)


def test_a_backbone_that_reads_between_its_blocks_gets_the_patches_alone() -> None:
    import transformers as tf

    torch.manual_seed(0)
    config = tf.Dinov2Config(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=8, patch_size=4,
        out_features=["stem", "stage1", "stage3"],
    )  # fmt: skip
    model = tf.Dinov2Backbone(config).eval()
    method = fv.TestTimeRegisters({0: [3]}, registers=2)
    with torch.no_grad():
        for _ in range(2):  # the library's own hooks are there from the first forward on
            with fv.attach(model, method):
                found = model(PIXELS).feature_maps
            base = model(PIXELS).feature_maps
            assert [one.shape for one in found] == [one.shape for one in base]
        with fv.attach(model, method):  # the last map is the tower's output, laid out as a picture
            last = model.layernorm(model.encoder(model.embeddings(PIXELS)).last_hidden_state)
    torch.testing.assert_close(found[0], base[0])
    torch.testing.assert_close(found[-1].flatten(2).mT, last[:, 1:])


def test_layers_that_are_read_one_by_one() -> None:
    with imported() as timm:
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, embed_dim=24).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), fv.attach(model, fv.TestTimeRegisters({0: [3]})):
        whole = model.forward_features(pixels)
        last, between = model.forward_intermediates(pixels, indices=[0, 2], output_fmt="NLC")
    assert [one.shape for one in between] == [(2, 4, 24)] * 2
    torch.testing.assert_close(last, whole)
    torch.testing.assert_close(model.norm(between[1]), whole[:, 1:])


def test_pairs_of_one_call_are_those_of_every_picture_alone() -> None:
    model = build("clip_vision").double()
    pixels = PIXELS.double()
    method = fv.TestTimeRegisters({0: [1, 9], 1: [4]})
    with torch.no_grad(), fv.attach(model, method):
        both = model(pixel_values=pixels).last_hidden_state
        alone = [model(pixel_values=one[None]).last_hidden_state for one in pixels]
    torch.testing.assert_close(both, torch.cat(alone))


@pytest.mark.parametrize(
    ("given", "options", "sentence"),
    [
        (PIXELS, {"at": 5}, "at=5"),
        (PIXELS, {"highest": -9}, "highest=-9"),
        (PIXELS, {"threshold": 0.0}, "a norm is above 0"),
        (PIXELS, {"threshold": 1e6}, "No patch stands out"),
        ([], {}, "inputs were wanted"),
        (5, {}, "inputs were wanted"),
    ],
)
def test_finding_with_bad_input(given: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        register_neurons(build("vit"), given, **options)


def test_finding_in_batches_is_finding_at_once() -> None:
    model = build("vit")
    whole = register_neurons(model, PIXELS, threshold=0.1)
    parts = register_neurons(model, [{"pixel_values": one[None]} for one in PIXELS], threshold=0.1)
    assert [n[:2] for n in whole.ranking[:9]] == [n[:2] for n in parts.ranking[:9]]
    norms = patch_norms(model, PIXELS)
    with torch.no_grad():
        hidden = model(pixel_values=PIXELS, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(norms[0], hidden[:, 1:].norm(dim=-1))
    sparse = register_neurons(model, PIXELS, threshold=0.1, sparse=True)
    assert {n[2] for n in sparse.ranking if n[2] == 0.0} == {0.0}  # some are left out
    with pytest.raises(fv.FoveateError, match="evaluation mode"):
        register_neurons(build("vit").train(), PIXELS)
    with pytest.raises(fv.FoveateError, match="whole number from 1"):
        whole.top(0)
