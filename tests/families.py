"""Tiny random models of every family that attach is tested on.

Built from configurations alone, float32, in evaluation mode and with one seed: nothing is loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED: dict[str, Any] = SMALL | {"num_key_value_heads": 2}
IMAGE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 4,
}


@dataclass(frozen=True)
class Family:
    """One family.

    ``maps`` says under which name each stack's attention maps are in the output of the eager model.
    """

    name: str
    architecture: str
    config: str
    options: dict[str, Any]
    maps: dict[str, str] = field(default_factory=lambda: {"decoder": "attentions"})
    generates: bool = True
    inputs: str = "ids"


_ENCODER = {"encoder": "attentions"}
_BOTH = {
    "decoder": "decoder_attentions",
    "encoder": "encoder_attentions",
    "cross": "cross_attentions",
}
FAMILIES = [
    Family("llama", "LlamaForCausalLM", "LlamaConfig", GROUPED),
    Family("mistral", "MistralForCausalLM", "MistralConfig", GROUPED | {"sliding_window": 6}),
    Family(
        "gemma2",
        "Gemma2ForCausalLM",
        "Gemma2Config",
        GROUPED
        | {"head_dim": 8, "sliding_window": 6, "attn_logit_softcapping": 2.0}
        | {"query_pre_attn_scalar": 8},
    ),
    Family(
        "gemma3",
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        GROUPED
        | {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}
        | {"layer_types": ["sliding_attention", "full_attention"]},
    ),
    Family(
        "gpt2",
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
        | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    ),
    Family("gpt_neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", SMALL),
    Family(
        "gpt_oss",
        "GptOssForCausalLM",
        "GptOssConfig",
        GROUPED
        | {"head_dim": 8, "sliding_window": 6, "num_local_experts": 2, "num_experts_per_tok": 1}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    ),
    Family("qwen3", "Qwen3ForCausalLM", "Qwen3Config", GROUPED | {"head_dim": 8}),
    Family("phi3", "Phi3ForCausalLM", "Phi3Config", GROUPED),
    Family(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        SMALL
        | {"num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4}
        | {"num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
        | {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
        | {"v_head_dim": 6, "head_dim": 4},
    ),
    Family("bert", "BertModel", "BertConfig", SMALL, _ENCODER, generates=False),
    Family(
        "modernbert",
        "ModernBertModel",
        "ModernBertConfig",
        SMALL | {"local_attention": 6, "global_attn_every_n_layers": 2},
        _ENCODER,
        generates=False,
    ),
    Family(
        "bart",
        "BartForConditionalGeneration",
        "BartConfig",
        {"vocab_size": 64, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2}
        | {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48}
        | {"decoder_ffn_dim": 48, "max_position_embeddings": 128, "pad_token_id": 0}
        | {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
        _BOTH,
        inputs="both",
    ),
    Family(
        "t5",
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
        | {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 2},
        _BOTH,
        inputs="both",
    ),
    Family(
        "whisper",
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {"vocab_size": 64, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2}
        | {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48}
        | {"decoder_ffn_dim": 48, "max_source_positions": 10, "max_target_positions": 64}
        | {"num_mel_bins": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        | {"decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None},
        _BOTH,
        generates=False,
        inputs="audio",
    ),
    Family(
        "vit",
        "ViTModel",
        "ViTConfig",
        IMAGE,
        {"vision": "attentions"},
        generates=False,
        inputs="image",
    ),
    Family(
        "clip_vision",
        "CLIPVisionModel",
        "CLIPVisionConfig",
        IMAGE,
        {"vision": "attentions"},
        generates=False,
        inputs="image",
    ),
    Family(
        "clip",
        "CLIPModel",
        "CLIPConfig",
        {"text_config": SMALL, "vision_config": IMAGE, "projection_dim": 16},
        {"text": "text_model_output.attentions", "vision": "vision_model_output.attentions"},
        generates=False,
        inputs="text and image",
    ),
]
NAMES = [family.name for family in FAMILIES]
DECODERS = [f.name for f in FAMILIES if f.generates and f.inputs == "ids"]
BY_NAME = {family.name: family for family in FAMILIES}


@cache
def _built(name: str) -> Any:
    import transformers

    family = BY_NAME[name]
    config = getattr(transformers, family.config)(**family.options)
    torch.manual_seed(0)
    model = getattr(transformers, family.architecture)(config).eval()
    if name == "gemma2":  # transformers before 5.21 ran it on sdpa, without its soft-cap
        model.set_attn_implementation("eager")
    # initial weights are so small that every attention is uniform; spread them, and the sinks
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1 or "sinks" in key:
                parameter.normal_(std=0.15 if name == "t5" else 0.25)  # T5 does not scale q·k
    return model


def build(name: str, implementation: str | None = None) -> Any:
    """A fresh model of a family, on its default implementation or the one asked for."""
    model = copy.deepcopy(_built(name))
    if implementation is not None:
        model.set_attn_implementation(implementation)
        for module in model.modules():  # older transformers missed the copies of a config
            if getattr(module, "config", None) is not None:
                module.config._attn_implementation = implementation
    return model


def llama_of(vocabulary: int) -> Any:
    """A tiny random llama that a real tokenizer's ids fit, its weights spread likewise."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, pad_token_id=2, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.25)
    return model


def inputs(
    name: str, batch: int = 2, length: int = 11, padded: str | None = None
) -> dict[str, Tensor]:
    """Random inputs; ``padded`` "left" or "right" hides four tokens of the first row."""
    family, g = BY_NAME[name], torch.Generator().manual_seed(1)
    found: dict[str, Tensor] = {}
    if family.inputs in ("ids", "both", "text and image"):
        ids = torch.randint(3, 64, (batch, length), generator=g)
        if family.inputs == "text and image":
            ids[:, -1] = 2  # CLIP pools at the end-of-text token
        found["input_ids"] = ids
        if padded is not None:
            mask = torch.ones_like(ids)
            mask[0, slice(0, 4) if padded == "left" else slice(-4, None)] = 0
            found["attention_mask"] = mask
            found["input_ids"] = ids.masked_fill(mask == 0, 0)
    if family.inputs == "audio":
        found["input_features"] = torch.randn(batch, 8, 20, generator=g)
    if family.inputs in ("both", "audio"):
        found["decoder_input_ids"] = torch.randint(3, 64, (batch, 7), generator=g)
    if "image" in family.inputs:
        found["pixel_values"] = torch.randn(batch, 3, 8, 8, generator=g)
    return found


def logits(output: Any) -> Tensor:
    """The main output of any model."""
    for name in ("logits", "logits_per_image", "last_hidden_state"):
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    raise AssertionError(type(output))


def maps(name: str, given: dict[str, Tensor], model: Any = None) -> dict[str, Tensor]:
    """Attention maps ``[L, B, H, Sq, Sk]`` of the eager model, by stack: the oracle."""
    eager = build(name, "eager") if model is None else model
    with torch.no_grad():
        output = eager(**given, output_attentions=True)
    found = {}
    for stack, path in BY_NAME[name].maps.items():
        value = output
        for part in path.split("."):
            value = getattr(value, part)
        if value is None:
            pytest.skip(f"this transformers gives no maps of {name}")
        found[stack] = torch.stack(value)
    return found


Make = Callable[..., Any]
