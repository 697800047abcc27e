"""Pictures and sounds for a model: their shapes by its configuration, their places in a text.

A model that reads pictures wants a placeholder token for every feature its vision tower hands on.
How many those are is asked of the tower itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["HEARD", "SEEN", "TEXT", "configs", "first", "images", "sounds", "waves", "with_media"]

TEXT = (
    "text_config", "thinker_config", "decoder", "llm_config", "language_config", "text_encoder",
    "vlm_config",
)  # fmt: skip
SEEN = ("vision_config", "image_config", "backbone_config", "encoder", "vit_config", "vlm_config")
HEARD = ("audio_config", "audio_encoder", "encoder_config", "encoder", "speech_config")


def configs(config: Any, parts: tuple[str, ...]) -> Iterator[Any]:
    """A config and those inside it that are for one kind of input, outermost first."""
    if config is None:
        return
    yield config
    for name in parts:
        inner = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
        if inner is not None and not isinstance(inner, str | int):
            yield from configs(inner, parts)


def first(config: Any, parts: tuple[str, ...], *names: str, default: Any = None) -> Any:
    """The first of these fields that a config, or one inside it, has a value for."""
    for one in configs(config, parts):
        for name in names:
            value = getattr(one, name, None)
            if value is not None:
                return value
    return default


def _size(config: Any) -> tuple[int, int]:
    size = first(config, SEEN, "image_size", "img_size", "input_size", default=32)
    if isinstance(size, Mapping):
        return int(size.get("height", 32)), int(size.get("width", 32))
    if isinstance(size, list | tuple):
        return (int(size[0]), int(size[1])) if len(size) > 1 else (int(size[0]),) * 2
    return (int(size), int(size)) if isinstance(size, int) else (32, 32)


def images(config: Any, batch: int, video: bool) -> Iterator[tuple[int, ...]]:
    """Shapes that pictures may have."""
    channels = first(config, SEEN, "num_channels", "in_channels", "in_chans", default=3)
    channels = channels if isinstance(channels, int) else 3
    height, width = _size(config)
    frames = first(config, SEEN, "num_frames", "frames_per_clip", default=2)
    frames = frames if isinstance(frames, int) else 2
    moving = (batch, frames, channels, height, width)
    still = (batch, channels, height, width)
    yield from (moving, still) if video else (still, moving)
    yield batch, channels, 64, 64
    yield batch, 2, channels, height, width
    patch = first(config, SEEN, "patch_size", default=4)
    if isinstance(patch, int):
        yield batch, (height // patch) * (width // patch), channels * patch * patch


def sounds(config: Any, batch: int) -> Iterator[tuple[int, ...]]:
    """Shapes that features of sound may have."""
    mels = first(
        config, HEARD, "num_mel_bins", "n_mels", "feature_size", "input_feat_per_channel",
        "input_dim", "feature_projection_input_dim", default=80,
    )  # fmt: skip
    most = first(config, HEARD, "max_source_positions", default=None)
    lengths = ([2 * most] if isinstance(most, int) else []) + [
        n for n in (first(config, HEARD, "max_length"), 64, 128) if isinstance(n, int)
    ]
    for length in lengths:
        yield batch, mels, length
        yield batch, length, mels


def waves(config: Any, batch: int) -> Iterator[tuple[int, ...]]:
    """Shapes that sound itself may have, and after them those of its features."""
    for length in (1600, 4000, 16000):
        yield batch, length
        yield batch, 1, length
    yield from ((b, t, m) for b, m, t in sounds(config, batch))


def _extras(names: set[str], model: nn.Module, value: Tensor) -> dict[str, Tensor]:
    """What belongs to pictures or sounds of this shape, by the names it goes under."""
    config = getattr(model, "config", None)
    height, width = _size(config)
    patch = first(config, SEEN, "patch_size", default=4)
    patch = patch if isinstance(patch, int) else 4
    grid = torch.tensor([[1, height // patch, width // patch]])
    count = value.shape[0] if value.dim() > 2 else value.shape[0] // int(grid.prod())
    count = max(count, 1)
    known = {
        "image_sizes": torch.tensor([[height, width]]).expand(count, -1),
        "image_grid_thw": grid.expand(count, -1),
        "image_grid_hws": grid[:, 1:].expand(count, -1),
        "spatial_shapes": grid[:, 1:].expand(count, -1),
        "pixel_attention_mask": torch.ones(
            (*value.shape[:-3], *value.shape[-2:]) if value.dim() > 3 else value.shape[:2],
            dtype=torch.bool,
        ),
        "feature_attention_mask": torch.ones(count, value.shape[-1], dtype=torch.long),
        "input_features_mask": torch.ones(count, value.shape[-1], dtype=torch.long),
    }
    return {name: value.contiguous() for name, value in known.items() if name in names}


def _pictures(model: nn.Module, batch: int, g: torch.Generator) -> Iterator[Tensor]:
    config = getattr(model, "config", None)
    height, width = _size(config)
    patch = first(config, SEEN, "patch_size", default=4)
    time = first(config, SEEN, "temporal_patch_size", default=1)
    channels = first(config, SEEN, "num_channels", "in_channels", default=3)
    shapes: list[tuple[int, ...]] = [(batch, 3, height, width)]
    shapes += [(batch, views, 3, height, width) for views in (1, 2, 3)]
    if isinstance(patch, int):
        cells = batch * (height // patch) * (width // patch)
        flat = channels * (time or 1) * patch * patch if isinstance(channels, int) else 0
        shapes.append((cells, flat))
        shapes.append((cells, channels, patch, patch))
        shapes.append((1, cells, channels, patch, patch))
        shapes.append((batch, cells // batch, flat))
    yield from (torch.randn(shape, generator=g) for shape in shapes)


def _hearable(model: nn.Module, batch: int, g: torch.Generator) -> Iterator[Tensor]:
    config = getattr(model, "config", None)
    for shape in [*sounds(config, batch), *waves(config, batch)]:
        yield torch.randn(shape, generator=g) * 0.1


def _count(features: Any) -> int:
    """Rows of a tower's features, however they are packed."""
    if isinstance(features, Tensor):
        return features.numel() // features.shape[-1]
    pooled = getattr(features, "pooler_output", None)
    if pooled is None and hasattr(features, "last_hidden_state"):
        pooled = features.last_hidden_state
    if pooled is not None:
        return _count(pooled)
    if isinstance(features, list | tuple):
        return sum(_count(one) for one in features)
    raise TypeError(type(features).__name__)


def _tower(model: nn.Module, getter: str) -> Any:
    """What hands on the features: of the model, or of the one inside it."""
    return getattr(model, getter, None) or getattr(getattr(model, "model", None), getter, None)


def _filled(
    model: nn.Module, inputs: Mapping[str, Any], getter: str, name: str, value: Tensor, token: int
) -> dict[str, Any]:
    """The inputs with one picture or sound in each text."""
    tower = _tower(model, getter)
    wanted = inspect.signature(tower).parameters
    value = value.to(next(p for p in model.parameters() if p.is_floating_point()))
    extras = _extras(set(wanted), model, value)
    features = tower(value, **extras)
    ids = inputs["input_ids"]
    each = _count(features) // ids.shape[0]
    place = torch.full((ids.shape[0], each), token, dtype=ids.dtype, device=ids.device)
    found = dict(inputs)
    found["input_ids"] = torch.cat([ids[:, :4], place, ids[:, 4:]], 1)
    asked = set(inspect.signature(model.forward).parameters)
    found |= {name: value} | {k: v for k, v in extras.items() if k in asked}
    kinds = (found["input_ids"] == token).long()
    for kind in ("mm_token_type_ids", "token_type_ids"):
        if kind in asked:
            found[kind] = kinds
    return found


def with_media(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """The text with a picture or a sound in it, where the model takes one; else as it is."""
    config = getattr(model, "config", None)
    seen = ("image_token_id", "image_token_index")
    heard = ("audio_token_id", "audio_token_index")
    ways = (
        ("get_image_features", "pixel_values", seen, _pictures),
        ("get_audio_features", "input_features", heard, _hearable),
        ("get_audio_features", "input_values", heard, _hearable),
    )
    asked = set(inspect.signature(model.forward).parameters)
    for getter, name, places, values in ways:
        token = first(config, TEXT, *places)
        ready = name in asked and name not in inputs and "input_ids" in inputs
        if not ready or not isinstance(token, int) or _tower(model, getter) is None:
            continue
        g = torch.Generator().manual_seed(0)
        for value in values(model, inputs["input_ids"].shape[0], g):
            try:
                found = _filled(model, inputs, getter, name, value, token)
                model(**found)
            except Exception:  # not a shape that it takes
                continue
            inputs = found
            break
    return inputs
