"""Greedy answers to prompts, and the facts task with attention turned to one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..attach import attach
from ..errors import FoveateError
from ..methods.emphasis import Emphasize
from ..prompt import Prompt
from .facts import Case

__all__ = ["Outcome", "generate", "replies", "steer_cases", "text_of"]


@dataclass(frozen=True)
class Outcome:
    """The answers to one case: unsteered, steered to the evidence, steered to the decoy."""

    case: Case
    plain: str
    evidence: str
    decoy: str


def generate(model: Any, prompt: Prompt, max_new_tokens: int = 24, **options: Any) -> Tensor:
    """Greedy continuation of a prompt: token ids without the prompt's, ``[B, n]``.

    ``options`` go to ``model.generate``.
    """
    settings = getattr(model, "generation_config", None)
    # sampling defaults of a checkpoint mean nothing to greedy decoding, and only make it warn
    unset = {k: None for k in ("temperature", "top_p", "top_k") if getattr(settings, k, None)}
    pad = getattr(settings, "pad_token_id", None)
    if pad is None:
        ends = getattr(settings, "eos_token_id", None)
        pad = ends[0] if isinstance(ends, list) else ends
    ids = model.generate(
        **prompt.inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=pad,
        **{**unset, **options},
    )
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return ids  # the decoder's own sequence holds no prompt
    return ids[:, prompt.length :]


def text_of(tokenizer: Any, ids: Tensor) -> str:
    """One row of ids as text, without special tokens."""
    return tokenizer.decode(ids, skip_special_tokens=True).strip()


def replies(model: Any, prompt: Prompt, max_new_tokens: int = 24) -> list[str]:
    """Greedy answers, one for each item of the batch."""
    return [text_of(prompt.tokenizer, row) for row in generate(model, prompt, max_new_tokens)]


def steer_cases(
    model: nn.Module,
    tokenizer: Any,
    cases: Sequence[Case],
    *,
    gain: float = 5.0,
    layers: Any = None,
    heads: Any = None,
    max_new_tokens: int = 20,
    batch_size: int = 12,
    progress: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """Ask every case three times: as it is, with a gain on the evidence, with a gain on the decoy.

    Parameters
    ----------
    model, tokenizer
        A causal language model with a chat template.
    cases : sequence of Case
    gain : float
        Greater than 0; multiplies the attention on the sentence.
    layers, heads
        Where; default everywhere.
    max_new_tokens : int
    batch_size : int
        Cases asked at once.
    progress : callable, optional
        Called with the number of answers just given; in all it will be ``3 * len(cases)``.

    Returns
    -------
    list of Outcome
        In the order of the cases.
    """
    if not cases:
        raise FoveateError(
            "steer_cases was given no cases; foveate.tasks.facts.cases() makes some."
        )
    outcomes = []
    for batch in _batches(cases, batch_size):
        chats = [[{"role": "user", "content": case.text}] for case in batch]
        prompt = Prompt(tokenizer, chats, padding_side="left")
        for i, case in enumerate(batch):
            prompt.mark("evidence", case.evidence, item=i)
            prompt.mark("decoy", case.decoy, item=i)
        answers = []
        for region in (None, "evidence", "decoy"):
            methods = [Emphasize(region, gain, layers=layers, heads=heads)] if region else []
            with torch.no_grad(), attach(model, *methods, prompt=prompt):
                answers.append(replies(model, prompt, max_new_tokens))
            if progress is not None:
                progress(len(batch))
        outcomes += [Outcome(*row) for row in zip(batch, *answers, strict=True)]
    return outcomes


def _batches(cases: Sequence[Case], size: int) -> Iterator[Sequence[Case]]:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise FoveateError(f"batch_size takes a whole number of at least 1; {size!r} was given.")
    for start in range(0, len(cases), size):
        yield cases[start : start + size]
