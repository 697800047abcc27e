"""The text-to-image models of the world of shapes, as pipelines of diffusers.

They are Stable Diffusion's and Stable Diffusion 3's own pipelines with parts left out: the
autoencoder, since pictures of 32 × 32 pixels need none, and two of SD3's three text encoders. All
else (guidance, schedulers, callbacks, latents, generators) is diffusers' code.

diffusers is imported with this file, so import it inside functions.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

from diffusers import DiffusionPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor, nn

from ..errors import FoveateError

__all__ = ["OURS", "Pixels", "ShapesDiTPipeline", "ShapesUNetPipeline", "encoded"]


class Pixels:
    """Stands where a pipeline has its autoencoder; its latents are the pixels themselves.

    Parameters
    ----------
    fold : int
        Pixels a side that one latent holds: each block of ``fold`` × ``fold`` becomes channels.
    """

    def __init__(self, fold: int = 1) -> None:
        # block_out_channels is from where pipelines read how many pixels a latent is wide.
        self.config = SimpleNamespace(
            scaling_factor=1.0, shift_factor=0.0, block_out_channels=(1,) * fold.bit_length()
        )
        self.fold = fold

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures ``[B, 3, H, W]`` as latents ``[B, 3 · fold², H / fold, W / fold]``."""
        return nn.functional.pixel_unshuffle(pictures, self.fold)

    def decode(self, latents: Tensor, **_: Any) -> tuple[Tensor]:
        """Latents to pictures; what diffusers hands over besides is not needed."""
        return (nn.functional.pixel_shuffle(latents, self.fold),)


class _InPixels:
    """What both pipelines have of their own: their parts, and no autoencoder among them."""

    def _set(self: Any, fold: int, **parts: Any) -> None:
        DiffusionPipeline.__init__(self)
        self.register_modules(**parts)
        self.vae = Pixels(fold)
        self.vae_scale_factor = fold
        self.image_processor = VaeImageProcessor(vae_scale_factor=fold)


class ShapesDiTPipeline(_InPixels, StableDiffusion3Pipeline):
    """Stable Diffusion 3 in pixels, with one text encoder.

    Called as StableDiffusion3Pipeline is; ``prompt_2`` and ``prompt_3`` have no encoder to go to.

    Parameters
    ----------
    transformer : SD3Transformer2DModel
        Of three channels; its text has the text encoder's width, pooled text too.
    scheduler : FlowMatchEulerDiscreteScheduler
    text_encoder : CLIPTextModel
    tokenizer : CLIPTokenizer
    """

    model_cpu_offload_seq = "text_encoder->transformer"
    _optional_components: ClassVar[list[str]] = []

    def __init__(self, transformer: Any, scheduler: Any, text_encoder: Any, tokenizer: Any) -> None:
        self._set(
            1,
            transformer=transformer,
            scheduler=scheduler,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
        )
        self.tokenizer_max_length = tokenizer.model_max_length
        self.default_sample_size = transformer.config.sample_size
        self.patch_size = transformer.config.patch_size

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        prompt_2: Any = None,
        prompt_3: Any = None,
        device: Any = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Texts as the transformer reads them; see diffusers' method of the same name.

        Returns
        -------
        prompt, negative prompt, pooled prompt, pooled negative prompt
            ``[B, T, D]`` and, pooled, ``[B, D]``; the negative ones are None without guidance.

        Raises
        ------
        FoveateError
            A second or third prompt was given, or not one negative prompt for each prompt.
        """
        if any(other not in (None, prompt) for other in (prompt_2, prompt_3)):
            raise FoveateError(
                "prompt_2 and prompt_3 were given, but this pipeline has one text encoder: give "
                "prompt alone."
            )

        def read(texts: str | list[str]) -> tuple[Tensor, Tensor]:
            texts = [texts] if isinstance(texts, str) else texts
            tokens, pooled = encoded(self.text_encoder, self.tokenizer, texts)
            return (
                tokens.repeat_interleave(num_images_per_prompt, 0),
                pooled.repeat_interleave(num_images_per_prompt, 0),
            )

        if prompt_embeds is None:
            prompt_embeds, pooled_prompt_embeds = read(prompt or "")
        if do_classifier_free_guidance and negative_prompt_embeds is None:
            rows = len(prompt_embeds) // (num_images_per_prompt if prompt is not None else 1)
            negative = negative_prompt or ""
            negative = [negative] * rows if isinstance(negative, str) else negative
            if len(negative) != rows:
                raise FoveateError(
                    f"{len(negative)} negative prompts were given for {rows} prompts; give one "
                    "for each, or one text for all."
                )
            negative_prompt_embeds, negative_pooled_prompt_embeds = read(negative)
            if prompt is None:
                negative_prompt_embeds = negative_prompt_embeds[: len(prompt_embeds)]
        return (  # type: ignore[return-value]
            prompt_embeds,
            negative_prompt_embeds,
            pooled_prompt_embeds,
            negative_pooled_prompt_embeds,
        )


class ShapesUNetPipeline(_InPixels, StableDiffusionPipeline):
    """Stable Diffusion in pixels: four pixels are one latent of twelve channels.

    Called as StableDiffusionPipeline is.

    Parameters
    ----------
    unet : UNet2DConditionModel
        Of twelve channels.
    scheduler : DDIMScheduler
    text_encoder : CLIPTextModel
    tokenizer : CLIPTokenizer
    """

    model_cpu_offload_seq = "text_encoder->unet"
    _optional_components: ClassVar[list[str]] = []

    def __init__(self, unet: Any, scheduler: Any, text_encoder: Any, tokenizer: Any) -> None:
        self._set(2, unet=unet, scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer)
        self.safety_checker = self.feature_extractor = self.image_encoder = None
        self._is_unet_config_sample_size_int = True


def encoded(text_encoder: Any, tokenizer: Any, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Texts as a CLIP text encoder gives them: tokens ``[B, T, D]`` and pooled ``[B, D]``."""
    ids = tokenizer(
        texts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    told = text_encoder(ids.to(text_encoder.device))
    return told.last_hidden_state, told.pooler_output


# What a model_index.json may name besides diffusers' own classes.
OURS = {cls.__name__: cls for cls in (ShapesDiTPipeline, ShapesUNetPipeline)}
