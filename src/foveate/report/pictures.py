"""Pictures in a page: as PNG data, enlarged, with weights drawn over them. NumPy alone."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from typing import Any

import numpy as np

from ..errors import FoveateError
from ..tasks.shapes.checker import as_pixels

__all__ = ["data_uri", "overlay", "png", "resized"]

_DIM = 0.4  # what is left of the picture's light where nothing looks
_DENSE = 0.85  # of the heat's colour where most looks; the picture shines through the rest
_HEAT = np.array([[120, 30, 90], [215, 60, 50], [250, 140, 30], [255, 235, 140]], float)


def png(pixels: Any) -> bytes:
    """A picture as the bytes of a PNG file.

    Parameters
    ----------
    pixels : array, tensor or PIL image
        ``[H, W, 3]``, uint8 of 0 to 255 or floats of 0 to 1.

    Raises
    ------
    FoveateError
        Not a picture.
    """
    pixels = as_pixels(pixels)
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    above = np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    # filter 2 of the format: each byte less the one above; enlarged pictures become nearly nothing
    filtered = np.hstack([np.full((height, 1), 2, np.uint8), rows - above])
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),  # 8 bits, red green blue
        (b"IDAT", zlib.compress(filtered.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def data_uri(pixels: Any, *, least: int = 256, most: int = 1024) -> str:
    """A picture as the ``src`` of an image in a page that stands alone.

    Parameters
    ----------
    pixels : array, tensor or PIL image
        ``[H, W, 3]``, uint8 of 0 to 255 or floats of 0 to 1.
    least, most : int
        Of its longer side, as :func:`resized`.

    Returns
    -------
    str
        ``data:image/png;base64,…``.

    Raises
    ------
    FoveateError
        Not a picture, or sizes that are none.
    """
    small = resized(pixels, least=least, most=most)
    return "data:image/png;base64," + base64.b64encode(png(small)).decode("ascii")


def resized(pixels: Any, *, least: int = 256, most: int = 1024) -> np.ndarray:
    """A picture whose longer side has ``least`` to ``most`` pixels, as near as whole factors go.

    A smaller one is enlarged with hard edges, so that each of its pixels can be seen; of a larger
    one blocks of pixels are averaged.

    Parameters
    ----------
    pixels : array, tensor or PIL image
        ``[H, W, 3]``, uint8 of 0 to 255 or floats of 0 to 1.
    least, most : int
        Pixels; ``most`` at least twice ``least`` always holds both.

    Returns
    -------
    np.ndarray
        uint8 ``[H', W', 3]``.

    Raises
    ------
    FoveateError
        Not a picture, or sizes that are none.
    """
    pixels = as_pixels(pixels)
    for name, size in (("least", least), ("most", most)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise FoveateError(f"{name}={size!r} was given; a whole number of pixels was wanted.")
    side = max(pixels.shape[:2])
    if side > most:
        factor = math.ceil(side / most)
        return _averaged(pixels, factor)
    factor = min(math.ceil(least / side), max(1, most // side))
    return pixels.repeat(factor, 0).repeat(factor, 1)


def overlay(pixels: Any, weights: Any, *, top: float | None = None) -> np.ndarray:
    """Draw weights of a grid of patches over a picture: heat where they are high, dusk elsewhere.

    Parameters
    ----------
    pixels : array, tensor or PIL image
        ``[H, W, 3]``, uint8 of 0 to 255 or floats of 0 to 1; enlarge it first
        (:func:`resized`), so that the patches' edges fall between pixels.
    weights : array or tensor
        ``[rows, columns]``, at least 0; patch by patch from the upper left, as the picture.
    top : float, optional
        The weight that is drawn hottest, for one scale over several pictures; what is above it is
        drawn as it. Default: the highest.

    Returns
    -------
    np.ndarray
        uint8 ``[H, W, 3]``.

    Raises
    ------
    FoveateError
        Not a picture, or weights that are no such grid.
    """
    pixels = as_pixels(pixels)
    heat = _grid(weights, pixels.shape[:2])
    top = float(heat.max()) if top is None else float(top)
    if not (math.isfinite(top) and top >= 0):
        raise FoveateError(f"overlay(top={top!r}): a weight of at least 0 was wanted.")
    share = (heat / top).clip(0, 1) if top else heat * 0
    height, width = pixels.shape[:2]
    rows, columns = share.shape
    each = share[np.arange(height)[:, None] * rows // height, np.arange(width) * columns // width]
    stops = np.linspace(0, 1, len(_HEAT))
    colour = np.stack([np.interp(each, stops, _HEAT[:, i]) for i in range(3)], -1)
    dense = _DENSE * each[..., None]
    return np.round((1 - dense) * _DIM * pixels + dense * colour).astype(np.uint8)


def _averaged(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Means of blocks of ``factor`` × ``factor`` pixels; the last ones repeat the edge."""
    height, width = pixels.shape[:2]
    whole = np.pad(pixels, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge")
    blocks = whole.reshape(len(whole) // factor, factor, -1, factor, 3)
    return np.round(blocks.mean((1, 3))).astype(np.uint8)


def _grid(weights: Any, size: tuple[int, ...]) -> np.ndarray:
    """The weights, checked: float ``[rows, columns]``."""
    if hasattr(weights, "detach"):
        weights = weights.detach().float().cpu().numpy()
    heat = np.asarray(weights)
    fits = heat.ndim == 2 and 0 not in heat.shape and heat.dtype.kind in "fiub"
    if not fits or heat.shape[0] > size[0] or heat.shape[1] > size[1]:
        raise FoveateError(
            f"Weights of shape {list(heat.shape)} and {heat.dtype} cannot be drawn over a picture "
            f"of {list(size)} pixels; numbers [rows, columns] were wanted, at most one a pixel."
        )
    heat = heat.astype(float)
    if not np.isfinite(heat).all() or heat.min() < 0:
        raise FoveateError(
            "Weights below 0 or not finite cannot be drawn over a picture; give shares of "
            "attention, say, with what was not measured set to 0."
        )
    return heat
