"""Inputs for a model nobody has said anything about: what its forward asks for, at random.

A model's signature names its inputs and its configuration gives their sizes. Where more than one
shape is possible they are tried in order, and the first that the model runs on is taken.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FoveateError
from .media import SEEN, TEXT, configs, first, images, sounds, waves, with_media

__all__ = ["example_inputs", "placed", "tokens", "vocabulary"]

BATCH, LENGTH = 2, 11


def _special(config: Any) -> set[int]:
    """Numbers of tokens that mean something to the model: none of them is a word."""
    found: set[int] = set()
    for one in configs(config, TEXT):
        for name, value in list(vars(one).items()) if hasattr(one, "__dict__") else []:
            if "token" in name and ("_id" in name or "index" in name):
                values = value if isinstance(value, list | tuple) else [value]
                found.update(v for v in values if isinstance(v, int))
    return found


def vocabulary(model: nn.Module) -> list[int]:
    """Numbers of ordinary tokens (at most 5,000 of them)."""
    config = getattr(model, "config", None)
    size = first(config, TEXT, "vocab_size", "src_vocab_size", default=None)
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
        for shape in images(config, batch, "video" in name):
            yield torch.randn(shape, generator=g)
    elif name == "input_features":
        for shape in sounds(config, batch):
            yield torch.randn(shape, generator=g)
    elif name in ("input_values", "audio", "waveform"):
        for shape in waves(config, batch):
            yield torch.randn(shape, generator=g) * 0.1
    elif name in ("inputs_embeds", "hidden_states", "encoder_hidden_states"):
        width = first(config, (*TEXT, *SEEN), "hidden_size", "d_model", "dim", default=32)
        yield torch.randn((batch, length, width), generator=g)


def _names(model: nn.Module) -> list[str]:
    """The inputs to begin with: the main one, and what the forward cannot do without."""
    parameters = inspect.signature(model.forward).parameters
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind not in kinds]
    main = str(getattr(model, "main_input_name", ""))
    names = [main] if main in parameters and main not in needed else []
    names += needed
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in parameters:
        names.append("decoder_input_ids")
    both = {"input_ids", "pixel_values"} <= set(parameters)
    placed_in_text = first(config, TEXT, "image_token_id", "image_token_index") is not None
    if both and not placed_in_text:  # two towers: each wants its own
        names += ["input_ids", "pixel_values"]
    if "bbox" in parameters:
        names.append("bbox")
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


def placed(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
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
    why = ""
    for candidate in _candidates(model, names, batch, length, seed):
        inputs = placed(model, candidate)
        try:
            model(**inputs)
        except Exception as error:  # the model's own, whatever it may be; the first says most
            lines = str(error).strip().splitlines()
            why = why or f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
        else:
            return with_media(model, inputs)
    why = why or "its forward names inputs that are not known"
    raise FoveateError(
        f"No inputs could be made up for {type(model).__name__} (asked for: "
        f"{', '.join(names) or 'nothing'}; {why}): give inputs=, a dict of its forward's "
        "arguments (on the command line: --class module:factory, returning the model and the dict)."
    )
