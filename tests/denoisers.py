"""Tiny random denoisers and pipelines of diffusers, built without downloads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

TEXT = 7  # tokens of the text
# name -> class, options; image tokens: 64, 16, 16, 32
DENOISERS: dict[str, tuple[str, dict[str, Any]]] = {
    "unet": (
        "UNet2DConditionModel",
        {"block_out_channels": (16, 32), "layers_per_block": 1, "sample_size": 8}
        | {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
        | {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "norm_num_groups": 4}
        | {"cross_attention_dim": 32, "attention_head_dim": 2},
    ),
    "sd3": (
        "SD3Transformer2DModel",
        {"sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 2}
        | {"attention_head_dim": 8, "num_attention_heads": 4, "caption_projection_dim": 32}
        | {"joint_attention_dim": 32, "pooled_projection_dim": 64, "pos_embed_max_size": 8}
        | {"dual_attention_layers": (0,), "qk_norm": "rms_norm"},
    ),
    "flux": (
        "FluxTransformer2DModel",
        {"patch_size": 1, "in_channels": 4, "num_layers": 1, "num_single_layers": 2}
        | {"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 32}
        | {"pooled_projection_dim": 32, "axes_dims_rope": (4, 4, 8)},
    ),
    "wan": (
        "WanTransformer3DModel",
        {"patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12}
        | {"in_channels": 4, "out_channels": 4, "text_dim": 16, "freq_dim": 32, "ffn_dim": 32}
        | {"num_layers": 2, "cross_attn_norm": True, "rope_max_seq_len": 32},
    ),
}
IMAGE = {"unet": 64, "sd3": 16, "flux": 16, "wan": 32}


def denoiser(name: str, **options: Any) -> Any:
    """A fresh denoiser in evaluation mode, its weights spread so that attention is not uniform."""
    diffusers = pytest.importorskip("diffusers")

    architecture, own = DENOISERS[name]
    torch.manual_seed(0)
    model = getattr(diffusers, architecture)(**own | options).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1 and any(part in key for part in ("to_q", "to_k", "add_")):
                parameter.normal_(std=0.6)
    return model


def given(
    name: str, batch: int = 2, time: float = 500.0, seed: int = 1, side: int = 8
) -> dict[str, Any]:
    """Random inputs of a denoiser at a time of 1000: latents of ``side`` by ``side``."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if name == "unet":
        return {
            "sample": random(batch, 4, side, side),
            "timestep": torch.tensor(time),
            "encoder_hidden_states": random(batch, TEXT, 32),
        }
    if name == "sd3":
        return {
            "hidden_states": random(batch, 4, side, side),
            "timestep": torch.full((batch,), time),
            "encoder_hidden_states": random(batch, TEXT, 32),
            "pooled_projections": random(batch, 64),
        }
    if name == "flux":
        half = side // 2
        at = torch.arange(half**2)
        return {
            "hidden_states": random(batch, half**2, 4),
            "timestep": torch.full((batch,), time / 1000),
            "encoder_hidden_states": random(batch, TEXT, 32),
            "pooled_projections": random(batch, 32),
            "txt_ids": torch.zeros(TEXT, 3),
            "img_ids": torch.stack([0 * at, at // half, at % half], 1),
        }
    return {
        "hidden_states": random(batch, 4, 2, side, side),
        "timestep": torch.full((batch,), time),
        "encoder_hidden_states": random(batch, TEXT, 16),
    }


def vae(**options: Any) -> Any:
    """An autoencoder that halves each side."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(4, 4), norm_num_groups=2, sample_size=16, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        shift_factor=0.0, scaling_factor=1.0, **options,
    ).eval()  # fmt: skip


def clip() -> tuple[Any, Any]:
    """A CLIP text encoder, and a tokenizer to whom a few words are one token each."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(code) for code in range(97, 123)]
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    for letter in letters:
        vocabulary[f"{letter}</w>"] = len(vocabulary)
    merges: list[tuple[str, str]] = []
    for word in ("red", "circle", "and", "blue", "square"):
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            if (parts[0], parts[1]) not in merges:
                merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            vocabulary.setdefault(parts[0], len(vocabulary))
    begin, end = len(vocabulary), len(vocabulary) + 1
    vocabulary |= {"<|startoftext|>": begin, "<|endoftext|>": end}
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=12, bos_token_id=begin, eos_token_id=end,
        pad_token_id=end,
    )  # fmt: skip
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=12)
    return CLIPTextModel(config).eval(), tokenizer


def stable_diffusion() -> Any:
    """A UNet in its pipeline, with its text encoder."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    encoder, tokenizer = clip()
    pipe = StableDiffusionPipeline(
        vae=vae(), text_encoder=encoder, tokenizer=tokenizer, unet=denoiser("unet"),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stable_diffusion_3() -> Any:
    """An MM-DiT in its pipeline; prompts come as embeddings."""
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    none = dict.fromkeys(
        f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")
    )
    pipe = StableDiffusion3Pipeline(
        transformer=denoiser("sd3"), scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae(), **none
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def wan() -> Any:
    """A video denoiser in its pipeline, which runs the negative prompt in a forward of its own."""
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline

    torch.manual_seed(0)
    coder = AutoencoderKLWan(
        base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True], latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    pipe = WanPipeline(
        transformer=denoiser("wan"), scheduler=FlowMatchEulerDiscreteScheduler(), vae=coder,
        text_encoder=None, tokenizer=None,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe
