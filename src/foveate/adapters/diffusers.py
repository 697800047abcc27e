"""diffusers: what a denoiser's attention sites are for, and the models in a pipeline.

======================= ============================================================================
stack                   what it is
======================= ============================================================================
``unet.down.0.self``    UNets: by place (``down.0`` …, ``mid``, ``up.0`` …), since the places differ
``unet.mid.cross``      in resolution and heads; image tokens on image tokens, or on the text's
``unet.up.1.motion.…``  … on the same place in other frames (video UNets), also ``temporal``
``self``, ``cross``     transformers: image tokens on image tokens, or on the text's
``joint``, ``single``   text and image tokens together, with weights of their own or with the same
======================= ============================================================================

``stack="unet.down"`` or ``"cross"`` names all that begin so or are of that kind.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from torch import nn

from ..errors import FoveateError
from .processors import processor_of

__all__ = ["KINDS", "Components", "denoises", "is_model", "opened", "order_of", "place"]

KINDS = ("self", "cross", "joint", "single")

# In which order joint attention lines up its tokens, as the models' own files have it.
_ORDERS = {
    "text first": (
        "BriaTransformer2DModel",
        "ChromaTransformer2DModel",
        "CogVideoXTransformer3DModel",
        "CogView4Transformer2DModel",
        "Flux2Transformer2DModel",
        "FluxControlNetModel",
        "FluxTransformer2DModel",
        "LongCatImageTransformer2DModel",
        "OvisImageTransformer2DModel",
        "QwenImageTransformer2DModel",
    ),
    "image first": (
        "HunyuanVideoTransformer3DModel",
        "SD3ControlNetModel",
        "SD3Transformer2DModel",
    ),
}
_ORDER = {name: order for order, names in _ORDERS.items() for name in names}
# Joint, though their attention modules have no weights of the text's own to show it.
_MIXED = ("CogVideoXTransformer3DModel", "CogView4Transformer2DModel")
_ASIDE = ("refiner", "context_embedder", "caption")  # towers of the text's own
_TIMES = ("motion", "temp")  # UNet parts whose tokens are frames


def is_model(module: nn.Module) -> bool:
    """Whether this is a model of diffusers (duck-typed: diffusers is not imported here)."""
    return hasattr(module, "register_to_config") and hasattr(module, "config")


def _parameters(module: nn.Module) -> tuple[str, ...]:
    cls: type = type(module)
    return _parameters_of(cls)


@cache
def _parameters_of(cls: type) -> tuple[str, ...]:
    return tuple(inspect.signature(cls.forward).parameters)[1:]  # type: ignore[attr-defined]


def denoises(module: nn.Module) -> bool:
    """Whether this is a denoiser: a model of diffusers that is told a time."""
    return is_model(module) and "timestep" in _parameters(module)


def given(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a denoiser was called with, by name."""
    return dict(zip(_parameters(module), args, strict=False)) | dict(kwargs)


def order_of(model: nn.Module) -> str | None:
    """In which order joint attention has its tokens: "text first", "image first" or unknown."""
    for cls in type(model).__mro__:
        if cls.__name__ in _ORDER:
            return _ORDER[cls.__name__]
    return None


def place(model: nn.Module, module: nn.Module, parts: list[str]) -> tuple[str, str | None]:
    """What an attention module is for.

    Parameters
    ----------
    model : torch.nn.Module
        The model of diffusers it is in.
    module : torch.nn.Module
    parts : list of str
        Its address in there.

    Returns
    -------
    kind : {"self", "cross", "joint", "single"}
    stack : str or None
        The stack's name where its place says it; None where kind and container do.
    """
    kind = _kind(model, module, parts)
    found = None
    for i, part in enumerate(parts):
        if part in ("down_blocks", "up_blocks"):
            found = f"{part.removesuffix('_blocks')}.{parts[i + 1]}"
        elif part == "mid_block":
            found = "mid"
    if found is None:
        return kind, None
    name = type(model).__name__
    root = "controlnet" if "ControlNet" in name else "vae" if "Autoencoder" in name else "unet"
    if root == "vae":
        root = f"vae.{parts[0]}"
    time = next((word for word in _TIMES if any(word in part for part in parts)), None)
    found += {"motion": ".motion", "temp": ".temporal", None: ""}[time]
    return kind, f"{root}.{found}.{kind}"


def _kind(model: nn.Module, module: nn.Module, parts: list[str]) -> str:
    cross = getattr(module, "is_cross_attention", None)
    if cross is None:
        cross = parts[-1] in ("attn2", "cross_attn") or "Cross" in type(module).__name__
    if cross:
        return "cross"
    if any(word in part for word in _ASIDE for part in parts):
        return "self"
    if getattr(module, "add_k_proj", None) is not None:
        return "joint"
    if any("single" in part for part in parts):
        return "single"
    return "joint" if type(model).__name__ in _MIXED else "self"


def aside(name: str) -> bool:
    """Whether a site of kind "self" has other tokens than the image's."""
    return any(word in name for word in (*_ASIDE, ".motion", ".temporal"))


def takes_image_prompts(module: nn.Module) -> bool:
    """Whether a site attends once more, to the tokens of an image prompt (IP-Adapter)."""
    return hasattr(processor_of(module), "to_k_ip")


# -- pipelines -------------------------------------------------------------------------------------
class Components(nn.Module):
    """The models of a pipeline that methods may act on; it is never called."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__()
        self.__dict__["pipeline"] = pipeline
        for name, module in _attending(pipeline):
            self._modules[name] = module


def _attending(pipeline: Any) -> Iterator[tuple[str, nn.Module]]:
    for name, module in pipeline.components.items():
        if type(module).__name__ == "OptimizedModule":
            raise FoveateError(
                f"The pipeline's {name} is compiled; what is compiled cannot be routed: attach "
                f"before torch.compile, or put the model back: pipe.{name} = "
                f"pipe.{name}._orig_mod."
            )
        if isinstance(module, nn.Module) and (name.startswith("text_encoder") or denoises(module)):
            yield name, module


def renamed(sites: list[Any]) -> list[Any]:
    """Sites of a pipeline, its text encoders' stacks under their components' names.

    What a text encoder was built for is no matter here: its one forward is neither prefill nor
    decode, and a decoder among them must not be what methods act on by default.
    """
    kinds: dict[str, set[str]] = {}
    for site in sites:
        kinds.setdefault(site.name.split(".")[0], set()).add(site.stack)

    def one(site: Any) -> Any:
        component = site.name.split(".")[0]
        if site.denoiser:
            return site
        stack = component if len(kinds[component]) == 1 else f"{component}.{site.stack}"
        return replace(site, stack=stack, kind="text" if site.kind == "decoder" else site.kind)

    return [one(site) for site in sites]


def opened(model: Any) -> Any:
    """The models of a pipeline as one module; anything else as it is."""
    if isinstance(model, nn.Module) or not isinstance(getattr(model, "components", None), Mapping):
        return model
    return Components(model)
