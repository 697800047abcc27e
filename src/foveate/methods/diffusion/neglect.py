"""The loss of Attend-and-Excite: how little the most neglected subject is attended to."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import FoveateError

__all__ = ["neglect"]

SHARPNESS = 100.0  # what attention is multiplied by before its softmax over the words
SIGMA = 0.5  # of the Gaussian over 3 × 3 patches


def neglect(maps: Tensor, subjects: Tensor) -> Tensor:
    """How little the subject that is attended to least gets where it gets most.

    The first and the last token are left out, the others' attention times 100 goes through a
    softmax over the words, each subject's map through a Gaussian over 3 × 3 patches. The loss is
    one minus the highest value of the subject with the lowest: 0 where every subject has a patch
    that looks at nothing else.

    Parameters
    ----------
    maps : Tensor
        ``[B, rows, columns, T]``: what each patch puts on the tokens of the text.
    subjects : Tensor
        bool ``[B, T]``.

    Returns
    -------
    Tensor
        ``[B]``, 0 to 1.

    Raises
    ------
    FoveateError
        Shapes that do not agree; fewer than 2 × 2 patches; a subject that is the first or the last
        token; a picture without a subject.
    """
    if maps.dim() != 4 or subjects.shape != (maps.shape[0], maps.shape[-1]):
        raise FoveateError(
            f"neglect() takes maps [B, rows, columns, T] and subjects [B, T]; {list(maps.shape)} "
            f"and {list(subjects.shape)} were given."
        )
    if min(maps.shape[1:3]) < 2:
        raise FoveateError(f"neglect() wants maps of 2 × 2 patches or more: {list(maps.shape)}.")
    if bool(subjects[:, [0, -1]].any()):
        raise FoveateError(
            "A subject is the first or the last token of the text, which begins and ends it and is "
            "left out: mark words."
        )
    if not bool(subjects.any(1).all()):
        raise FoveateError("A picture of the batch has no subject: mark one in every prompt.")
    words = (SHARPNESS * maps[..., 1:-1]).softmax(-1).movedim(-1, 1)
    side = torch.tensor([-1.0, 0.0, 1.0], dtype=maps.dtype, device=maps.device)
    bell = torch.exp(-((side / (2 * SIGMA)) ** 2))
    kernel = torch.outer(bell, bell) / bell.sum() ** 2
    flat = functional.pad(words.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect")
    smooth = functional.conv2d(flat, kernel[None, None]).unflatten(0, words.shape[:2])
    best = smooth.flatten(2).amax(-1)  # [B, T - 2]
    least = best.masked_fill(~subjects[:, 1:-1], math.inf).amin(-1)
    return (1 - least).clamp_min(0)
