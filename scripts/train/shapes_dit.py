"""Train shapes-dit: an MM-DiT of 2.6 M parameters that draws one or two coloured shapes.

    python scripts/train/shapes_dit.py                        # trains; run again to resume
    python scripts/train/shapes_dit.py --export --evaluate    # writes src/foveate/models/shapes-dit

Flow matching with logit-normal times, as Stable Diffusion 3; the text encoder learns along.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from _diffusion import Trained, batch, run, text_encoder, tokenizer
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor

from foveate.models.pipelines import ShapesDiTPipeline

WIDTH, HEADS, LAYERS, PATCH = 128, 4, 4, 4
NOISY = 1.0  # mean of the times' logits; the scheduler's shift is e to this


def build() -> Trained:
    """The untrained model."""
    torch.manual_seed(0)
    words = tokenizer()
    denoiser = SD3Transformer2DModel(
        sample_size=32,
        patch_size=PATCH,
        in_channels=3,
        out_channels=3,
        num_layers=LAYERS,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=32 // PATCH,
        qk_norm="rms_norm",
    )
    for block in denoiser.transformer_blocks:  # each block begins as the identity
        for norm in (block.norm1, block.norm1_context):
            torch.nn.init.zeros_(norm.linear.weight)
            torch.nn.init.zeros_(norm.linear.bias)
    for last in (denoiser.norm_out.linear, denoiser.proj_out):
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
    return Trained(denoiser, text_encoder(words, WIDTH), words)


def pipeline(trained: Trained) -> ShapesDiTPipeline:
    """The averaged model, ready to draw."""
    return ShapesDiTPipeline(
        transformer=trained.average["denoiser"],
        scheduler=FlowMatchEulerDiscreteScheduler(shift=round(math.exp(NOISY), 1)),
        text_encoder=trained.average["encoder"],
        tokenizer=trained.words,
    )


def loss_of(trained: Trained, size: int, compiled: bool) -> Any:
    """Step to its loss: the error of the velocity from picture to noise."""
    denoiser = trained.live["denoiser"]
    forward = torch.compile(denoiser) if compiled else denoiser

    def loss(step: int) -> dict[str, Tensor]:
        pictures, texts, noise = batch(step, size)
        tokens, pooled = trained.read(texts)
        # Uniform things are seen through much noise, so that is where shapes are decided.
        time = (NOISY + torch.randn(size, generator=noise)).sigmoid()
        pure = torch.randn(pictures.shape, generator=noise)
        part = time[:, None, None, None]
        with torch.autocast("cpu", torch.bfloat16):
            velocity = forward(
                hidden_states=(1 - part) * pictures + part * pure,
                encoder_hidden_states=tokens,
                pooled_projections=pooled,
                timestep=1000 * time,
                return_dict=False,
            )[0]
        return {"loss": (velocity.float() - (pure - pictures)).square().mean()}

    return loss


ABOUT = (
    "An MM-DiT of Stable Diffusion 3's class that draws one or two coloured shapes. It was "
    "trained by flow matching with logit-normal times; its text encoder learned along. Two of "
    "five pictures that it learned from have two things."
)

if __name__ == "__main__":
    run("shapes-dit", __doc__, ABOUT, build, pipeline, loss_of)
