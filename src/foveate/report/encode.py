"""Numbers made small enough to send along in a page."""

from __future__ import annotations

import base64
import math
import sys
from typing import Any

import torch
from torch import Tensor

_FLOOR = 1e-6  # of a row's largest value: what is smaller is shown as 0


def number(value: float, digits: int = 4) -> float | None:
    """Round to significant digits; None (JSON's null) for what is not finite."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def numbers(values: Tensor, digits: int = 4) -> Any:
    """:func:`number` of each element, as nested lists."""
    if values.ndim == 0:
        return number(values.item(), digits)
    return [numbers(v, digits) for v in values]


def codes(values: Tensor, bits: int) -> dict[str, Any]:
    """Quantise ``values [..., n]`` of at least 0 on a logarithmic scale, row by row.

    Attention spans many orders of magnitude, so steps are relative: with 8 bits a value is off by
    at most 2.8 %, with 16 bits by 0.02 %. What is below a millionth of its row's largest becomes 0.

    Returns
    -------
    dict
        ``bits``, ``shape``, ``high`` (each row's largest value), ``floor``, and ``data``: base64 of
        unsigned little-endian integers ``c``, meaning 0 for ``c = 0``, else
        ``high * floor ** (1 - (c - 1) / (2 ** bits - 2))``.
    """
    values = values.detach().double().cpu().nan_to_num(0.0, 0.0, 0.0).clamp(min=0.0)
    high = values.amax(-1, keepdim=True)
    steps = 2**bits - 2
    relative = values / high.clamp(min=1e-300)
    place = 1.0 - relative.clamp(min=_FLOOR).log() / math.log(_FLOOR)
    code = torch.where(relative >= _FLOOR, (place * steps).round() + 1, 0.0)
    array = code.numpy().astype("<u2" if bits == 16 else "u1")
    return {
        "bits": bits,
        "shape": list(values.shape),
        "floor": _FLOOR,
        "high": [number(h) for h in high.flatten().tolist()],
        "data": base64.b64encode(array.tobytes()).decode("ascii"),
    }


def decode(coded: dict[str, Any]) -> Tensor:
    """The inverse of :func:`codes`, as the page computes it: float64 of ``coded["shape"]``."""
    dtype = torch.uint16 if coded["bits"] == 16 else torch.uint8
    raw = bytearray(base64.b64decode(coded["data"]))
    if coded["bits"] == 16 and sys.byteorder == "big":
        raw[0::2], raw[1::2] = raw[1::2], raw[0::2]
    code = torch.frombuffer(raw, dtype=dtype).to(torch.float64).reshape(coded["shape"])
    high = torch.tensor(coded["high"], dtype=torch.float64).reshape(*coded["shape"][:-1], 1)
    steps = 2 ** coded["bits"] - 2
    value = high * coded["floor"] ** (1.0 - (code - 1) / steps)
    return torch.where(code > 0, value, 0.0)
