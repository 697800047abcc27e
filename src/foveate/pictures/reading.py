"""Pictures as they are given: PIL images, arrays or files; in the messages of a chat."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FoveateError

__all__ = ["image_of", "taken"]

_WANTED = "a PIL image, a uint8 array [height, width, 3] or the path of an image file was wanted"


def image_of(given: Any, where: str = "The picture") -> Any:
    """A picture as a PIL image in RGB.

    Parameters
    ----------
    given : PIL image, uint8 array [H, W, 3], or path
    where : str
        What it is, for the error's sentence.

    Raises
    ------
    FoveateError
        No picture, a file that is none, or Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise FoveateError("Pictures need Pillow: pip install Pillow.") from error
    if isinstance(given, Image.Image):
        return given.convert("RGB")
    if isinstance(given, str | os.PathLike):
        path = Path(given).expanduser()
        try:
            with Image.open(path) as opened:
                # as it is looked at: cameras note in the file how they were held
                return ImageOps.exif_transpose(opened).convert("RGB")
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is no image file"
            raise FoveateError(
                f"{where} {str(path)!r} cannot be read ({why}); {_WANTED}."
            ) from error
    if hasattr(given, "detach"):
        given = given.detach().cpu().numpy()
    if isinstance(given, np.ndarray):
        if given.dtype == np.uint8 and given.ndim == 3 and given.shape[2] == 3 and given.size:
            return Image.fromarray(np.ascontiguousarray(given))
        raise FoveateError(f"{where} is an array {list(given.shape)} of {given.dtype}; {_WANTED}.")
    raise FoveateError(f"{where} is {type(given).__name__}; {_WANTED}.")


def taken(messages: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The messages of a chat with their pictures taken out, and the pictures in their order.

    A part ``{"type": "image", "image": picture}`` stays as ``{"type": "image"}``, which is what
    chat templates know.

    Raises
    ------
    FoveateError
        A part without its picture, or what is no picture.
    """
    left, pictures = [], []
    for number, message in enumerate(messages):
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, Sequence) or isinstance(content, str):
            left.append(message)
            continue
        parts = []
        for part in content:
            if not isinstance(part, Mapping) or part.get("type") != "image":
                parts.append(part)
                continue
            picture = part.get("image", part.get("path"))
            if picture is None:
                raise FoveateError(
                    f"Message {number} has an image part without its picture; write "
                    '{"type": "image", "image": picture}, with a PIL image, a uint8 array '
                    "[height, width, 3] or a path."
                )
            pictures.append(image_of(picture, f"The picture of message {number}"))
            parts.append({"type": "image"})
        left.append({**message, "content": parts})
    return left, pictures
