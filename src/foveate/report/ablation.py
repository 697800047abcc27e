"""Did it matter? The answer when a region cannot be seen, beside where the model looked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..attach import attach
from ..errors import FoveateError
from ..methods.emphasis import Emphasize
from ..pictures import Picture
from ..prompt import Prompt, continued
from ..tasks.answering import generate, text_of
from .data import Ablation

NOTHING = "(nothing)"
_HIDDEN = 1e-9  # a gain must be greater than 0; this leaves nothing that a float32 output can show


def ablate(
    model: Any,
    prompt: Prompt | Picture,
    regions: Sequence[str],
    *,
    max_new_tokens: int = 24,
    progress: Callable[[int], None] | None = None,
) -> list[Ablation]:
    """Hide each region from all attention in turn, and see what becomes of the answer.

    Parameters
    ----------
    model
        A causal language model; of a :class:`foveate.Picture`, a classifier.
    prompt : Prompt or Picture
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
        answer's log-probability (all its tokens, given the prompt) in nats. A classifier's answer
        is its likeliest class.

    Raises
    ------
    FoveateError
        For a batch, for regions that are not there, and for a tower that names no class.
    """
    if prompt.batch_size != 1:
        raise FoveateError(
            f"ablate takes a prompt of one item; this one has {prompt.batch_size}. Ask one by one."
        )
    for name in regions:
        prompt.positions(name)  # refuses what is not there
    if isinstance(prompt, Picture):
        return _classes(model, prompt, regions, progress)
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
    # one token at a time would be what generation does; in one go it is the same, and quicker
    logits = model(**continued(prompt.inputs, reply), use_cache=False).logits
    chosen = logits[:, -1 - reply.shape[1] : -1].float().log_softmax(-1)
    return chosen.gather(-1, reply[..., None]).sum().item()


def _classes(
    model: Any, picture: Any, regions: Sequence[str], progress: Callable[[int], None] | None
) -> list[Ablation]:
    """The class of a picture, and what becomes of it."""

    def likely() -> Tensor:
        logits = getattr(model(**picture.inputs), "logits", None)
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            raise FoveateError(
                f"{type(model).__name__} names no class of a picture, so there is no answer to "
                "compare; ablate takes a classifier, or a model that answers in words."
            )
        return logits[0].float().log_softmax(-1)

    names = getattr(model.config, "id2label", {})
    with torch.no_grad():
        own = likely()
        best = int(own.argmax())
        found = [Ablation(NOTHING, str(names.get(best, best)), 0.0)]
        for name in regions:
            with attach(model, Emphasize(name, _HIDDEN), prompt=picture):
                now = likely()
            answer = int(now.argmax())
            change = float(now[best] - own[best])
            found.append(Ablation(name, str(names.get(answer, answer)), change))
            if progress is not None:
                progress(1)
    return found
