"""A picture for a model that only sees: what a prompt is for one that reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.sites import sites
from ..errors import FoveateError
from ..grid import Grid
from .layout import frame
from .reading import image_of

__all__ = ["Picture"]


class Picture:
    """A picture, or several, prepared for a vision transformer or a tower, with named regions.

    Parameters
    ----------
    processor : transformers image processor, or a processor that holds one
    pictures : PIL image, uint8 array [H, W, 3], path, or a list of these
        A list is a batch.
    model : torch.nn.Module
        The model that is to see it, whose config says how large a patch is (``patch_size``). It is
        run once, to see how many tokens stand before the patches.

    Attributes
    ----------
    inputs : dict of str to Tensor
        ``pixel_values``: goes to the model as ``**inputs``.
    regions : dict of str to Tensor
        Name → bool ``[B, S]`` over the tower's tokens: ``image``, all patches, and what
        :meth:`mark_box` marked.
    grids : tuple of Grid
        One a picture.
    pictures : tuple of PIL images
    batch_size, length : int
        ``B`` and ``S`` (tokens).
    stack : str
        The stack of the model whose tokens these are.

    Raises
    ------
    FoveateError
        No picture, no image processor, or a model whose tokens are no grid of patches.

    Examples
    --------
    >>> import foveate as fv
    >>> from foveate.tasks.shapes import render, scenes
    >>> model, processor = fv.load("shapes-clip")
    >>> (scene,) = scenes(1, seed=0)
    >>> picture = fv.Picture(processor, render(scene), model.vision_model)
    >>> picture.mark_box("object", scene.things[0].box).regions["object"].shape
    torch.Size([1, 65])
    >>> run = fv.inspect(model.vision_model, picture)
    >>> run.results["mass:object"].prefill.shape
    torch.Size([3, 1, 6, 65])
    """

    def __init__(self, processor: Any, pictures: Any, model: nn.Module) -> None:
        prepares = getattr(processor, "image_processor", None) or processor
        if "pixel_values" not in getattr(prepares, "model_input_names", ()):
            raise FoveateError(
                f"Picture got {type(processor).__name__} as its processor, but wants the image "
                "processor of the model, e.g. from fv.load(...)."
            )
        given = pictures if isinstance(pictures, list | tuple) else [pictures]
        if not given:
            raise FoveateError("Picture got an empty list; give it at least one picture.")
        self.pictures = tuple(
            image_of(one, f"Picture {number}") for number, one in enumerate(given)
        )
        self.inputs: dict[str, Tensor] = {
            "pixel_values": prepares(images=list(self.pictures), return_tensors="pt")[
                "pixel_values"
            ]
        }
        rows, columns = _patches(model, self.inputs["pixel_values"])
        tokens, self.stack = _tokens(model, self.inputs["pixel_values"][:1])
        lead = tokens - rows * columns
        if lead < 0:
            raise FoveateError(
                f"{type(model).__name__} makes {lead + rows * columns} tokens of {rows} × "
                f"{columns} patches: they are no grid with one token a patch."
            )
        self.grids = tuple(
            Grid(
                rows,
                columns,
                width=one.size[0],
                height=one.size[1],
                lead=lead,
                frame=frame(prepares, *one.size),
                item=number,
            )
            for number, one in enumerate(self.pictures)
        )
        self.batch_size = len(self.pictures)
        self.length = lead + rows * columns
        seen = torch.arange(self.length) >= lead
        self.regions = {"image": seen.repeat(self.batch_size, 1)}
        self.reader = 0 if lead else None  # the class token, by which a picture is told

    @property
    def token_rows(self) -> list[list[str]]:
        """Names of the tokens, ``[B][S]``."""
        lead = self.grids[0].lead
        names = ["<class>" if lead == 1 else f"<lead {i}>" for i in range(lead)]
        return [names + ["<patch>"] * self.grids[0].patches for _ in range(self.batch_size)]

    def mark_box(self, name: str, box: Sequence[float], *, item: int | None = None) -> Picture:
        """Name a region: the patches that a box covers, be it in part.

        Parameters
        ----------
        name : str
        box : (x0, y0, x1, y1)
            In the picture's own pixels, from its upper left corner.
        item : int, optional
            Only this picture of the batch. Default: all.

        Returns
        -------
        Picture
            Itself.

        Raises
        ------
        FoveateError
            A box that is none or covers nothing of a patch, no such picture, a taken name.
        """
        if not isinstance(name, str) or not name or name == "image":
            raise FoveateError(f"A region's name is a str other than 'image', not {name!r}.")
        if item is not None and (
            isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < self.batch_size
        ):
            raise FoveateError(f"item={item!r}, but there are {self.batch_size} picture(s).")
        marked = torch.zeros(self.batch_size, self.length, dtype=torch.bool)
        for number in range(self.batch_size) if item is None else [item]:
            marked[number] = self.grids[number].mask(box)
        old = self.regions.get(name, torch.zeros_like(marked))
        self.regions[name] = old | marked.to(old.device)
        return self

    def positions(self, name: str, item: int = 0) -> list[int]:
        """Positions of a region's tokens.

        Raises
        ------
        FoveateError
            No such region.
        """
        if name not in self.regions:
            raise FoveateError(
                f"There is no region {name!r}; there are {', '.join(map(repr, self.regions))}. "
                f"Make it with picture.mark_box({name!r}, (x0, y0, x1, y1))."
            )
        return self.regions[name][item].nonzero().flatten().tolist()

    def to(self, device: torch.device | str) -> Picture:
        """Move inputs and regions to a device, in place; returns the picture."""
        self.inputs = {name: value.to(device) for name, value in self.inputs.items()}
        self.regions = {name: value.to(device) for name, value in self.regions.items()}
        return self

    def __repr__(self) -> str:
        marks = {name: int(mask.sum()) for name, mask in self.regions.items()}
        return f"Picture(batch_size={self.batch_size}, length={self.length}, regions={marks})"


def _patches(model: nn.Module, pixels: Tensor) -> tuple[int, int]:
    config = getattr(model, "config", None)
    size = getattr(config, "patch_size", None)
    if size is None and hasattr(model, "patch_embed"):  # timm
        size = getattr(model.patch_embed, "patch_size", None)
    size = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(size) != 2 or not all(isinstance(one, int) for one in size) or pixels.ndim != 4:
        raise FoveateError(
            f"{type(model).__name__} does not say how large its patches are (config.patch_size); "
            "give the tower itself, e.g. model.vision_model, or pass regions= to fv.attach."
        )
    return pixels.shape[-2] // size[0], pixels.shape[-1] // size[1]


def _tokens(model: nn.Module, pixels: Tensor) -> tuple[int, str]:
    """How many tokens the model's attention has for one picture, seen in one forward; its stack."""
    seen: list[int] = []

    def look(module: nn.Module, args: Any, kwargs: Any) -> None:
        states = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
        seen.extend(one.shape[-2] for one in states[:1] if one.ndim == 3)

    found = sites(model)
    if not found:
        raise FoveateError(f"{type(model).__name__} has no attention that foveate can reach.")
    hook = found[0].module.register_forward_pre_hook(look, with_kwargs=True)
    own = next(model.parameters())
    try:
        with torch.no_grad():
            model(pixels.to(own.device, own.dtype))
    finally:
        hook.remove()
    if not seen:
        raise FoveateError(
            f"{type(model).__name__} does not attend to tokens of a picture; pass regions= to "
            "fv.attach."
        )
    return seen[0], found[0].stack
