"""Layouts: the segments of a picture as masks, and on a grid of patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import FoveateError

__all__ = ["mask_of", "on_grid"]

FINE = 256  # pixels a side in which boxes are drawn


def mask_of(name: str, where: Any) -> Tensor:
    """A segment as shares of pixels, float ``[N, H, W]``."""
    box = isinstance(where, tuple | list) and len(where) == 4
    if box and all(isinstance(side, int | float) for side in where):
        x0, y0, x1, y1 = where
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise FoveateError(
                f"The box of {name!r} is {where}; (x0, y0, x1, y1) in shares of width and height, "
                "0 to 1, was wanted."
            )
        at = (torch.arange(FINE) + 0.5) / FINE
        mask = ((at >= y0) & (at < y1))[:, None] & ((at >= x0) & (at < x1))
        mask = mask[None]
    else:
        try:
            mask = torch.as_tensor(where)
        except (TypeError, ValueError, RuntimeError):
            mask = torch.empty(0)
        mask = mask[None] if mask.dim() == 2 else mask
    mask = mask.float()
    if mask.dim() != 3 or not mask.numel() or not bool(((mask >= 0) & (mask <= 1)).all()):
        raise FoveateError(
            f"The segment of {name!r} was given as {type(where).__name__}; a mask [H, W] or "
            "[N, H, W] of 0 to 1, or a box (x0, y0, x1, y1), was wanted."
        )
    if not bool(mask.flatten(1).any(1).all()):
        raise FoveateError(f"The segment of {name!r} covers no pixel.")
    return mask


def on_grid(segments: Sequence[Tensor], grid: tuple[int, int], background: bool) -> Tensor:
    """The segments on a grid of patches: float ``[N, patches, R]``, at most one a patch.

    With ``background`` the patches of no segment are one more.
    """
    shares = [
        functional.interpolate(mask[:, None], grid, mode="area").flatten(1) for mask in segments
    ]
    n = max(map(len, shares))
    share = torch.stack([one.expand(n, -1) for one in shares], -1)
    # half of a patch is enough; what is smaller than that has its best patch
    enough = share >= share.amax(1, keepdim=True).clamp(max=0.5)
    best = functional.one_hot(share.argmax(-1), share.shape[-1])
    found = (best.bool() & enough & (share > 0)).float()
    if background:
        found = torch.cat([found, 1 - found.sum(-1, keepdim=True)], -1)
    return found
