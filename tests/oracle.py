"""What attach must equal: the model's own eager attention with terms added to its masks.

Independent of foveate: transformers' eager masks and eager attention functions are patched to add
``log g`` on the keys of a region, wherever the mask of a stack is made.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor


def stack_of(q_length: int, kv_length: int, encoder: int | None) -> str:
    """Which stack a mask is for, by its lengths; ``encoder`` is the encoder's, if there is one."""
    if encoder is None:
        return "only"
    if kv_length == encoder:
        return "encoder" if q_length == encoder else "cross"
    return "decoder"


@contextmanager
def gained(
    monkeypatch: pytest.MonkeyPatch,
    region: Tensor,
    gain: float,
    stack: str = "only",
    encoder: int | None = None,
    generated: float = 1.0,
) -> Iterator[None]:
    """Add ``log gain`` on ``region`` (bool ``[B, S]``) to every eager mask of a stack.

    ``generated`` is the gain of the keys after the region's end.
    """
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    def mask(**arguments: Any) -> Tensor:
        made = eager_mask(**arguments | {"allow_is_bidirectional_skip": False})
        q, kv = made.shape[-2:]
        if stack not in ("only", stack_of(q, kv, encoder)):
            return made
        start = int(arguments.get("kv_offset", 0))
        rows = region.repeat_interleave(made.shape[0] // region.shape[0], 0)
        term = torch.full((made.shape[0], start + kv), math.log(generated), dtype=made.dtype)
        known = min(region.shape[1], start + kv)
        term[:, :known] = rows[:, :known] * math.log(gain)
        return made + term[:, None, None, start:]

    with monkeypatch.context() as patch:
        patch.setitem(AttentionMaskInterface._global_mapping, "eager", mask)
        yield


@contextmanager
def gained_unmasked(
    monkeypatch: pytest.MonkeyPatch, module: Any, region: Tensor, gain: float, queries: int
) -> Iterator[None]:
    """The same for models that make no mask: their file's eager function gets one."""
    file = sys.modules[type(module).__module__]
    plain = file.eager_attention_forward

    def forward(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
    ) -> Any:
        if (query.shape[2], key.shape[2]) == (queries, region.shape[1]):
            mask = (region * math.log(gain)).to(query.dtype)[:, None, None]
        return plain(module, query, key, value, mask, **options)

    with monkeypatch.context() as patch:
        patch.setattr(file, "eager_attention_forward", forward)
        yield
