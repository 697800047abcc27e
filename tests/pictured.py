"""Tiny models that see, of several families, each with its processor: built, not loaded."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch

TEMPLATE = (
    "{% for m in messages %}<|s|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for p in m['content'] %}{% if p['type'] == 'image' %}IMAGE{% else %}"
    "{{ p['text'] }}{% endif %}{% endfor %}{% endif %}<|e|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|s|>assistant\n{% endif %}"
)
NAMES = ("llava", "idefics3", "qwen2_vl", "gemma3")
TEXT = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 400, "max_position_embeddings": 512, "pad_token_id": 0,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


def tokenizer(*special: str, **named: str) -> Any:
    """Letters as bytes, and special tokens: ``<|s|>`` and ``<|e|>``, and those given."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<pad>", "<|s|>", "<|e|>", *special, *alphabet]
    core = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<pad>", "<|s|>", "<|e|>", *special])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<|e|>", padding_side="left",
        **({"extra_special_tokens": named} if named else {}),
    )  # fmt: skip


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture of noise: uint8 [H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def processor(name: str, **image: Any) -> Any:
    """The processor of a family; ``image`` changes settings of its image processor."""
    return globals()[f"_{name}_processor"](image) if image else _as_it_is(name)


@cache
def _as_it_is(name: str) -> Any:
    return globals()[f"_{name}_processor"]({})


def _llava_processor(image: dict[str, Any]) -> Any:
    from transformers import CLIPImageProcessor, LlavaProcessor

    return LlavaProcessor(
        CLIPImageProcessor(
            **{"size": {"height": 16, "width": 16}, "do_center_crop": False} | image
        ),
        tokenizer("<image>"), patch_size=4, num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )  # fmt: skip


def _idefics3_processor(image: dict[str, Any]) -> Any:
    from transformers import Idefics3ImageProcessor, Idefics3Processor

    marks = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    own = tokenizer("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>",
                    *marks)  # fmt: skip
    return Idefics3Processor(
        Idefics3ImageProcessor(
            **{"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}} | image
        ),
        own, image_seq_len=4, chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )  # fmt: skip


def _qwen2_vl_processor(image: dict[str, Any]) -> Any:
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor

    own = tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    seen = Qwen2VLImageProcessor(
        **{"patch_size": 4, "merge_size": 2, "min_pixels": 64, "max_pixels": 4096} | image
    )
    made = object.__new__(Qwen2VLProcessor)  # its video processor wants torchvision
    made.image_processor, made.tokenizer, made.video_processor = seen, own, None
    made.image_token, made.video_token = "<|image_pad|>", "<|video_pad|>"
    made.image_token_id = own.convert_tokens_to_ids("<|image_pad|>")
    made.video_token_id = own.convert_tokens_to_ids("<|video_pad|>")
    made.chat_template = TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    return made


def _gemma3_processor(image: dict[str, Any]) -> Any:
    from transformers import Gemma3ImageProcessor, Gemma3Processor

    own = tokenizer(
        "<start_of_image>", "<end_of_image>", "<image_soft_token>",
        boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>",
    )  # fmt: skip
    return Gemma3Processor(
        Gemma3ImageProcessor(**{"size": {"height": 16, "width": 16}} | image), own,
        image_seq_length=4, chat_template=TEMPLATE.replace("IMAGE", "<start_of_image>"),
    )  # fmt: skip


@cache
def model(name: str) -> Any:
    """A model of the family, with weights of chance, to its processor's settings."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return globals()[f"_{name}_model"]().eval()


def _llava_model() -> Any:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    seen = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
            "patch_size": 4}  # fmt: skip
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=seen, text_config={"model_type": "llama", **TEXT},
            image_token_index=processor("llava").image_token_id, vision_feature_layer=-1,
        )
    )  # fmt: skip


def _idefics3_model() -> Any:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    seen = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 32, "patch_size": 8}  # fmt: skip
    return Idefics3ForConditionalGeneration(
        Idefics3Config(
            vision_config=seen, text_config={"model_type": "llama", **TEXT}, scale_factor=2,
            image_token_id=processor("idefics3").image_token_id, pad_token_id=0,
        )
    )  # fmt: skip


def _qwen2_vl_model() -> Any:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    made = processor("qwen2_vl")
    ids = made.tokenizer.convert_tokens_to_ids
    seen = {"depth": 2, "embed_dim": 16, "num_heads": 2, "hidden_size": 16, "patch_size": 4,
            "spatial_merge_size": 2, "mlp_ratio": 2}  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [1, 0, 1], "rope_theta": 10000.0}
    return Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            vision_config=seen, text_config={**TEXT, "rope_parameters": rope},
            image_token_id=made.image_token_id, video_token_id=made.video_token_id,
            vision_start_token_id=ids("<|vision_start|>"),
            vision_end_token_id=ids("<|vision_end|>"),
        )
    )  # fmt: skip


def _gemma3_model() -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    ids = processor("gemma3").tokenizer.convert_tokens_to_ids
    seen = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 16, "patch_size": 4}  # fmt: skip
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            vision_config=seen, text_config={**TEXT, "head_dim": 4, "sliding_window": 64},
            mm_tokens_per_image=4, image_token_index=ids("<image_soft_token>"),
            boi_token_index=ids("<start_of_image>"), eoi_token_index=ids("<end_of_image>"),
        )
    )  # fmt: skip
