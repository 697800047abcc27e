"""Inputs for a model nobody has said anything about: what its forward asks for, at random.

A model's signature names its inputs and its configuration gives their sizes. Where more than one
shape is possible they are tried in order, and the first that the model runs on is taken.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FoveateError

__all__ = ["example_inputs", "vocabulary"]

BATCH, LENGTH = 2, 11
_TEXT = ("text_config", "thinker_config", "decoder", "llm_config", "language_config", "text_encoder")
_SEEN = ("vision_config", "image_config", "backbone_config", "encoder", "vit_config")
_HEARD = ("audio_config", "audio_encoder", "encoder_config", "encoder", "speech_config")


def _configs(config: Any, parts: tuple[str, ...]) -> Iterator[Any]:
    """A config and those inside it that are for one kind of input, outermost first."""
    if config is None:
        return
    yield config
    for name in parts:
        inner = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
        if inner is not None and not isinstance(inner, str | int):
            yield from _configs(inner, parts)


def _first(config: Any, parts: tuple[str, ...], *names: str, default: Any = None) -> Any:
    for one in _configs(config, parts):
        for name in names:
            value = getattr(one, name, None)
            if value is not None:
                return value
    return default


def _special(config: Any) -> set[int]:
    """Numbers of tokens that mean something to the model: none of them is a word."""
    found: set[int] = set()
    for one in _configs(config, _TEXT):
        for name, value in list(vars(one).items()) if hasattr(one, "__dict__") else []:
            if "token" in name and ("_id" in name or "index" in name):
                values = value if isinstance(value, list | tuple) else [value]
                found.update(v for v in values if isinstance(v, int))
    return found


def vocabulary(model: nn.Module) -> list[int]:
    """Numbers of ordinary tokens (at most 5,000 of them)."""
    config = getattr(model, "config", None)
    size = _first(config, _TEXT, "vocab_size", "src_vocab_size", default=None)
    if not isinstance(size, int):
        getter = getattr(model, "get_input_embeddings", None)
        try:
            size = getter().num_embeddings if callable(getter) else 64
        except (NotImplementedError, AttributeError):
            size = 64
    special = _special(config)
    words = [n for n in range(3, min(size, 5000)) if n not in special]
    return words or [0]


def tokens(model: nn.Module, batch: int, length: int, g: torch.Generator) -> Tensor:
    """Random ordinary tokens, int64 ``[B, S]``."""
    words = torch.tensor(vocabulary(model))
    return words[torch.randint(len(words), (batch, length), generator=g)]


def _size(config: Any) -> tuple[int, int]:
    size = _first(config, _SEEN, "image_size", "img_size", "input_size", default=32)
    if isinstance(size, Mapping):
        return int(size.get("height", 32)), int(size.get("width", 32))
    if isinstance(size, list | tuple):
        return (int(size[0]), int(size[1])) if len(size) > 1 else (int(size[0]),) * 2
    return (int(size), int(size)) if isinstance(size, int) else (32, 32)


def _images(config: Any, batch: int, video: bool) -> Iterator[tuple[int, ...]]:
    """Shapes that pictures may have."""
    channels = _first(config, _SEEN, "num_channels", "in_channels", "in_chans", default=3)
    channels = channels if isinstance(channels, int) else 3
    height, width = _size(config)
    frames = _first(config, _SEEN, "num_frames", "frames_per_clip", default=2)
    frames = frames if isinstance(frames, int) else 2
    moving = (batch, frames, channels, height, width)
    still = (batch, channels, height, width)
    yield from (moving, still) if video else (still, moving)
    yield batch, channels, 64, 64
    yield batch, 2, channels, height, width
    patch = _first(config, _SEEN, "patch_size", default=4)
    if isinstance(patch, int):
        yield batch, (height // patch) * (width // patch), channels * patch * patch


def _sounds(config: Any, batch: int) -> Iterator[tuple[int, ...]]:
    """Shapes that features of sound may have."""
    mels = _first(
        config, _HEARD, "num_mel_bins", "n_mels", "feature_size", "input_feat_per_channel",
        "input_dim", "feature_projection_input_dim", default=80,
    )  # fmt: skip
    most = _first(config, _HEARD, "max_source_positions", default=None)
    lengths = ([2 * most] if isinstance(most, int) else []) + [
        n for n in (_first(config, _HEARD, "max_length"), 64, 128) if isinstance(n, int)
    ]
    for length in lengths:
        yield batch, mels, length
        yield batch, length, mels


def _waves(config: Any, batch: int) -> Iterator[tuple[int, ...]]:
    for length in (1600, 4000, 16000):
        yield batch, length
        yield batch, 1, length
    yield from ((b, t, m) for b, m, t in _sounds(config, batch))


def _made(
    name: str, model: nn.Module, batch: int, length: int, g: torch.Generator
) -> Iterator[Tensor]:
    """Values that an input of this name may have."""
    config = getattr(model, "config", None)
    if name in ("input_ids", "text_input_ids"):
        yield tokens(model, batch, length, g)
    elif name == "decoder_input_ids":
        yield tokens(model, batch, 7, g)
    elif name in ("attention_mask", "text_attention_mask"):
        yield torch.ones(batch, length, dtype=torch.long)
    elif name in ("token_type_ids", "mm_token_type_ids"):
        yield torch.zeros(batch, length, dtype=torch.long)
    elif name == "position_ids":
        yield torch.arange(length).expand(batch, -1).contiguous()
    elif name == "bbox":
        corner = torch.randint(0, 20, (batch, length, 2), generator=g)
        yield torch.cat([corner, corner + torch.randint(1, 20, corner.shape, generator=g)], -1)
    elif name in ("pixel_values", "pixel_values_videos", "image", "pixel_values_images"):
        for shape in _images(config, batch, "video" in name):
            yield torch.randn(shape, generator=g)
    elif name == "input_features":
        for shape in _sounds(config, batch):
            yield torch.randn(shape, generator=g)
    elif name in ("input_values", "audio", "waveform"):
        for shape in _waves(config, batch):
            yield torch.randn(shape, generator=g) * 0.1
    elif name in ("inputs_embeds", "hidden_states", "encoder_hidden_states"):
        width = _first(config, (*_TEXT, *_SEEN), "hidden_size", "d_model", "dim", default=32)
        yield torch.randn((batch, length, width), generator=g)


def _names(model: nn.Module) -> list[str]:
    """The inputs to begin with: the main one, and what the forward cannot do without."""
    parameters = inspect.signature(model.forward).parameters
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind not in kinds]
    main = getattr(model, "main_input_name", None)
    names = [main] if main in parameters and main not in needed else []
    names += needed
    crossed = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    if crossed and "decoder_input_ids" in parameters:
        names.append("decoder_input_ids")
    both = {"input_ids", "pixel_values"} <= set(parameters)
    if both and not hasattr(model, "generate"):  # two towers: each wants its own
        names += ["input_ids", "pixel_values"]
    return list(dict.fromkeys(names))


def _candidates(
    model: nn.Module, names: list[str], batch: int, length: int, seed: int
) -> Iterator[dict[str, Tensor]]:
    def fill(rest: list[str], found: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        if not rest:
            yield found
            return
        g = torch.Generator().manual_seed(seed)
        for value in _made(rest[0], model, batch, length, g):
            yield from fill(rest[1:], found | {rest[0]: value})

    yield from fill(names, {})


def _placed(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """Where the weights are, floats in their type."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is None:
        return inputs
    return {
        name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
        if isinstance(value, Tensor)
        else value
        for name, value in inputs.items()
    }


@torch.no_grad()
def example_inputs(
    model: nn.Module, batch: int = BATCH, length: int = LENGTH, seed: int = 0
) -> dict[str, Any]:
    """Random inputs that ``model`` runs on.

    Parameters
    ----------
    model : torch.nn.Module
        Its ``forward`` names the inputs; its ``config``, if any, gives their sizes.
    batch, length : int
        Items, and tokens of a text.
    seed : int

    Returns
    -------
    dict of str to Tensor
        Keyword arguments of the forward.

    Raises
    ------
    FoveateError
        When the model ran on nothing that was tried; the message says on what it failed last.
    """
    names = _names(model)
    why = "its forward names no input that is known"
    for candidate in _candidates(model, names, batch, length, seed):
        inputs = _placed(model, candidate)
        try:
            model(**inputs)
        except Exception as error:  # the model's own, whatever it may be
            lines = str(error).strip().splitlines()
            why = f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
        else:
            return inputs
    raise FoveateError(
        f"No inputs could be made up for {type(model).__name__} (asked for: "
        f"{', '.join(names) or 'nothing'}; {why}): give inputs=, a dict of its forward's arguments."
    )
