"""Which model something was found in: a name for people, a fingerprint for machines."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import PurePath
from typing import Any

import torch
from torch import nn

from ..adapters.sites import sites
from ..load import home

__all__ = ["ModelId", "grid_of", "versions"]

_SAMPLES = 16  # numbers looked at of each weight


@dataclass(frozen=True)
class ModelId:
    """The identity of a model.

    Attributes
    ----------
    name : str
        The hub id or the last part of the folder it was loaded from; else its class.
    architecture : str
        Its class.
    fingerprint : str
        16 hexadecimal digits of names, shapes and samples of the weights, the same in float32 and
        in bfloat16.
    """

    name: str
    architecture: str
    fingerprint: str

    @classmethod
    def of(cls, model: nn.Module) -> ModelId:
        """The identity of a live model."""
        kind = type(model).__name__
        source: Any = getattr(getattr(model, "config", None), "_name_or_path", None) or kind
        path = PurePath(str(source))
        # a hub id has one slash at most; of a folder only its own name is anyone's business
        name = path.name if path.is_absolute() or len(path.parts) > 2 else str(source)
        if home() / "models" == path.parent:  # the embedded model, unpacked: smollm2-…-v1
            name = path.name.partition("-")[0]
        digest = hashlib.sha256(kind.encode())
        for key, weight in model.state_dict().items():
            digest.update(f"{key}{tuple(weight.shape)}".encode())
            flat = weight.detach().reshape(-1)
            some = flat[:: max(1, flat.numel() // _SAMPLES)][:_SAMPLES]
            rounded = some.to(torch.bfloat16) if some.is_floating_point() else some
            digest.update(rounded.double().cpu().numpy().tobytes())
        return cls(name, kind, digest.hexdigest()[:16])


def versions() -> dict[str, str]:
    """The libraries that what is found may depend on."""
    found = {"python": platform.python_version()}
    for name in ("foveate", "torch", "transformers", "tokenizers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def grid_of(model: nn.Module, stack: str) -> tuple[int, int | None]:
    """How many layers a stack of a live model has, and how many heads each."""
    here = [site for site in sites(model) if site.stack == stack]
    return len(here), next((site.heads for site in here), None)
