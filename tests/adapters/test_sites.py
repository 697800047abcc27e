"""Sites, stacks and addresses, of many architectures built without memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from families import BY_NAME, NAMES, build
from foveate.adapters.sites import sites, unreachable

# architecture -> stack -> (layers, heads, address of the first)
KNOWN: dict[str, dict[str, tuple[int, int, str]]] = {
    "LlamaForCausalLM": {"decoder": (32, 32, "model.layers.0.self_attn")},
    "GPT2LMHeadModel": {"decoder": (12, 12, "transformer.h.0.attn")},
    "T5ForConditionalGeneration": {
        "encoder": (6, 8, "encoder.block.0.layer.0.SelfAttention"),
        "decoder": (6, 8, "decoder.block.0.layer.0.SelfAttention"),
        "cross": (6, 8, "decoder.block.0.layer.1.EncDecAttention"),
    },
    "MarianMTModel": {
        "encoder": (12, 16, "model.encoder.layers.0.self_attn"),
        "decoder": (12, 16, "model.decoder.layers.0.self_attn"),
        "cross": (12, 16, "model.decoder.layers.0.encoder_attn"),
    },
    "BertModel": {"encoder": (12, 12, "encoder.layer.0.attention.self")},
    "CLIPModel": {
        "text": (12, 8, "text_model.encoder.layers.0.self_attn"),
        "vision": (12, 12, "vision_model.encoder.layers.0.self_attn"),
    },
    "LlavaForConditionalGeneration": {
        "vision": (24, 16, "model.vision_tower.encoder.layers.0.self_attn"),
        "decoder": (32, 32, "model.language_model.layers.0.self_attn"),
    },
    "Qwen2AudioForConditionalGeneration": {
        "audio": (32, 20, "model.audio_tower.layers.0.self_attn"),
        "decoder": (32, 32, "model.language_model.layers.0.self_attn"),
    },
    "MllamaForCausalLM": {
        "decoder": (32, 32, "model.layers.0.self_attn"),
        "cross": (8, 32, "model.layers.3.cross_attn"),
    },
    "VisionEncoderDecoderModel": {
        "vision": (12, 12, "encoder.layers.0.attention"),
        "decoder": (12, 12, "decoder.bert.encoder.layer.0.attention.self"),
        "cross": (12, 12, "decoder.bert.encoder.layer.0.crossattention.self"),
    },
}
# addresses of older transformers -> what they are called now
MOVED = {
    "model.vision_tower.vision_model.encoder.layers.0.self_attn": (
        "model.vision_tower.encoder.layers.0.self_attn"
    ),
    "audio_tower.layers.0.self_attn": "model.audio_tower.layers.0.self_attn",
    "language_model.model.layers.0.self_attn": "model.language_model.layers.0.self_attn",
    "encoder.encoder.layer.0.attention.attention": "encoder.layers.0.attention",
}


@pytest.mark.parametrize("architecture", KNOWN)
def test_stacks_of_full_size(architecture: str) -> None:
    import transformers

    cls = getattr(transformers, architecture)
    if architecture == "VisionEncoderDecoderModel":
        vision, text = transformers.ViTConfig(), transformers.BertConfig()
        config = cls.config_class.from_encoder_decoder_configs(vision, text)
    else:
        config = cls.config_class()
    with torch.device("meta"):
        model = cls(config)
    found: dict[str, Any] = {}
    for site in sites(model):
        found.setdefault(site.stack, []).append(site)
    assert {
        stack: (len(here), here[0].heads, MOVED.get(here[0].name, here[0].name))
        for stack, here in found.items()
    } == KNOWN[architecture]
    for here in found.values():
        assert [site.layer for site in here] == list(range(len(here)))
        assert {site.depth for site in here} == {len(here)}
        assert all(model.get_submodule(site.name) is site.module for site in here)


@pytest.mark.parametrize("name", NAMES)
def test_stacks_of_the_families(name: str) -> None:
    found = sites(build(name))
    assert {site.stack for site in found} == set(BY_NAME[name].maps)
    assert {site.heads for site in found} == {4} and len(found) == 2 * len(BY_NAME[name].maps)


def test_two_stacks_of_a_kind_have_two_names() -> None:
    import transformers

    config = transformers.ViTMAEConfig(decoder_num_hidden_layers=3)
    with torch.device("meta"):
        model = transformers.ViTMAEForPreTraining(config)
    assert {site.stack: site.depth for site in sites(model)} == {
        "vision": 12,
        "vision.decoder.decoder_layers": 3,
    }


def test_how_a_site_is_reached() -> None:
    import transformers

    with torch.device("meta"):
        falcon = transformers.FalconForCausalLM(transformers.FalconConfig(num_hidden_layers=1))
        siglip = transformers.SiglipVisionModel(transformers.SiglipVisionConfig())
    assert [site.reach for site in sites(falcon)] == ["intercepted"]
    assert {site.reach for site in sites(siglip)} == {"interface", "intercepted"}
    pooling = [s.name for s in sites(siglip) if s.reach == "intercepted"]
    assert [name.removeprefix("vision_model.") for name in pooling] == ["head.attention"]


def test_modules_out_of_reach_are_named() -> None:
    class LinearAttention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.cumsum(1)

    model = nn.Sequential(LinearAttention())
    assert sites(model) == [] and list(unreachable(model)) == [("0", "LinearAttention")]
    assert sites(nn.Linear(2, 2)) == [] and list(unreachable(nn.Linear(2, 2))) == []


def test_a_site_outlives_its_model_only_as_an_address() -> None:
    site = sites(build("llama"))[0]
    with pytest.raises(ReferenceError, match=r"model\.layers\.0\.self_attn"):
        _ = site.module
