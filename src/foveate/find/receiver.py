"""Receiver heads: which sentences of a text do all later ones look back at, and through what?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._implements import implements
from ..attach import attach
from ..errors import FoveateError
from ..prompt import Prompt
from ._tiles import EachTile

if TYPE_CHECKING:
    from ..adapters.sites import Site
    from ..attach import Call
    from ..engine.backends.probabilities import Tile

__all__ = [
    "broadcast",
    "kurtosis",
    "receiver_scores",
    "sentence_attention",
    "sentence_masks",
    "sentence_spans",
    "vertical_scores",
]

_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)|\n+")
PROXIMITY = 4  # the paper's code leaves out the sentences nearer than this


def sentence_spans(text: str, start: int = 0, stop: int | None = None) -> list[tuple[int, int]]:
    """Where the sentences of a text stand: ``(first character, one behind the last)``.

    A sentence ends behind ``.``, ``!``, ``?`` or ``…`` before white space, or at a line's end.

    Parameters
    ----------
    text : str
    start, stop : int, optional
        Only this part of it.
    """
    stop = len(text) if stop is None else stop
    spans, begin = [], start
    for end in [m.end() for m in _END.finditer(text, start, stop)] + [stop]:
        piece = text[begin:end]
        if re.search(r"\w", piece):
            inner = piece.strip()
            at = begin + piece.index(inner)
            spans.append((at, at + len(inner)))
            begin = end
        elif not piece.strip():
            begin = end
    return spans


def sentence_masks(
    prompt: Prompt, sentences: Sequence[str] | Sequence[tuple[int, int]] | None = None
) -> Tensor:
    """The tokens of each sentence of a prompt of one item, bool ``[n, S]``.

    Parameters
    ----------
    prompt : Prompt
    sentences : sequence of str or of (int, int), optional
        Pieces of the prompt's text in their order, or spans of its characters. Default: the
        sentences of the assistant's messages, or of the whole text where there are none.

    Raises
    ------
    FoveateError
        A batch of several; a sentence that does not occur behind the one before it.
    """
    text = prompt.text  # refuses a batch
    spans: list[tuple[int, int]] = []
    if sentences is None:
        spans = _own_spans(prompt, text)
    elif isinstance(sentences, str):
        raise FoveateError("sentences= takes a list of sentences; one text was given.")
    else:
        at = 0
        for one in sentences:
            if isinstance(one, str):
                found = text.find(one, at)
                if found < 0 or not one.strip():
                    raise FoveateError(
                        f"The sentence {one!r} does not occur behind character {at} of the prompt: "
                        "give the sentences in their order, letter by letter."
                    )
                at = found + len(one)
                spans.append((found, at))
            else:
                spans.append((int(one[0]), int(one[1])))
    if not spans:
        raise FoveateError("The prompt has no sentences: give some with sentences=.")
    masks = []
    for a, b in spans:
        name = f"sentence:{a}-{b}"  # of the span: marking it again adds nothing new
        masks.append(prompt.mark(name, span=(a, b)).regions[name][0])
    return torch.stack(masks)


def _own_spans(prompt: Prompt, text: str) -> list[tuple[int, int]]:
    # the prompt itself knows its messages' characters; its regions hold tokens only
    said = prompt._rows.items[0].roles.get("assistant") or [(0, len(text))]
    return [span for a, b in said for span in sentence_spans(text, a, b)]


def sentence_attention(
    model: nn.Module,
    prompt: Prompt,
    sentences: Sequence[str] | Sequence[tuple[int, int]] | None = None,
    *,
    layers: Any = None,
) -> Tensor:
    """Attention averaged to sentences: entry ``[…, i, j]`` is the mean over the token pairs.

    Parameters
    ----------
    model : torch.nn.Module
        A decoder.
    prompt : Prompt
        One item.
    sentences : sequence, optional
        As in :func:`sentence_masks`.
    layers : int or sequence of int, optional

    Returns
    -------
    Tensor
        ``[layers, heads, n, n]``, float32: how much a token of sentence ``i`` attends to a token of
        sentence ``j``, on average.

    Notes
    -----
    Tiles of the probabilities are pooled as they come: memory is linear in length.
    """
    masks = sentence_masks(prompt, sentences)
    weights = masks.float() / masks.sum(-1, keepdim=True)  # (n, S): a mean over its tokens
    found: dict[int, Tensor] = {}

    def take(tile: Tile, site: Site, call: Call) -> None:
        w = weights.to(tile.p)
        q = slice(call.q_offset + tile.start, call.q_offset + tile.stop)
        k = slice(call.kv_offset + tile.low, call.kv_offset + tile.high)
        pooled = w[:, q] @ (tile.p[0] @ w[:, k].mT)  # (H, n, n)
        found[site.layer] = found[site.layer] + pooled if site.layer in found else pooled

    with torch.no_grad(), attach(model, EachTile(take, layers=layers), prompt=prompt):
        model(**prompt.inputs, use_cache=False)
    return torch.stack([found[layer] for layer in sorted(found)]).float()


def vertical_scores(attention: Tensor, proximity: int = PROXIMITY) -> Tensor:
    """What each sentence gets from those that come later, near ones left out.

    Parameters
    ----------
    attention : Tensor
        ``[…, n, n]``: :func:`sentence_attention`.
    proximity : int
        At least 1: sentence ``j`` is seen by the sentences ``i >= j + proximity``. 4 in the paper.

    Returns
    -------
    Tensor
        ``[…, n]``: the mean over those ``i``; NaN for the last ``proximity`` sentences, which have
        none.
    """
    if attention.dim() < 2 or attention.shape[-1] != attention.shape[-2]:
        raise FoveateError(
            f"attention is [..., n, n] between sentences; {list(attention.shape)} was given."
        )
    if isinstance(proximity, bool) or not isinstance(proximity, int) or proximity < 1:
        raise FoveateError(f"proximity={proximity!r} was given; at least 1 was wanted.")
    n = attention.shape[-1]
    later = torch.ones(n, n, dtype=torch.bool, device=attention.device).tril(-proximity)
    total = torch.where(later, attention, torch.zeros_like(attention)).sum(-2)
    count = later.sum(-2)
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan)


def kurtosis(values: Tensor) -> Tensor:
    """Excess kurtosis over the last axis, ``[…]``: 0 for a normal distribution; NaN is left out.

    Fisher's, with moments divided by n, as in the paper's code. NaN where nothing varies.
    """
    known = ~values.isnan()
    count = known.sum(-1)
    x = torch.where(known, values, torch.zeros_like(values)).double()
    mean = x.sum(-1, keepdim=True) / count.unsqueeze(-1)
    apart = torch.where(known, x - mean, torch.zeros_like(x))
    second = (apart**2).sum(-1) / count
    fourth = (apart**4).sum(-1) / count
    still = second <= (1e-12 * mean.squeeze(-1)) ** 2
    return torch.where(still, torch.nan, fourth / second**2 - 3).to(values.dtype)


@implements("thought-anchors", basis="paper")
def receiver_scores(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[Any] | None = None,
    *,
    proximity: int = PROXIMITY,
    n: int = 12,
    seed: int = 0,
) -> Tensor:
    """Score heads by how sharply their attention narrows on a few earlier sentences.

    For each head and text: attention averaged to sentences, what every sentence gets from those at
    least ``proximity`` later, and the kurtosis of that profile; then the mean over the texts. The
    heads with the highest are *receiver heads*, the sentences they favour *broadcasters*.

    Parameters
    ----------
    model, tokenizer
        A causal language model.
    texts : sequence, optional
        Texts, chats (their assistant's messages are read) or prompts of one item, each of at least
        ``proximity + 3`` sentences. Default: derivations of our own.
    proximity : int
        As in :func:`vertical_scores`.
    n, seed : int
        Of the derivations.

    Returns
    -------
    Tensor
        ``[layers, heads]``; NaN where a head's profile is flat in every text.

    Raises
    ------
    FoveateError
        For no texts, or one of too few sentences.

    References
    ----------
    Bogdan et al., "Thought Anchors: Which LLM Reasoning Steps Matter?", 2025, and its code
    (github.com/interp-reasoning/thought-anchors). They take the 20 heads with the highest scores.

    Examples
    --------
    >>> import foveate as fv
    >>> model, tokenizer = fv.load("smollm2")
    >>> scores = fv.find_heads(model, tokenizer, "receiver", n=4)
    >>> scores.top(20)
    """
    from ..tasks.derivations import derivations

    if isinstance(texts, str):
        raise FoveateError("receiver_scores takes a list of texts; one text was given.")
    given = [d.messages for d in derivations(n, seed, facts=8)] if texts is None else list(texts)
    if not given:
        raise FoveateError("receiver_scores was given no texts.")
    scores = []
    for text in given:
        prompt = text if isinstance(text, Prompt) else _prompt(tokenizer, text)
        attention = sentence_attention(model, prompt)
        if attention.shape[-1] < proximity + 3:
            raise FoveateError(
                f"A text has {attention.shape[-1]} sentences; with proximity={proximity} at least "
                f"{proximity + 3} are wanted, for a profile of three."
            )
        scores.append(kurtosis(vertical_scores(attention, proximity)))
    return torch.stack(scores).nanmean(0)


def _prompt(tokenizer: Any, text: Any) -> Prompt:
    return Prompt(tokenizer, text, add_generation_prompt=False)


def broadcast(
    model: nn.Module,
    prompt: Prompt,
    heads: Sequence[tuple[int, int]],
    sentences: Sequence[str] | Sequence[tuple[int, int]] | None = None,
    *,
    proximity: int = PROXIMITY,
) -> Tensor:
    """How much each sentence is looked back at through the given heads, ``[n]``.

    Parameters
    ----------
    model : torch.nn.Module
    prompt : Prompt
        One item.
    heads : sequence of (int, int)
        Receiver heads: ``find_heads(model, tokenizer, "receiver").top(20)``.
    sentences, proximity
        As in :func:`sentence_attention` and :func:`vertical_scores`; NaN for the last sentences.
    """
    pairs = [(int(layer), int(head)) for layer, head in heads]
    if not pairs:
        raise FoveateError("broadcast was given no heads; find_heads(…, 'receiver') finds some.")
    profile = vertical_scores(sentence_attention(model, prompt, sentences), proximity)
    layers, places = zip(*pairs, strict=True)
    if max(layers) >= profile.shape[0] or max(places) >= profile.shape[1]:
        raise FoveateError(
            f"The model has {profile.shape[0]} layers of {profile.shape[1]} heads; {max(pairs)} "
            "is none of them."
        )
    return profile[list(layers), list(places)].mean(0)
