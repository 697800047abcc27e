"""A denoiser's forward: the module it is of, the prompt's share of what goes in, what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...adapters.diffusers import denoises
from ...adapters.sites import Site
from ...errors import FoveateError

__all__ = ["denoiser_of", "half", "predicting", "prediction_of"]


def denoiser_of(model: nn.Module, site: Site) -> nn.Module:
    """The denoiser that a site is in."""
    parts = site.name.split(".")
    for i in range(len(parts)):
        module = model.get_submodule(".".join(parts[:i]))
        if denoises(module):
            if "ControlNet" in type(module).__name__:
                raise FoveateError(
                    f"PAG was given {site.name}; a ControlNet predicts nothing that could be "
                    "guided: name stacks of the UNet or the transformer."
                )
            return module
    raise FoveateError(f"{site.name} is in no denoiser that PAG could run once more.")


def half(name: str, value: Any, rows: int | None) -> Any:
    """The second half of what has a row for each of the batch; positions have none."""
    if isinstance(value, Tensor):
        whole = not value.dim() or len(value) != rows or "rotary" in name or name.endswith("_ids")
        return value if whole else value[len(value) // 2 :]
    if isinstance(value, Mapping):
        return {key: half("", one, rows) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(half(name, one, rows) for one in value)
    return value


def prediction_of(output: Any) -> Tensor:
    """The tensor in what a denoiser returns."""
    found = output
    if isinstance(output, Mapping) or hasattr(output, "sample"):
        found = output["sample"]
    elif isinstance(output, tuple) and output:
        found = output[0]
    if not isinstance(found, Tensor):
        raise FoveateError(
            f"PAG guides a denoiser that predicts one tensor; this one gave {type(found).__name__}."
        )
    return found


def predicting(output: Any, new: Tensor) -> Any:
    """What a denoiser returned, with another prediction."""
    if isinstance(output, Tensor):
        return new
    if isinstance(output, Mapping) or hasattr(output, "sample"):
        output["sample"] = new
        return output
    return (new, *output[1:])
