"""Where a model looks in a picture for an answer, and a crop of it (Zhang et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._implements import implements
from ..errors import FoveateError
from ..grid import Grid
from ..pictures.reading import image_of
from ..prompt import Prompt
from ..tasks._task import Item
from ..tasks.answering import replies
from .boxes import best_box
from .look_maps import MAPS, firsts, grad_att, pure_grad, rel_att

__all__ = ["Look", "ViCrop", "grad_att", "pure_grad", "rel_att", "with_crop"]


@dataclass(frozen=True, eq=False)
class Look:
    """Where a model looked for an answer.

    Attributes
    ----------
    map : Tensor
        ``[rows, columns]``.
    box : (x0, y0, x1, y1)
        In the picture's pixels.
    crop : PIL image
    """

    map: Tensor
    box: tuple[int, int, int, int]
    crop: Any


@implements("vicrop-know-where-to-look", basis="paper")
@dataclass(eq=False)
class ViCrop:
    """Ask once, crop the picture where the model looked, and ask again with the crop beside it.

    A processor shrinks a large picture to what the model takes in, and small things are lost; yet
    the model looks in the right place. A map over the patches (:func:`rel_att`, :func:`grad_att`,
    :func:`pure_grad`) says where, :func:`~foveate.find.boxes.best_box` puts a box around its peak,
    and what is in the box goes in as one more picture, enlarged.

    Parameters
    ----------
    maps : {"rel_att", "grad_att", "pure_grad"}
    general : str
        The question that asks for nothing in particular, of ``rel_att`` and ``pure_grad``.
    layers : int or sequence of int, optional
        Of the decoder, for the first two. Default: the mean over all.
    side : float, optional
        Of the smallest crop, in the picture's pixels. Default: of what the processor makes of a
        picture. A picture no larger is given twice.
    beside : bool
        Whether the crop goes beside the picture, as in the paper, or in its place.
    batch_size : int
        Questions asked at once.

    Raises
    ------
    FoveateError
        For settings out of range, chats without a picture, and what the maps refuse.

    Notes
    -----
    A question costs two forwards of the prompt (one, with a gradient, for ``grad_att``) and an
    answer with twice the image tokens.

    Source: arXiv 2502.17422 and the official code (saccharomycetes/mllms_know). The layer of the
    map, which the authors chose by validation for each model, is to be given or all are averaged.
    The general question stands in the place of the chat's last text. High-pass filter and gradient
    of ``pure_grad`` are taken at the picture as the processor gives it, theirs at the same size
    before its channels are scaled. Not here: their split of pictures above 1,024 pixels, and the
    Q-Former's attention times the decoder's for BLIP, whose image tokens are no patches.

    Examples
    --------
    >>> import foveate as fv
    >>> from foveate.find.where_to_look import ViCrop
    >>> from foveate.tasks.shapes import Scene, Thing, render
    >>> model, processor = fv.load("shapes-vlm")
    >>> things = (Thing("cross", "red", 12, 30, 96), Thing("circle", "cyan", 12, 100, 40))
    >>> picture = {"type": "image", "image": render(Scene(things, size=128))}
    >>> asked = {"type": "text", "text": "what colour is the cross?"}
    >>> chat = [{"role": "user", "content": [picture, asked]}]
    >>> vicrop = ViCrop(general="describe the picture.")
    >>> print(vicrop.look(model, processor, [chat])[0].box)
    >>> print(vicrop.generate(model, processor, [chat], max_new_tokens=4))
    """

    maps: Literal["rel_att", "grad_att", "pure_grad"] = "rel_att"
    general: str = "Write a general description of the image."
    layers: Any = None
    side: float | None = None
    beside: bool = True
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.maps not in MAPS:
            raise FoveateError(f"maps={self.maps!r} was given; there are {', '.join(MAPS)}.")
        if not isinstance(self.general, str) or not self.general:
            raise FoveateError(f"general={self.general!r} was given; a question was wanted.")
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int):
            raise FoveateError(f"batch_size={self.batch_size!r} was given; a whole number from 1.")
        if self.batch_size < 1 or (self.side is not None and not self.side > 0):
            raise FoveateError(
                f"batch_size={self.batch_size!r}, side={self.side!r} were given; numbers above 0 "
                "were wanted."
            )

    def look(self, model: nn.Module, processor: Any, chats: Sequence[Any]) -> list[Look]:
        """Where the model looks in the first picture of each chat.

        Parameters
        ----------
        model, processor
        chats : sequence of Item or of list of dict
            Messages; of those with a picture, the content is a list of parts.
        """
        found: list[Look] = []
        for start in range(0, len(chats), self.batch_size):
            part = [_messages(chat) for chat in chats[start : start + self.batch_size]]
            device = next(model.parameters()).device
            prompt = Prompt(processor, part, padding_side="left").to(device)
            general = prompt
            if self.maps != "grad_att":
                asked = [_general(chat, self.general) for chat in part]
                general = Prompt(processor, asked, padding_side="left").to(device)
            maps = MAPS[self.maps](model, prompt, general, layers=self.layers)
            for chat, grid, weights in zip(part, firsts(prompt), maps, strict=True):
                box = _box(weights.cpu(), grid, self.side or _side(prompt))
                found.append(Look(weights, box, image_of(_picture(chat)).crop(box)))
        return found

    def generate(
        self, model: Any, processor: Any, items: Sequence[Any], max_new_tokens: int = 32
    ) -> list[str]:
        """Greedy replies with the crops: what ``fv.evaluate`` takes in the place of methods.

        Parameters
        ----------
        model, processor
        items : sequence of Item or of list of dict
        max_new_tokens : int
        """
        looks = self.look(model, processor, items)
        chats = [
            with_crop(_messages(item), look.crop, self.beside)
            for item, look in zip(items, looks, strict=True)
        ]
        said: list[str] = []
        for start in range(0, len(chats), self.batch_size):
            part = chats[start : start + self.batch_size]
            prompt = Prompt(processor, part, padding_side="left").to(model.device)
            with torch.no_grad():
                said += replies(model, prompt, max_new_tokens)
        return said


def _side(prompt: Prompt) -> float:
    """Of a picture as the processor makes it, in pixels."""
    pixels = prompt.inputs.get("pixel_values")
    if pixels is None or pixels.dim() < 4:
        raise FoveateError(
            "The processor gives no pictures of one size, so how large a crop is to be is not "
            "known: give side=, in the picture's pixels."
        )
    return float(min(pixels.shape[-2:]))


def _box(weights: Tensor, grid: Grid, side: float) -> tuple[int, int, int, int]:
    """The best box in the picture's pixels, where the grid may show less or more than it."""
    assert grid.frame is not None and grid.width is not None and grid.height is not None
    left, top, right, bottom = grid.frame
    x0, y0, x1, y1 = best_box(weights, (right - left, bottom - top), side)
    across = [min(max(round(x + left), 0), round(grid.width)) for x in (x0, x1)]
    down = [min(max(round(y + top), 0), round(grid.height)) for y in (y0, y1)]
    return across[0], down[0], across[1], down[1]


# -- chats -----------------------------------------------------------------------------------------
def _messages(chat: Any) -> list[dict[str, Any]]:
    given = chat.content if isinstance(chat, Item) else chat
    if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
        raise FoveateError(
            f"A chat (a list of messages) was wanted; {given!r:.60} was given. One question is "
            '[{"role": "user", "content": [{"type": "image", "image": picture}, '
            '{"type": "text", "text": "…"}]}].'
        )
    return [dict(one) for one in given]


def _place(chat: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Message and part of the first picture."""
    for number, message in enumerate(chat):
        parts = message["content"]
        for at, part in enumerate([] if isinstance(parts, str) else parts):
            if part.get("type") == "image":
                return number, at
    raise FoveateError(
        'A chat has no picture; its content is to hold {"type": "image", "image": picture}.'
    )


def _picture(chat: Sequence[Mapping[str, Any]]) -> Any:
    number, at = _place(chat)
    part = chat[number]["content"][at]
    return part.get("image", part.get("path"))


def with_crop(chat: list[dict[str, Any]], crop: Any, beside: bool) -> list[dict[str, Any]]:
    """The chat with a crop behind its first picture, or in its place."""
    number, at = _place(chat)
    parts = list(chat[number]["content"])
    parts[at : at + 1] = [*parts[at : at + beside], {"type": "image", "image": crop}]
    return [*chat[:number], {**chat[number], "content": parts}, *chat[number + 1 :]]


def _general(chat: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """The chat with another text in the place of its last message's."""
    last = chat[-1]["content"]
    if isinstance(last, str):
        return [*chat[:-1], {**chat[-1], "content": text}]
    kept = [part for part in last if part.get("type") != "text"]
    return [*chat[:-1], {**chat[-1], "content": [*kept, {"type": "text", "text": text}]}]
