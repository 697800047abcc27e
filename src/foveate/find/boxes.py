"""Where a map over a picture has its peak: a box around it, as sharp as it can be had."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import FoveateError

__all__ = ["RATIOS", "best_box", "edges"]

RATIOS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)


def best_box(
    weights: Tensor,
    size: tuple[float, float],
    side: float,
    ratios: Sequence[float] = RATIOS,
) -> tuple[int, int, int, int]:
    """The window with the largest sum of a map, in the size that stands out most.

    For each ratio a window of ``side * ratio`` pixels slides over the map, patch by patch; it stops
    where its sum is largest. Of these the ratio is taken whose sum exceeds the mean of the windows
    one patch to the left, right, above and below by most, per patch of the window.

    Parameters
    ----------
    weights : Tensor
        ``[rows, columns]``.
    size : (width, height)
        Of the picture that the map lies over, in pixels.
    side : float
        Of the smallest window, in pixels: what the model takes in at once without loss (336 for
        LLaVA-1.5).
    ratios : sequence of float

    Returns
    -------
    (x0, y0, x1, y1)
        In pixels, the last two exclusive; inside the picture. The whole picture where it is no
        larger than the first window.

    Raises
    ------
    FoveateError
        What is no map, or a size or side that is no number of pixels.

    Notes
    -----
    As the authors' code has it, which says no more of the choice: the first window wins among
    equals, by columns; a window's patches are counted downwards; the box is centred on the window's
    middle, has ``side * ratio`` pixels whatever the window has, and is moved inside. A window
    smaller than a patch, where theirs finds nothing, has one patch here.
    """
    if not isinstance(weights, Tensor) or weights.dim() != 2 or not weights.numel():
        shape = list(getattr(weights, "shape", ()))
        raise FoveateError(
            f"best_box got a {type(weights).__name__} {shape}; a map [rows, columns] was wanted."
        )
    if not bool(weights.isfinite().all()):
        raise FoveateError("The map has entries that are no finite numbers; no box is the best.")
    pair = isinstance(size, Sequence) and len(size) == 2
    if not pair or not ratios or not all(_positive(n) for n in (*size, side, *ratios)):
        raise FoveateError(
            f"best_box got size={size!r}, side={side!r}, ratios={ratios!r}; numbers above 0 were "
            "wanted."
        )
    rows, columns = weights.shape
    patch = size[0] / columns, size[1] / rows
    best: tuple[float, float, tuple[float, float]] | None = None
    for ratio in ratios:
        wide = min(max(int(side * ratio / patch[0]), 1), columns)
        high = min(max(int(side * ratio / patch[1]), 1), rows)
        if (wide, high) == (columns, rows):
            if best is None:
                return 0, 0, round(size[0]), round(size[1])
            continue
        sums = F.avg_pool2d(weights.double()[None, None], (high, wide), stride=1)[0, 0]
        x, y = divmod(int(sums.T.reshape(-1).argmax()), sums.shape[0])  # the first, by columns
        around = [
            sums[j, i]
            for j, i in ((y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x))
            if 0 <= j < sums.shape[0] and 0 <= i < sums.shape[1]
        ]
        sharp = float(sums[y, x] - torch.stack(around).mean())
        if best is None or sharp > best[0]:
            centre = patch[0] * (x + wide / 2), patch[1] * (y + high / 2)
            best = sharp, side * ratio, centre
    assert best is not None
    _, length, centre = best
    left, right = _inside(int(centre[0]), length, size[0])
    top, bottom = _inside(int(centre[1]), length, size[1])
    return left, top, right, bottom


def edges(picture: Tensor) -> Tensor:
    """Where a picture has fine detail, bool ``[h, w]``: the half of it with most of it.

    What a Gaussian blur of 3 pixels (deviation 0.8) takes away, as a length over the channels,
    behind a median filter of 7 pixels, above its median. Everywhere where that is nowhere: the
    filter leaves nothing of a few small things on a flat ground.

    Parameters
    ----------
    picture : Tensor
        ``[3, h, w]``, at least 2 pixels high and wide.
    """
    tap = math.exp(-1 / (2 * 0.8**2))
    line = torch.tensor([tap, 1.0, tap], dtype=picture.dtype, device=picture.device)
    line = line / line.sum()
    kernel = (line[:, None] * line)[None, None].expand(picture.shape[0], 1, 3, 3)
    padded = F.pad(picture[None], (1, 1, 1, 1), mode="reflect")
    lost = picture - F.conv2d(padded, kernel, groups=picture.shape[0])[0]
    strength = lost.square().sum(0).sqrt()
    rows, columns = (_mirrored(n, 3, picture.device) for n in strength.shape)
    windows = strength[rows][:, columns].unfold(0, 7, 1).unfold(1, 7, 1)
    smooth = windows.flatten(2).median(-1).values
    fine = smooth > smooth.double().quantile(0.5)
    return fine if bool(fine.any()) else torch.ones_like(fine)


def _mirrored(n: int, margin: int, device: Any) -> Tensor:
    """Indices ``-margin … n + margin - 1``, mirrored at the edges, the edge itself twice."""
    index = torch.arange(-margin, n + margin, device=device) % (2 * n)
    return torch.minimum(index, 2 * n - 1 - index)


def _inside(centre: int, length: float, whole: float) -> tuple[int, int]:
    half = max(length // 2, 1)
    middle = min(max(centre, half), whole - half)
    return int(max(0, middle - half)), int(min(whole, middle + half))


def _positive(n: Any) -> bool:
    number = isinstance(n, int | float) and not isinstance(n, bool)
    return number and math.isfinite(n) and n > 0
