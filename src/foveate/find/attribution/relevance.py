"""Rollout and generic attention relevance: what reaches one query through all the layers.

With ``E_l`` what passes in layer ``l`` (the attention, or the attention times its gradient) both
follow a matrix ``R = (I + E_L) … (I + E_1)`` that nobody needs: its row ``t`` is a vector carried
from the top layer down, one product a layer, and memory stays linear in length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...engine.relevance import Edges

__all__ = ["Pair", "across", "down", "rolled_across", "rolled_down"]


def down(layers: Sequence[Edges], start: Tensor) -> Tensor:
    """Row ``start`` of ``R − I`` for self-attention alone (rule 6: ``R ← R + Ē R``).

    Parameters
    ----------
    layers : sequence of Edges
        From the bottom up.
    start : Tensor
        ``[B, S]``: a one at the query that is explained.

    Returns
    -------
    Tensor
        ``[B, S]``. The identity, the query's own path past every layer, is left out.
    """
    return _row(layers, start) - start


def rolled_down(layers: Sequence[Edges], start: Tensor) -> Tensor:
    """Row ``start`` of the rollout: ``(I + P_l)`` with its rows normalised, layer on layer."""
    row = start
    for edges in reversed(layers):
        row = edges.rolled(row)
    return row


@dataclass(frozen=True, eq=False)
class Pair:
    """Two streams of tokens, one of which attends to the other.

    Attributes
    ----------
    encoder : sequence of Edges
        Layers of the stream that is attended to, from the bottom up; none where its tokens are an
        input (a Q-Former by itself).
    steps : sequence of (Edges, bool)
        What the other stream does, in its order: each with whether it looks across. A layer of a
        decoder is two steps; of a Q-Former with a cross-attention in every second layer, two or
        one.
    """

    encoder: Sequence[Edges]
    steps: Sequence[tuple[Edges, bool]]


def across(pair: Pair, start: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of ``R_qi`` (encoder tokens) and ``R_qq − I`` (the decoder's own) at ``start``.

    The decoder attends to itself, then to the encoder, in turn:
    ``R_qq ← R_qq + Ā R_qq``, ``R_qi ← R_qi + Ā R_qi`` (rules 6 and 7), then
    ``R_qi ← R_qi + N(R_qq)ᵀ C̄ N(R_ii)`` (rule 10), where ``N(R)`` is the identity plus ``R − I``
    with its rows normalised (equations 8 and 9). Row ``t`` of the result is

    ``Σ_l u_lᵀ N(R_qq^l)ᵀ C̄_l N(R_ii)`` with ``u_lᵀ = e_tᵀ (I + Ā_L) … (I + Ā_{l+1})``,

    and ``u_lᵀ N(R)ᵀ = (N(R) u_l)ᵀ``: every factor is a vector. A row of ``R − I`` that is all zero
    stays zero when normalised (the authors divide 0 by 0 and drop the whole addition).

    Parameters
    ----------
    pair : Pair
        Where fewer queries look across than attend to themselves (InstructBLIP's Q-Former, whose
        instruction does not see the picture), these are the first.
    start : Tensor
        ``[B, Sq]``: a one at the decoder's query that is explained, or weights of several.

    Returns
    -------
    (Tensor, Tensor)
        ``[B, Si]`` and ``[B, Sq]``.
    """
    own, after = start, []  # what comes after each look across: u_L, …, u_1
    for edges, crosses in reversed(pair.steps):
        if crosses:
            after.append(own)
        else:
            own = own + edges.left(own)
    after.reverse()
    ones = torch.ones_like(start)
    columns = torch.stack([*after, ones], 1)  # R u for every u and for 1, carried upwards together
    mixed, n = torch.zeros(()), 0
    for edges, crosses in pair.steps:
        if not crosses:
            columns = columns + edges.right(columns)
            continue
        looking = after[n] + _ratio(columns[:, n] - after[n], columns[:, -1] - ones)
        mixed, n = mixed + edges.left(looking[:, : edges.shapes.Sq]), n + 1
    sums = torch.ones_like(mixed)
    for edges in pair.encoder:
        sums = sums + edges.right(sums)
    part = _ratio(mixed, sums - 1)
    return mixed + _row(pair.encoder, part) - part, own - start


def rolled_across(pair: Pair, start: Tensor) -> tuple[Tensor, Tensor]:
    """Rollout of an encoder–decoder model, as the authors' baseline has it.

    ``R_qqᵀ C_L R_ii`` with the rollouts of decoder and encoder and the last cross-attention. With a
    causal decoder ``R_qqᵀ`` takes row ``t`` from the queries at and after ``t``.
    """
    column = start
    own = [edges for edges, crosses in pair.steps if not crosses]
    for edges in own:
        sums = edges.sums()
        column = (column + edges.right(column)) / (1 + sums)
    last = [edges for edges, crosses in pair.steps if crosses][-1]
    seen = last.left(column[:, : last.shapes.Sq])
    return rolled_down(pair.encoder, seen), rolled_down(own, start)


def _row(layers: Sequence[Edges], start: Tensor) -> Tensor:
    row = start
    for edges in reversed(layers):
        row = row + edges.left(row)
    return row


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``, 0 where ``b`` is."""
    return torch.where(b != 0, a / torch.where(b != 0, b, torch.ones_like(b)), 0.0)
