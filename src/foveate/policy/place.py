"""Whether a policy may act here: the model it is for, the libraries it was found with."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping

from torch import nn

from ..adapters.diffusers import opened
from ..adapters.sites import sites
from ..errors import FoveateError
from ..find import _model
from ..find._model import ModelId

__all__ = ["check_versions", "fits", "grid_of", "module_of", "same_weights", "versions"]

_LIBRARIES = ("foveate", "torch", "transformers")


def versions() -> dict[str, str]:
    """The libraries here that a policy's effect may depend on."""
    found = _model.versions()
    return {name: found[name] for name in _LIBRARIES if found[name] != "unknown"}


def module_of(model: object) -> nn.Module:
    """The module to look at: a model, or the models of a pipeline."""
    found = opened(model)
    if not isinstance(found, nn.Module):
        raise FoveateError(
            f"A policy is for a model; {type(model).__name__} was given: "
            "model, tokenizer = fv.load(…)."
        )
    return found


def grid_of(model: nn.Module) -> tuple[int, int] | None:
    """Layers and heads a layer of the stack that methods act on by default."""
    found = sites(model)
    stacks = dict.fromkeys(site.stack for site in found)
    stack = "decoder" if "decoder" in stacks else next(iter(stacks), None)
    here = [site for site in found if site.stack == stack]
    return (len(here), here[0].heads) if here and here[0].heads else None


def fits(name: str, wanted: ModelId, grid: tuple[int, int] | None, model: nn.Module) -> None:
    """Refuse a model of another architecture, or one with other layers or heads."""
    here = grid_of(model) if grid else None
    if type(model).__name__ == wanted.architecture and here == grid:
        return
    was = f"{wanted.name}, a {wanted.architecture}" + (f" of {grid[0]} × {grid[1]}" if grid else "")
    now = f"a {type(model).__name__}" + (f" of {here[0]} × {here[1]}" if here else "")
    raise FoveateError(
        f"The policy {name!r} was made for {was} (layers × heads); this is {now}. What helps one "
        "model may harm another: find this one's own with fv.advise or foveate advise. To try it "
        "all the same, take [model] out of its file."
    )


def same_weights(name: str, wanted: ModelId, model: nn.Module) -> None:
    """Warn of other weights than the policy's."""
    here = ModelId.of(model)
    if here.fingerprint != wanted.fingerprint:
        warnings.warn(
            f"The policy {name!r} was made for {wanted.name} ({wanted.fingerprint}); {here.name} "
            f"({here.fingerprint}) has the same architecture and other weights: its figures were "
            "not measured here.",
            UserWarning,
            stacklevel=_outside(),
        )


def check_versions(found: Mapping[str, str]) -> None:
    """Refuse a policy that needs a newer series of a library; warn of an older one's.

    A series is the first number of a version that is not 0: foveate 0.2 and transformers 6 are
    other series than foveate 0.1 and transformers 5.
    """
    for name, here in versions().items():
        if name not in found:
            continue
        theirs, ours = _series(name, found[name]), _series(name, here)
        if theirs > ours:
            raise FoveateError(
                f"it was found with {name} {found[name]}, and this is {name} {here}, which cannot "
                f"know what changed: pip install '{name}>={found[name]}', or find a policy anew"
            )
        if theirs < ours and name != "foveate":  # foveate's own files keep their meaning
            warnings.warn(
                f"This policy was found with {name} {found[name]}; this is {name} {here}: its "
                "figures were not measured here.",
                UserWarning,
                stacklevel=_outside(),
            )


def _outside() -> int:
    """The stack level, for the function that warns, of the line outside foveate that led to it."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _inside(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    return level


def _inside(module: str) -> bool:
    ours = __name__.partition(".")[0]
    # a context manager of ours is entered by a line of contextlib
    return module.partition(".")[0] == ours or module == "contextlib"


def _series(name: str, version: object) -> tuple[int, ...]:
    try:
        first, second, *_ = str(version).split(".")
        return (int(first),) if int(first) else (0, int(second))
    except ValueError:
        raise FoveateError(
            f"[library] has {name} = {version!r}; a version such as {versions()[name]!r} was wanted"
        ) from None
