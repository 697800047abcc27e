"""Path patching: what a head does along direct paths alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..._implements import implements
from ...errors import FoveateError
from .._model import ModelId
from ._runs import Head, Port, Runs
from .pairs import Metric, Pairs
from .scores import PatchScores, named

__all__ = ["path_patching", "path_scores"]

Progress = Callable[[str], None]


@implements("circuit-reuse", basis="paper")
def path_patching(
    model: nn.Module,
    pairs: Pairs,
    *,
    receivers: str | Sequence[Port] = "logits",
    senders: Sequence[Head] | None = None,
    positions: Any = "last",
    metric: Metric = "logit difference",
    mlps: str = "recompute",
    tokens: int = 512,
    progress: Progress | None = None,
) -> PatchScores:
    """What a head's corrupted output does along the direct paths to the receivers alone.

    Three runs a sender: the clean one with the sender's corrupted output while every other head
    holds its clean output, so that nothing passes through them; there the receivers' inputs are
    taken down; then the clean run with these inputs, everything else live, and the metric of it.
    For the logits as receiver the second run is the last.

    Parameters
    ----------
    model, pairs, metric, tokens, progress
        As in :func:`~foveate.find.circuits.activation_patching`; the patched run is the clean one.
    receivers : "logits" or sequence of (layer, head, "q" | "k" | "v")
        Patched together. Under grouped queries the keys and values of a head are those of its
        group: all query heads of the group receive them.
    senders : sequence of (layer, head), optional
        Default: all heads. Heads with no path to a receiver (in its layer or behind it) score NaN.
    positions : optional
        Where the senders' outputs are patched and the receivers' inputs replaced; see
        :meth:`Pairs.where`. With every head frozen nothing moves between positions, so the two are
        the same. Default: the last token, as for the logits and for queries that read there; keys
        and values want the token they are read from, or None for all.
    mlps : {"recompute", "freeze"}
        ``"recompute"``: MLPs between sender and receiver act on what the sender changed: paths
        through MLPs are direct. The default, for both official codes have it (Wang et al.: MLPs are
        taken as part of the direct path). ``"freeze"``: their outputs too stay clean, so that the
        residual stream alone connects the two.

    Returns
    -------
    PatchScores

    Raises
    ------
    FoveateError
        For heads that are not there, receivers without a sender, unknown choices.

    Notes
    -----
    Wang et al. (2022), arXiv:2211.00593, appendix B; Goldowsky-Dill et al. (2023); the codes
    ``redwoodresearch/Easy-Transformer`` and ``jmerullo/circuit_reuse``, which freeze head outputs
    (equivalently queries, keys and values) and read the receivers before they are frozen. Cost: one
    token a sender, pair and position in the frozen run, and the tokens from the first position on
    in the live one, where the official codes run whole prompts twice.

    Examples
    --------
    >>> import foveate as fv
    >>> model, tokenizer = fv.load("smollm2")
    >>> pairs = fv.Pairs.of_items(tokenizer, fv.tasks.IOI(n=2).items(tokenizer))
    >>> movers = fv.path_patching(model, pairs).top(4)  # straight to the logits
    >>> fv.path_patching(model, pairs, receivers=[(*head, "q") for head in movers]).top(4)
    """
    if mlps not in ("recompute", "freeze"):
        raise FoveateError(f'mlps={mlps!r} was given; it is "recompute" or "freeze".')
    runs = Runs(model, pairs, metric, mlp=mlps == "freeze", tokens=tokens)
    return path_scores(runs, receivers, senders, positions, mlps, progress)


def path_scores(
    runs: Runs,
    receivers: str | Sequence[Port] = "logits",
    senders: Sequence[Head] | None = None,
    positions: Any = "last",
    mlps: str = "recompute",
    progress: Progress | None = None,
) -> PatchScores:
    """:func:`path_patching` on runs that are there already."""
    pairs = runs.pairs
    ports = [] if receivers == "logits" else _ports(runs, receivers)
    depth = max((port[0] for port in ports), default=runs.layers)
    everyone = [(layer, head) for layer in range(runs.layers) for head in range(runs.heads)]
    chosen = everyone if senders is None else [_head(runs, sender) for sender in senders]
    able = [sender for sender in chosen if sender[0] < depth]
    if not able:
        raise FoveateError(
            f"No sender stands before the receivers: the last of these is in layer {depth}."
        )
    where = pairs.where(positions)
    if not ports and not bool(where[:, -1].all()):
        raise FoveateError(
            f"positions={positions!r} leaves out the last token, the only one that reaches the "
            "logits directly."
        )
    if progress is not None:
        progress(f"path patching: {len(able)} senders to {len(ports) or 'the'} "
                 f"{'receivers' if ports else 'logits'}")  # fmt: skip
    values, taken, columns = runs.frozen([[sender] for sender in able], where, ports)
    if ports:
        values = runs.deliver(taken, columns, len(able))
    patched = torch.full((runs.layers, runs.heads, len(pairs)), torch.nan, dtype=values.dtype)
    for sender, value in zip(able, values.cpu(), strict=True):
        patched[sender] = value
    settings = {
        "metric": named(runs.metric),
        "receivers": "logits" if not ports else [list(port) for port in ports],
        "positions": named(positions),
        "mlps": mlps,
        "pairs": len(pairs),
    }
    return PatchScores(
        "path patching", "heads", patched, runs.clean.value.cpu(), runs.corrupted.value.cpu(),
        ModelId.of(runs.model), settings,
    )  # fmt: skip


def _head(runs: Runs, head: Any) -> Head:
    """A pair (layer, head) that is there."""
    pair = tuple(head) if isinstance(head, Sequence) and not isinstance(head, str) else (head,)
    if len(pair) == 2 and all(isinstance(n, int) and not isinstance(n, bool) for n in pair):
        layer, number = pair
        if 0 <= layer < runs.layers and 0 <= number < runs.heads:
            return layer, number
    raise FoveateError(
        f"{head!r} is no head of this model: (layer, head) with {runs.layers} layers of "
        f"{runs.heads} heads was wanted."
    )


def _ports(runs: Runs, receivers: Any) -> list[Port]:
    if isinstance(receivers, str) or not receivers:
        raise FoveateError(
            f'receivers={receivers!r} was given; "logits" or a list of (layer, head, "q" | "k" | '
            '"v") was wanted.'
        )
    ports: dict[Port, None] = {}
    for port in receivers:
        if len(port) != 3 or port[2] not in ("q", "k", "v"):
            raise FoveateError(f'{port!r} is no receiver: (layer, head, "q" | "k" | "v").')
        ports[*_head(runs, port[:2]), str(port[2])] = None
    return list(ports)
