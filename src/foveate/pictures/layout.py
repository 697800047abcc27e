"""Which token of a picture is which of its patches, by the families of processors that say so."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from ..errors import FoveateError
from ..grid import Box, Grid

__all__ = ["frame", "grid_of", "token_ids"]

_TILE = re.compile(r"<row_(\d+)_col_(\d+)>")
# one vector a patch of the picture as it is, or of square blocks of patches
_SQUARE = {"Gemma3Processor", "PaliGemmaProcessor"}


def token_ids(processor: Any) -> set[int]:
    """The ids of the tokens in whose place a model puts a picture's vectors."""
    many = getattr(processor, "image_token_ids", None) or ()
    ids = {one for one in (*many, getattr(processor, "image_token_id", None)) if one is not None}
    # Gemma 3's processor names the token that begins a picture, its tokenizer the pictures' own
    own = getattr(getattr(processor, "tokenizer", None), "image_token_id", None)
    return {own} if isinstance(own, int) else ids


def grid_of(
    processor: Any,
    outputs: Mapping[str, Any],
    number: int,
    size: tuple[int, int],
    text: str,
    places: Sequence[int],
    starts: Sequence[int],
    item: int,
) -> Grid:
    """The grid of one picture.

    Parameters
    ----------
    processor : transformers processor
    outputs : mapping
        What it made of the prompt.
    number : int
        Which of all pictures of the prompt this one is.
    size : (int, int)
        Its width and height, in pixels.
    text : str
        What the processor put in its place.
    places : sequence of int
        Positions of its tokens in the padded row.
    starts : sequence of int
        Where in ``text`` each of these tokens begins.
    item : int

    Raises
    ------
    FoveateError
        Its tokens lie on no grid that is known.
    """
    family = type(processor).__name__
    width, height = size
    common: dict[str, Any] = {"width": width, "height": height, "item": item}
    tiled = _tiles(text, places, starts)
    if tiled is not None:
        rows, columns, at, whole = tiled
        side = math.isqrt(len(whole))
        overview = Grid(side, side, at=tuple(whole), **common)
        return Grid(rows, columns, at=at, overview=overview, **common) if at else overview
    if outputs.get("image_grid_thw") is not None:
        merge = int(getattr(processor.image_processor, "merge_size", 1))
        frames, rows, columns = outputs["image_grid_thw"][number].tolist()
        if frames == 1 and (rows // merge) * (columns // merge) == len(places):
            return Grid(rows // merge, columns // merge, at=tuple(places), **common)
    values: Any = outputs.get("pixel_values")
    if getattr(values, "ndim", 0) == 4:
        high, wide = values.shape[-2:]
        own = getattr(processor, "patch_size", None)
        if isinstance(own, int) and not getattr(processor, "image_break_token", None):
            rows, columns = high // own, wide // own
            lead = len(places) - rows * columns  # the class token, where the model keeps it
            if lead in (0, 1):
                seen = frame(processor.image_processor, width, height)
                return Grid(rows, columns, at=tuple(places[lead:]), frame=seen, **common)
        side = math.isqrt(len(places))
        one_run = all(b - a == 1 for a, b in pairwise(places))
        known = _SQUARE & {cls.__name__ for cls in type(processor).__mro__}
        if known and one_run and side * side == len(places):
            return Grid(side, side, at=tuple(places), **common)
    raise FoveateError(
        f"Where the {len(places)} tokens of picture {number} lie in it is not known: "
        f"{family} does not put one for each patch, or not in an order that foveate knows. The "
        "region 'image' has them all; boxes cannot be marked."
    )


def _tiles(
    text: str, places: Sequence[int], starts: Sequence[int]
) -> tuple[int, int, tuple[int, ...], list[int]] | None:
    """Tiles of one picture as one grid, and the tokens of the picture as a whole (Idefics 3).

    Rows, columns and places of the tiles' patches in row-major order, none where there is but the
    whole; None where the text has no such marks.
    """
    marks = [(m.end(), int(m[1]) - 1, int(m[2]) - 1) for m in _TILE.finditer(text)]
    if not marks and "<global-img>" not in text:
        return None
    ends = [at for at, _, _ in marks] + [text.rfind("<global-img>")]
    parts = [
        [place for place, start in zip(places, starts, strict=True) if a <= start < b]
        for a, b in pairwise([*ends, len(text)])
    ]
    side = math.isqrt(len(parts[-1]))
    if not side or any(len(part) != side * side for part in parts):
        return None
    rows = side * (1 + max((row for _, row, _ in marks), default=-1))
    columns = side * (1 + max((column for _, _, column in marks), default=-1))
    at = [0] * (rows * columns)
    for (_, row, column), part in zip(marks, parts[:-1], strict=True):
        for i, place in enumerate(part):
            y, x = row * side + i // side, column * side + i % side
            at[y * columns + x] = place
    return rows, columns, tuple(at), parts[-1]


def frame(image_processor: Any, width: float, height: float) -> Box | None:
    """What an image processor shows of a picture, in the picture's pixels; None: all of it.

    Known are resizing to a shortest edge or to fixed sides, cutting out the middle, and CLIP's
    padding to a square before both. All others show the whole picture.
    """

    def setting(name: str) -> Any:
        return getattr(image_processor, name, None)

    x0, y0, x1, y1 = 0.0, 0.0, float(width), float(height)
    if setting("do_pad") and hasattr(image_processor, "pad_to_square"):
        side = max(width, height)
        x0, y0 = (width - side) / 2, (height - side) / 2
        x1, y1 = x0 + side, y0 + side
    if setting("do_center_crop"):
        shown_width, shown_height = x1 - x0, y1 - y0
        scale_x, scale_y = _scale(setting("size"), shown_width, shown_height)
        if not setting("do_resize"):
            scale_x = scale_y = 1.0
        crop = setting("crop_size")
        wide, high = _side(crop, "width") / scale_x, _side(crop, "height") / scale_y
        x0, y0 = x0 + (shown_width - wide) / 2, y0 + (shown_height - high) / 2
        x1, y1 = x0 + wide, y0 + high
    return None if (x0, y0, x1, y1) == (0, 0, width, height) else (x0, y0, x1, y1)


def _scale(size: Any, width: float, height: float) -> tuple[float, float]:
    edge = _side(size, "shortest_edge") if size else None
    if edge:
        scale = edge / min(width, height)
        return scale, scale
    return (_side(size, "width") or width) / width, (_side(size, "height") or height) / height


def _side(size: Any, name: str) -> Any:
    """A size's field: a mapping's or an object's, by the version of transformers."""
    return size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)
