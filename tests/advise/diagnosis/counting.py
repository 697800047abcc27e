"""A model whose attention is known: uniform. It says the word that it has seen most often.

Queries are 0, so every token attends evenly to all that it sees; values are one-hot words, so a
token's output counts words. A gain on some words counts them that much more often.
"""

from __future__ import annotations

from typing import Any

import torch
from tests.words import text

from foveate.tasks import Item

QUESTION = (60, 61, 62)
"""Words of the question; the model never says them."""


def model() -> Any:
    """One layer, two heads that each count all words; vocabulary of :mod:`tests.words`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=4, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    made = LlamaForCausalLM(config).eval()
    eye = torch.eye(64)
    with torch.no_grad():
        made.model.embed_tokens.weight.copy_(eye)
        layer = made.model.layers[0]
        layer.self_attn.q_proj.weight.zero_()
        layer.self_attn.v_proj.weight.copy_(eye)
        layer.self_attn.o_proj.weight.copy_(eye)
        layer.mlp.down_proj.weight.zero_()
        made.lm_head.weight.copy_(eye)
        made.lm_head.weight[[0, 1, 2, *QUESTION]] = 0
    return made


def item(name: str, *passages: tuple[int, ...], evidence: int, answer: int, **info: Any) -> Item:
    """Passages of words, one line each, and the question behind them."""
    lines = [text(*words) for words in passages]
    content, marks, at = "\n".join([*lines, text(*QUESTION)]), {}, 0
    for number, line in enumerate(lines):
        marks[f"passage {number}"] = (at, at + len(line))
        at += len(line) + 1
    marks["context"] = (0, at - 1)
    marks["question"] = (at, len(content))
    marks["evidence"] = marks[f"passage {evidence}"]
    return Item(name, content, text(answer), marks, raw=True, info=info)


def items(failing: int = 6, passing: int = 6) -> tuple[list[Item], list[bool]]:
    """Items that the model gets wrong for a reason that raising the evidence mends, and right ones.

    A failing one states its answer twice and another word three times, in two passages; raised five
    times, the evidence counts 10. A passing one states its answer three times.
    """
    made = []
    for n in range(failing):
        a, b = 10 + n, 40 + n
        made.append(item(f"bad {n}", (3, b, b), (a, a), (b, 4), evidence=1, answer=a))
    for n in range(passing):
        a, b = 20 + n, 50 + n
        made.append(item(f"good {n}", (a, a, a), (3, b), (4, 5), evidence=0, answer=a))
    return made, [False] * failing + [True] * passing
