"""How well a prompt that was read under methods is answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...attach import attach
from ...errors import FoveateError
from ...tasks._task import Item, prompts
from .._decode import step

__all__ = ["Judged", "judge"]


@dataclass(frozen=True)
class Judged:
    """One item's answer.

    Attributes
    ----------
    right : bool
        Whether greedy decoding says the answer, token by token.
    logp : float
        Log-probability of the answer, nats.
    seconds : float
        Of the prefill.
    """

    right: bool
    logp: float
    seconds: float


def judge(
    model: nn.Module,
    tokenizer: Any,
    items: Sequence[Item],
    methods: Sequence[Any] = (),
    *,
    phase: str | None = "prefill",
    progress: Callable[[int], None] | None = None,
) -> list[Judged]:
    """Read each prompt under ``attach(model, *methods)``, then put the answer into its mouth.

    Parameters
    ----------
    items : sequence of Item
        Where ``item.info`` has a ``"lead"`` (how an answer begins, up to what matters), it stands
        before the answer and does not count.
    methods : sequence
        None attached: the model's own attention.
    phase : {"prefill", None}
        ``"prefill"``: the answer is read by the model as it is, behind the prompt's cache, as
        sparse prefill is used. None: under the methods too.
    progress : callable, optional
        Called with 1 after each item.

    Returns
    -------
    list of Judged
    """
    found = []
    for item in items:
        ((_, prompt),) = prompts([item], tokenizer, 1)
        prompt.to(next(model.parameters()).device)
        lead, said = answer_ids(tokenizer, item)
        ids, mask = prompt.inputs["input_ids"], prompt.inputs["attention_mask"]
        fed = torch.tensor([lead + said[:-1]], dtype=ids.dtype, device=ids.device)
        longer = torch.cat([mask, mask.new_ones(1, fed.shape[1])], 1)
        attached = attach(model, *methods, prompt=prompt) if methods else nullcontext()
        with torch.no_grad():
            with attached:
                start = time.perf_counter()
                read = step(model, ids, mask, None, keep=1)
                seconds = time.perf_counter() - start
                if phase is None and fed.shape[1]:
                    logits = _behind(model, fed, longer, read)
            if phase is not None and fed.shape[1]:
                logits = _behind(model, fed, longer, read)
            if not fed.shape[1]:
                logits = read.logits[:, -1:]
        logp = logits[0, -len(said) :].float().log_softmax(-1)
        wanted = torch.tensor(said, device=logp.device)
        right = bool((logp.argmax(-1) == wanted).all())
        score = float(logp.gather(-1, wanted[:, None]).sum())
        found.append(Judged(right, score, seconds))
        if progress is not None:
            progress(1)
    return found


def answer_ids(tokenizer: Any, item: Item) -> tuple[list[int], list[int]]:
    """The tokens of an item's lead and of its answer."""
    lead = str(item.info.get("lead", ""))
    plain = item.raw or not getattr(tokenizer, "chat_template", None)
    begins = f" {lead}" if lead and plain else lead
    said = f" {item.answer}" if lead or plain else item.answer
    ids = [
        list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
        for text in (begins, said)
    ]
    if not ids[1]:
        raise FoveateError(f"Item {item.id!r} has no answer that could be judged.")
    return ids[0], ids[1]


def _behind(model: nn.Module, fed: Tensor, mask: Tensor, read: Any) -> Tensor:
    """Logits of what follows the prompt: its last token's, then those of ``fed``."""
    more = step(model, fed, mask, read.past_key_values).logits
    return torch.cat([read.logits[:, -1:], more], 1)
