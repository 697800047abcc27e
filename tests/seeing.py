"""Tiny models that see, of the classes people use; weights that make their attention uneven."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from families import IMAGE

IMAGE_TOKEN = 63
TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
QFORMER = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "encoder_hidden_size": 32,
    "vocab_size": 64,
    "cross_attention_frequency": 2,
}


def _detr() -> Any:
    import transformers as tf

    bones = tf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], out_features=["stage2"]
    )
    return tf.DetrForObjectDetection(
        tf.DetrConfig(
            backbone_config=bones, use_timm_backbone=False, use_pretrained_backbone=False,
            d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_queries=5,
            num_labels=8,
        )
    )  # fmt: skip


def seeing(name: str, implementation: str | None = None) -> Any:
    """A model in float64: ``vit``, ``llava``, ``qformer``, ``instruct`` or ``detr``."""
    import transformers as tf

    torch.manual_seed(0)
    if name == "vit":
        model = tf.ViTForImageClassification(tf.ViTConfig(**IMAGE, num_labels=8))
    elif name == "llava":
        config = tf.LlavaConfig(
            vision_config=tf.CLIPVisionConfig(**IMAGE),
            text_config=tf.LlamaConfig(**TEXT),
            image_token_id=IMAGE_TOKEN,
            vision_feature_layer=-1,
        )
        model = tf.LlavaForConditionalGeneration(config)
    elif name == "qformer":
        model = tf.Blip2QFormerModel(tf.Blip2QFormerConfig(**QFORMER))
    elif name == "instruct":
        model = tf.InstructBlipQFormerModel(tf.InstructBlipQFormerConfig(**QFORMER))
    else:
        model = _detr()
    if implementation:
        model.set_attn_implementation(implementation)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() == 2 or "cls" in key or "class" in key:
                parameter.normal_(std=0.25, generator=g)
    return model.eval().double()


def shown(name: str) -> dict[str, Tensor]:
    """Inputs for one of them, one item."""
    g = torch.Generator().manual_seed(2)
    made: dict[str, Tensor] = {}
    if name in ("vit", "llava", "detr"):
        size = 32 if name == "detr" else 8
        made["pixel_values"] = torch.randn(1, 3, size, size, generator=g).double()
    if name == "llava":
        patches = (8 // IMAGE["patch_size"]) ** 2
        made["input_ids"] = torch.tensor([[5, *[IMAGE_TOKEN] * patches, 9, 11, 7]])
    if name in ("qformer", "instruct"):
        made["query_embeds"] = torch.randn(1, 6, 32, generator=g).double()
        made["encoder_hidden_states"] = torch.randn(1, 17, 32, generator=g).double()
    if name == "instruct":
        made["input_ids"] = torch.tensor([[5, 6, 7]])
    return made
