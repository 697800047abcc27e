"""Did it matter? The answer when a region cannot be seen, beside where the model looked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..attach import attach
from ..errors import FoveateError
from ..methods.emphasis import Emphasize
from ..prompt import Prompt
from ..tasks.answering import generate, text_of
from .data import Ablation

NOTHING = "(nothing)"
_HIDDEN = 1e-9  # a gain must be greater than 0; this leaves nothing that a float32 output can show


def ablate(
    model: Any,
    prompt: Prompt,
    regions: Sequence[str],
    *,
    max_new_tokens: int = 24,
    progress: Callable[[int], None] | None = None,
) -> list[Ablation]:
    """Hide each region from all attention in turn, and see what becomes of the answer.

    Parameters
    ----------
    model
        A causal language model.
    prompt : Prompt
        Of one item.
    regions : sequence of str
        Regions of the prompt.
    max_new_tokens : int
    progress : callable, optional
        Called with 1 after each region.

    Returns
    -------
    list of Ablation
        The first hides nothing: the original greedy answer. ``change`` is the change of that
        answer's log-probability (all its tokens, given the prompt) in nats.

    Raises
    ------
    FoveateError
        For a batch, and for regions that are not there.
    """
    if prompt.batch_size != 1:
        raise FoveateError(
            f"ablate takes a prompt of one item; this one has {prompt.batch_size}. Ask one by one."
        )
    for name in regions:
        prompt.positions(name)  # refuses what is not there
    with torch.no_grad():
        own = generate(model, prompt, max_new_tokens)
        likely = _log_probability(model, prompt, own)
        found = [Ablation(NOTHING, text_of(prompt.tokenizer, own[0]), 0.0)]
        for name in regions:
            with attach(model, Emphasize(name, _HIDDEN), prompt=prompt):
                change = _log_probability(model, prompt, own) - likely
                answer = text_of(prompt.tokenizer, generate(model, prompt, max_new_tokens)[0])
            found.append(Ablation(name, answer, change))
            if progress is not None:
                progress(1)
    return found


def _log_probability(model: Any, prompt: Prompt, reply: Tensor) -> float:
    """Log-probability of ``reply [1, n]`` after the prompt, in nats."""
    ids = torch.cat([prompt.inputs["input_ids"], reply.to(prompt.inputs["input_ids"])], dim=1)
    # one token at a time would be what generation does; in one go it is the same, and quicker
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    chosen = logits[:, -1 - reply.shape[1] : -1].float().log_softmax(-1)
    return chosen.gather(-1, reply[..., None]).sum().item()
