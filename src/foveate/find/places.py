"""Heads by the places they look at: the first token, or the last few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._implements import implements
from ..attach import attach
from ..engine.measures import distance, mass, rows
from ..errors import FoveateError
from ..methods.measure import Measure
from ..tasks._text import whole
from ._tokens import batches, quiet, running

__all__ = ["local_scores", "sink_scores"]

_QUERIES = 32


@implements("attention-sink-survey", basis="abstract")
def sink_scores(
    model: nn.Module,
    tokenizer: Any,
    *,
    n: int = 16,
    seed: int = 0,
    length: int = 64,
    position: int = 0,
    epsilon: float = 0.3,
    texts: Sequence[str] | None = None,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Mean attention on the first token, over all queries that see it.

    Parameters
    ----------
    n, seed : int
        Texts made for the purpose.
    length : int
        Tokens of a text.
    position : int
        The token looked at; 0 is the first.
    epsilon : float
        From which mean a head counts as a sink in the ``rate`` that comes along.
    texts : sequence of str, optional
        Your own, each of at least ``length`` tokens; ``n`` and ``seed`` have no effect then.
    batch_size : int
    progress : callable, optional
        Called with the number of texts just done.

    Returns
    -------
    Tensor, dict
        ``[layers, heads]`` in [0, 1]; ``rate``, the share of heads and texts above ``epsilon``.

    Notes
    -----
    ``alpha_k = mean over queries i >= k of P[i, k]``, and the rate is ``Sink_k^epsilon`` of Gu et
    al., "When Attention Sink Emerges in Language Models" (2025), with their ``epsilon = 0.3`` and
    64 tokens. The mass is a value column: no row of attention is made.

    Examples
    --------
    >>> import foveate as fv
    >>> model, tokenizer = fv.load("smollm2")
    >>> found = fv.find_heads(model, tokenizer, "sink")  # HeadScores of sink_scores
    >>> found.top(5), found.settings["found"]  # the share of heads that are sinks
    """
    if not 0 <= epsilon <= 1:
        raise FoveateError(f"epsilon={epsilon!r} was given; a share from 0 to 1 was wanted.")
    if not 0 <= whole("position", position, least=0) < length:
        raise FoveateError(f"position={position} lies outside of length={length} tokens.")
    ids = running(tokenizer, n, length, seed, texts)
    first = torch.arange(length) == position
    found = []
    for part in batches(model, ids, batch_size, progress):
        measure = Measure(mass("sink position"))
        with attach(model, measure, regions={"sink position": first}) as run:
            quiet(model, part)
        read = run.results["mass:sink position"].prefill  # (L, B, H, Sq)
        found.append(read[..., position:].mean(-1).cpu())
    means = torch.cat(found, 1)  # (L, n, H)
    return means.mean(1), {"rate": round(float((means > epsilon).float().mean()), 6)}


def local_scores(
    model: nn.Module,
    tokenizer: Any,
    *,
    n: int = 16,
    seed: int = 0,
    length: int = 128,
    window: int | None = 8,
    texts: Sequence[str] | None = None,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Mean attention on the last few tokens, the query's own among them.

    Parameters
    ----------
    n, seed, length, texts, batch_size, progress
        As in :func:`sink_scores`.
    window : int or None
        How many tokens are near. None: the score is the mean distance of what is looked at, in
        tokens, with a minus (the higher, the nearer); it needs no rows.

    Returns
    -------
    Tensor
        ``[layers, heads]``, in [0, 1] with a window.

    Notes
    -----
    A definition of our own. Up to 32 queries of the second half of a text are read, evenly spread.
    """
    if window is not None and not 0 < whole("window", window) < length:
        raise FoveateError(f"window={window} is not smaller than length={length}.")
    ids = running(tokenizer, n, length, seed, texts)
    half = length // 2
    queries = torch.linspace(half, length - 1, min(length - half, _QUERIES)).round().long()
    measure = Measure(distance() if window is None else rows(queries))
    total = torch.zeros(())
    for part in batches(model, ids, batch_size, progress):
        with attach(model, measure) as run:
            quiet(model, part)
        if window is None:
            value = -run.results["distance"].prefill[..., half:].mean(-1)
        else:
            read = run.results["rows"].prefill  # (L, B, H, m, Sk)
            back = queries[:, None] - torch.arange(length)
            near = ((back >= 0) & (back < window)).to(read.device, read.dtype)
            value = (read * near).sum(-1).mean(-1)
        total = total + value.sum(1).cpu()
    return total / len(ids)
