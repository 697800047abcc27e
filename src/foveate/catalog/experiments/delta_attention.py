"""Delta Attention: a needle read under a window, with and without the correction.

Each text, the question at its end, is read in one prefill under a window of 64 tokens and 4 sinks;
the answer is then given densely behind the cache, as the authors do: "The secret number of … is",
whose number is judged. Beside the correction stands its control: the
same rows in full at the end of the text, without the difference repeated before it. How near the
hidden states come to the dense ones is read at the tokens before the full end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...attach import attach
from ...find.contextual import answered
from ...load import load
from ...methods.sparse import DeltaCorrection
from ...patterns import SlidingWindow
from ...tasks.needle import Needle
from ._trial import Trial

ITEMS, LENGTH, LAST = 10, 768, 128
WINDOW = SlidingWindow(64, sinks=4)
WAYS: dict[str, list[Any]] = {
    "dense": [],
    "window": [WINDOW],
    "window, full end": [WINDOW],
    **{f"delta, every {n}": [WINDOW, DeltaCorrection(n, last=LAST)] for n in (64, 16)},
}


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    model, tokenizer = load("smollm2")
    items = Needle(n=ITEMS, length=LENGTH, seed=0).items(tokenizer)
    logp: dict[str, list[float]] = {name: [] for name in WAYS}
    near: dict[str, list[float]] = {name: [] for name in WAYS}
    answers = [f"{item.info['lead']} {item.answer}" for item in items]
    batches = answered(tokenizer, items, answers=answers, batch_size=1)
    for done, ((item,), prompt, inputs, said) in enumerate(batches):
        ids = inputs["input_ids"]
        cut = int(said[0].int().argmax())
        digits = len(tokenizer(item.answer, add_special_tokens=False)["input_ids"])
        dense: Tensor | None = None
        for name, methods in WAYS.items():
            progress(f"text {done + 1} of {len(items)}: {name}")
            hidden, found = _read(model, prompt, ids, cut, digits, name, methods)
            logp[name].append(found)
            early = hidden[:, : cut - 2 * LAST]
            dense = early if dense is None else dense
            near[name].append(float(torch.cosine_similarity(early, dense, dim=-1).mean()))
    window, delta = logp["window"], logp["delta, every 64"]
    return Trial(
        baseline=("log-probability of the number, window of 64 and 4 sinks", window),
        method=("log-probability of the number, with the correction every 64 rows", delta),
        better="higher",
        seeds=(0,),
        details={
            "items": ITEMS,
            "tokens": LENGTH,
            "log-probability of the number": {n: _mean(v) for n, v in logp.items()},
            "cosine of hidden states with the dense ones, before the full end": {
                n: _mean(v) for n, v in near.items()
            },
        },
    )


@torch.no_grad()
def _read(
    model: Any, prompt: Any, ids: Tensor, cut: int, digits: int, name: str, methods: list[Any]
) -> tuple[Tensor, float]:
    """Hidden states ``[layers, tokens, D]`` of the text, and the log-probability of the number.

    "Full end" reads the end of the text in a second, dense chunk: rows in full without their
    difference to the window's.
    """
    first = cut - LAST if name == "window, full end" else cut
    with attach(model, *methods, prompt=prompt):
        read = model(input_ids=ids[:, :first], use_cache=True, output_hidden_states=True)
    rest = model(input_ids=ids[:, first:], past_key_values=read.past_key_values)
    said = rest.logits[0, -digits - 1 : -1].float().log_softmax(-1)
    logp = said.gather(-1, ids[0, -digits:, None]).sum()
    return torch.stack(read.hidden_states[1:])[:, 0].float(), float(logp)


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4)
