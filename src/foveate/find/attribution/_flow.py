"""From the recorded calls of one forward to the scores of tokens, by every method that flows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...engine.relevance import Edges
from ...errors import FoveateError
from ._tape import Seen
from .relevance import Pair, across, down, rolled_across, rolled_down

__all__ = ["FLOWS", "Streams", "flow", "through"]

FLOWS = ("relevance", "rollout", "attention", "value-norm")


@dataclass(frozen=True, eq=False)
class Streams:
    """The calls of one forward, sorted by what they attend to.

    Attributes
    ----------
    own : list of Seen
        Self-attention of the tokens whose output is explained.
    steps : list of Seen
        The same with the calls that look across to other tokens, in the order they ran; ``own``
        itself where none does.
    encoder : list of Seen
        Self-attention of those other tokens, if it was recorded.
    """

    own: list[Seen]
    steps: list[Seen]
    encoder: list[Seen]

    @classmethod
    def of(cls, calls: Sequence[Seen]) -> Streams:
        """Sort the calls of a model that looks across once, or not at all.

        The tokens that look across are those whose self-attention runs between the looks; those
        looked at are of the last stack before, with as many tokens as the looks have keys.
        """
        crossing = [n for n, seen in enumerate(calls) if crosses(seen)]
        if not crossing:
            return cls(list(calls), list(calls), [])
        first, last = crossing[0], crossing[-1]
        beside = [*calls[first + 1 :], *calls[:first][::-1]]
        names = [s.site.stack for s in beside if not crosses(s) and _same(s, calls[first])]
        stack = names[0] if names else None
        steps = [s for s in calls[: last + 1] if crosses(s) or s.site.stack == stack]
        steps += [s for s in calls[last + 1 :] if s.site.stack == stack]
        keys = calls[first].k.shape[2]
        before = [s for s in calls[:first] if s.site.stack != stack and s.q.shape[2] == keys]
        encoder = [s for s in before if s.site.stack == before[-1].site.stack]
        return cls([s for s in steps if not crosses(s)], steps, encoder)

    @property
    def across(self) -> list[Seen]:
        """The calls that look across."""
        return [seen for seen in self.steps if crosses(seen)]


def crosses(seen: Seen) -> bool:
    """Whether a call looks from one stream of tokens to another."""
    return seen.site.kind == "cross"


def _same(seen: Seen, look: Seen) -> bool:
    """Whether a self-attention is of the tokens that look across (and may hold more of them)."""
    return seen.q.shape[2] >= look.q.shape[2] and seen.q.shape[0] == look.q.shape[0]


def flow(method: str, streams: Streams, start: Tensor) -> tuple[Tensor, Tensor | None]:
    """Scores ``[B, S]``, and those of the looking tokens themselves where some look across.

    Parameters
    ----------
    method : str
        One of ``FLOWS``.
    streams : Streams
    start : Tensor
        ``[B, Sq]``: the weights of the queries that are explained.
    """
    for seen in streams.own + streams.encoder:
        _square(seen)
    if method in ("relevance", "rollout"):
        kind = Seen.relevance if method == "relevance" else Seen.attention
        if not streams.across:
            rule = down if method == "relevance" else rolled_down
            return rule([kind(seen) for seen in streams.own], start), None
        pair = Pair(
            [kind(seen) for seen in streams.encoder],
            [(kind(seen), crosses(seen)) for seen in streams.steps],
        )
        return (across if method == "relevance" else rolled_across)(pair, start)
    kind = Seen.attention if method == "attention" else Seen.norms
    itself = _mean([kind(seen) for seen in streams.own], start)
    if not streams.across:
        return itself, None
    return _mean([kind(seen) for seen in streams.across], start), itself


def through(row: Tensor, image: Tensor, calls: Sequence[Seen], lead: int) -> Tensor:
    """Relevance at a decoder's image tokens, carried on through the tower that made them.

    Parameters
    ----------
    row : Tensor
        ``[B, S]``: relevance of the decoder's tokens.
    image : Tensor
        Bool ``[B, S]``: which of them are a picture's.
    calls : sequence of Seen
        Those of the tower (and of a Q-Former between), in their order.
    lead : int
        Tokens of the tower before its patches, which no image token was made of ([CLS]).

    Returns
    -------
    Tensor
        ``[B, pictures of an item times tokens of the tower]``.
    """
    counts = image.sum(-1)
    if not bool((counts == counts[0]).all()) or not int(counts[0]):
        raise FoveateError(
            f"The items have {counts.tolist()} image tokens; relevance goes on through the tower "
            "where all have as many, at least one: explain the others one by one."
        )
    streams = Streams.of(calls)
    top = streams.own[-1].q.shape
    into = row[image].view(top[0], -1) if int(counts.sum()) % top[0] == 0 else row[image][None]
    made, tokens = into.shape[1], top[2]
    if streams.across:
        looking = streams.across[-1].q.shape[2]
        if made != looking:
            raise FoveateError(_unlike(made, looking))
        start = torch.nn.functional.pad(into, (0, tokens - made))
    elif made in (tokens, tokens - lead):
        start = torch.nn.functional.pad(into, (tokens - made, 0))
    else:
        raise FoveateError(_unlike(made, tokens - lead))
    rule, _ = flow("relevance", streams, start)
    if not streams.across:
        rule = rule + start  # a patch's own way past all blocks counts: it is the picture's
    return rule.reshape(len(row), -1)


def _unlike(made: int, tokens: int) -> str:
    return (
        f"A picture is {made} tokens to the decoder and {tokens} to the tower before it, and "
        "nothing says which became which: relevance goes on only where patches stay apart. Leave "
        "stack= away to have it at the decoder's image tokens."
    )


def _mean(layers: Sequence[Edges], start: Tensor) -> Tensor:
    rows = [edges.left(start[:, : edges.shapes.Sq]) for edges in layers]
    return torch.stack(rows).mean(0)


def _square(seen: Seen) -> None:
    if seen.q.shape[2] != seen.k.shape[2]:
        raise FoveateError(
            f"{seen.site.name} has {seen.q.shape[2]} queries and {seen.k.shape[2]} keys; relevance "
            "is carried through whole forwards: leave past_key_values away."
        )
