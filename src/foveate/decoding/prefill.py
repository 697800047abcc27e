"""Read a long prompt in pieces: the same answer with less memory at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import FoveateError
from ..tasks._task import Item, prompts
from ..tasks.answering import generate, text_of

__all__ = ["ChunkedPrefill"]


@dataclass(frozen=True)
class ChunkedPrefill:
    """Greedy answers whose prompts are read ``size`` tokens at a time.

    Attention and activations then need room for ``size`` queries instead of the whole prompt. No
    attention is left out: only the rounding of sums may differ. It is what ``model.generate(…,
    prefill_chunk_size=size)`` of transformers does, here as an object that goes where methods go in
    ``fv.evaluate`` and in a policy.

    Parameters
    ----------
    size : int
        Tokens at a time, at least 1.
    batch_size : int
        Items asked at once.

    Raises
    ------
    FoveateError
        For numbers that are none, and for a model that reads its prompt in an encoder.

    Examples
    --------
    >>> import foveate as fv
    >>> model, tokenizer = fv.load("smollm2")
    >>> items = fv.tasks.Distractors(n=2, passages=3).items()
    >>> fv.decoding.ChunkedPrefill(64).generate(model, tokenizer, items, max_new_tokens=8)
    """

    size: int = 512
    batch_size: int = 8

    def __post_init__(self) -> None:
        for name in ("size", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise FoveateError(f"{name}={value!r} was given; a whole number from 1 was wanted.")

    def generate(
        self, model: Any, tokenizer: Any, items: Sequence[Item], max_new_tokens: int = 32
    ) -> list[str]:
        """Replies to items, one each."""
        if getattr(model.config, "is_encoder_decoder", False):
            raise FoveateError(
                f"{type(model).__name__} reads its prompt in an encoder, which sees all of it at "
                "once: ChunkedPrefill is for models that read and write in one stack."
            )
        said: list[str] = []
        for _, prompt in prompts(items, tokenizer, self.batch_size):
            prompt.to(model.device)
            with torch.no_grad():
                ids = generate(model, prompt, max_new_tokens, prefill_chunk_size=self.size)
            said += [text_of(prompt.tokenizer, row) for row in ids]
        return said
