"""A tiny model of a class, with weights that make it attend to something, and its inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from foveate.check.inputs import example_inputs, placed

from .config import tiny
from .inputs import INPUTS

__all__ = ["build", "inputs_of"]

LARGEST = 30_000_000  # parameters


def build(cls: Any) -> nn.Module:
    """A model of ``cls``, float32 and in evaluation mode."""
    config = tiny(cls.config_class)
    with torch.device("meta"):
        try:
            size = sum(p.numel() for p in cls(config).parameters())
        except Exception:  # some compute with their weights while they are built
            size = 0
    if size > LARGEST:
        raise ValueError(f"still has {size:,} parameters when shrunk")
    torch.manual_seed(0)
    model = cls(config).float().eval()
    held = {name: value.clone() for name, value in model.state_dict().items()}
    spread(model)
    try:
        finite = all(bool(t.isfinite().all()) for t in _floats(model(**inputs_of(model))))
    except Exception:
        finite = True  # not for its weights
    if not finite:
        model.load_state_dict(held)
    return model


@torch.no_grad()
def spread(model: nn.Module) -> None:
    """Initial weights are so small that every attention is uniform: make them larger."""
    g = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and parameter.is_floating_point():
            fan = parameter[0].numel()
            parameter.copy_(torch.randn(parameter.shape, generator=g) * 1.2 / fan**0.5)
        elif "sinks" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=g))


def _floats(output: Any) -> list[torch.Tensor]:
    from foveate.check.subject import tensors

    return [t for _, t in tensors(output) if t.is_floating_point()]


@torch.no_grad()
def inputs_of(model: nn.Module) -> dict[str, Any]:
    """The inputs of a class that is known to want its own; else what its signature asks for."""
    own = INPUTS.get(type(model).__name__)
    if own is None:
        return example_inputs(model)
    inputs = placed(model, own(model, torch.Generator().manual_seed(0)))
    model(**inputs)
    return inputs
