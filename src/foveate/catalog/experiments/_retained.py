"""What of a model's attention a choice of keys keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...attach import attach
from ...methods.heads import Capture
from ...patterns.routed import Routed
from ...prompt import Prompt

__all__ = ["attended", "captured", "keys_seen", "loss", "seen_by", "share"]


def captured(model: Any, prompt: Prompt, layers: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Queries ``[1,Hq,S,D]`` and keys ``[1,Hkv,S,D]`` of a prefill, layer by layer."""
    q, k = (Capture(part, layers=list(layers)) for part in "qk")
    with torch.no_grad(), attach(model, q, k, prompt=prompt):
        model(**prompt.inputs, logits_to_keep=1)
    for layer in layers:
        yield q[layer], k[layer]


def attended(q: Tensor, k: Tensor, start: int) -> Tensor:
    """Causal attention of the queries from ``start``: ``[1, Hq, S - start, S]``."""
    S, scale = q.shape[2], q.shape[-1] ** -0.5
    scores = q[:, :, start:] @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT * scale
    later = torch.arange(S) > torch.arange(start, S)[:, None]
    return scores.masked_fill(later, -float("inf")).softmax(-1)


def seen_by(pattern: Routed, q: Tensor, k: Tensor, start: int) -> Tensor:
    """What a pattern shows the queries from ``start``: bool ``[1, Hq|1, S - start, S]``."""
    chosen: Any = pattern.route(q, k, causal=True, q_offset=0, scale=q.shape[-1] ** -0.5)
    return chosen.matrix()[:, :, start:]


def share(p: Tensor, seen: Tensor) -> float:
    """The share of attention on what is seen, mean over heads and queries."""
    return float((p * seen).sum(-1).mean())


def keys_seen(seen: Tensor) -> float:
    """Keys a query sees, on average."""
    return float(seen.sum(-1).float().mean())


@torch.no_grad()
def loss(model: Any, prompt: Prompt, start: int, *methods: Any) -> float:
    """Mean negative log-likelihood of the tokens after ``start``, in nats."""
    ids = prompt.inputs["input_ids"]
    with attach(model, *methods, prompt=prompt):
        logits = model(**prompt.inputs, logits_to_keep=ids.shape[1] - start).logits[0, :-1]
    return float(torch.nn.functional.cross_entropy(logits.float(), ids[0, start + 1 :]))
