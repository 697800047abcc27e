"""Thought anchors by intervention: hide a sentence, or have it written anew; what changes?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._implements import implements
from ..attach import attach
from ..errors import FoveateError
from ..methods.hide import Hide
from ..prompt import Prompt
from .receiver import sentence_masks

__all__ = [
    "Resampled",
    "answer_kl",
    "resampling_importance",
    "suppression_kl",
    "suppression_matrix",
]

_HIDDEN = "thought anchors: suppressed"


def suppression_kl(
    model: nn.Module,
    prompt: Prompt,
    masks: Tensor,
    *,
    temperature: float = 0.6,
    batch_size: int = 4,
) -> Tensor:
    """How hiding tokens from all attention changes what is predicted at every token.

    Parameters
    ----------
    model : torch.nn.Module
        A causal language model.
    prompt : Prompt
        One item.
    masks : Tensor
        Bool ``[n, S]``: what is hidden, from every query in every layer and head, case by case.
    temperature : float
        Of both distributions; 0.6 in the paper's code.
    batch_size : int
        Cases run at once.

    Returns
    -------
    Tensor
        ``[n, S]``, float32: KL(as it is ‖ with the tokens hidden) in nats of the next token's
        distribution behind each token; at least 0, exactly 0 in front of the first hidden token.

    Raises
    ------
    FoveateError
        For a batch of several, masks of another shape, or a temperature that is not above 0.
    """
    ids, length = prompt.inputs["input_ids"], prompt.length
    if prompt.batch_size != 1:
        raise FoveateError(f"The prompt has {prompt.batch_size} items; one was wanted.")
    if masks.dtype != torch.bool or masks.dim() != 2 or masks.shape[1] != length:
        raise FoveateError(
            f"masks are bool [n, {length}]; {masks.dtype} {list(masks.shape)} was given."
        )
    if not temperature > 0:
        raise FoveateError(f"temperature={temperature!r} was given; above 0 was wanted.")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise FoveateError(f"batch_size={batch_size!r} was given; at least 1 was wanted.")
    masks = masks.to(ids.device)
    found = torch.zeros(masks.shape, device=ids.device)
    with torch.no_grad():
        plain = _log_p(model(**prompt.inputs, use_cache=False).logits[0], temperature)
        some = masks.any(-1).nonzero().flatten()
        for rows in some.split(batch_size):
            inputs = {name: t.expand(len(rows), -1) for name, t in prompt.inputs.items()}
            with attach(model, Hide(_HIDDEN), regions={_HIDDEN: masks[rows]}):
                logits = model(**inputs, use_cache=False).logits
            for row, one in zip(rows.tolist(), logits, strict=True):
                first = int(masks[row].int().argmax())
                q = _log_p(one[first:], temperature)
                p = plain[first:]
                found[row, first:] = (p.exp() * (p - q)).sum(-1).clamp(min=0)
    return found


def _log_p(logits: Tensor, temperature: float) -> Tensor:
    return (logits.float() / temperature).log_softmax(-1)


@implements("thought-anchors", basis="paper")
def suppression_matrix(
    model: nn.Module,
    prompt: Prompt,
    sentences: Sequence[str] | Sequence[tuple[int, int]] | None = None,
    *,
    temperature: float = 0.6,
    log: bool = True,
    center: bool = False,
    batch_size: int = 4,
) -> Tensor:
    """What each sentence owes to each earlier one: hide it from all attention, and compare.

    Parameters
    ----------
    model : torch.nn.Module
        A causal language model.
    prompt : Prompt
        One item, the text included: a chat with the assistant's message, or raw text.
    sentences : sequence, optional
        As in :func:`~foveate.find.receiver.sentence_masks`.
    temperature : float
        As in :func:`suppression_kl`.
    log : bool
        Average ``log(KL + 1e-9)`` over the tokens, as the paper does; False averages the KL.
    center : bool
        Subtract the mean of each row, as in the paper's figures: some sentences are swayed by
        everything.
    batch_size : int

    Returns
    -------
    Tensor
        ``[n, n]``: entry ``[i, j]`` is the mean over the tokens of sentence ``i`` of the (log) KL
        that hiding sentence ``j`` causes there; NaN unless ``j < i``.

    Notes
    -----
    One forward a sentence. As in the paper's code the distribution at a token is that of the token
    *behind* it. They keep only the likeliest tokens (99.99 % of the mass, 100 at most); here the
    whole distribution counts.

    References
    ----------
    Bogdan et al., "Thought Anchors: Which LLM Reasoning Steps Matter?", 2025, section on attention
    suppression.

    Examples
    --------
    >>> import foveate as fv
    >>> from foveate.find import suppression_matrix
    >>> from foveate.tasks.derivations import derivations
    >>> model, tokenizer = fv.load("smollm2")
    >>> one = derivations(1)[0]
    >>> prompt = fv.Prompt(tokenizer, one.messages, add_generation_prompt=False)
    >>> suppression_matrix(model, prompt)[one.uses[0], one.needed]
    """
    masks = sentence_masks(prompt, sentences)
    kl = suppression_kl(model, prompt, masks, temperature=temperature, batch_size=batch_size)
    value = (kl + 1e-9).log() if log else kl
    share = masks.to(value) / masks.sum(-1, keepdim=True)
    matrix = share @ value.mT  # (n, n): token means of sentence i under suppression j
    matrix = matrix.masked_fill(~torch.ones_like(matrix, dtype=torch.bool).tril(-1), torch.nan)
    return matrix - matrix.nanmean(-1, keepdim=True) if center else matrix


def answer_kl(first: Iterable[Any], second: Iterable[Any], smoothing: float = 1.0) -> float:
    """KL(first ‖ second) in nats between two samples of answers.

    Parameters
    ----------
    first, second : iterable
        Answers; ``None`` (nothing was answered) is left out.
    smoothing : float
        Added to the count of every answer that occurs in either; above 0. The paper's code adds
        1e-9, for a hundred rollouts; with few, 1 (Laplace, its other setting) is calmer.

    Returns
    -------
    float
        At least 0; 0 where one of the two holds no answer.
    """
    if not smoothing > 0:
        raise FoveateError(f"smoothing={smoothing!r} was given; above 0 was wanted.")
    a, b = (Counter(x for x in given if x is not None) for given in (first, second))
    if not a or not b:
        return 0.0
    kinds = a.keys() | b.keys()
    sums = [c.total() + smoothing * len(kinds) for c in (a, b)]
    p, q = ({x: (c[x] + smoothing) / s for x in kinds} for c, s in zip((a, b), sums, strict=True))
    return max(0.0, sum(p[x] * math.log(p[x] / q[x]) for x in kinds))


@dataclass(frozen=True)
class Resampled:
    """What became of the answer with a sentence kept, and with another in its place.

    Attributes
    ----------
    kept, replaced : tuple
        Answers of the rollouts; None where none was found.
    kl : float
        :func:`answer_kl` of ``replaced`` against ``kept``.
    instead : tuple of str
        What was written in its place, one for each of ``replaced``.
    """

    kept: tuple[Any, ...]
    replaced: tuple[Any, ...]
    kl: float
    instead: tuple[str, ...]

    def accuracy(self, answer: Any) -> float:
        """How much more often the kept sentence leads to ``answer``: a difference of shares."""
        if not self.kept or not self.replaced:
            return 0.0
        shares = [sum(x == answer for x in own) / len(own) for own in (self.kept, self.replaced)]
        return shares[0] - shares[1]


def resampling_importance(
    model: nn.Module,
    tokenizer: Any,
    question: str | Sequence[dict[str, str]],
    sentences: Sequence[str],
    index: int,
    answer: Callable[[str], Any],
    *,
    n: int = 10,
    temperature: float = 0.6,
    top_p: float = 0.95,
    max_new_tokens: int = 64,
    same: Callable[[str, str], bool] | None = None,
    smoothing: float = 1.0,
    seed: int = 0,
) -> Resampled:
    """Counterfactual importance of a sentence: roll out from it, and from where it would stand.

    Parameters
    ----------
    model, tokenizer
        A chat model.
    question : str or list of dict
        What the user asks, or the messages before the answer.
    sentences : sequence of str
        The answer so far and beyond, sentence by sentence.
    index : int
        Which of them.
    answer : callable
        Takes the whole text of an answer, gives what it answers (hashable), or None.
    n : int
        Rollouts of each kind; the paper takes 100.
    temperature, top_p, max_new_tokens
        Of the rollouts; 0.6 and 0.95 in the paper.
    same : callable, optional
        ``same(sentence, written)``: whether what was written says the same. Such rollouts count as
        kept. The paper compares sentence embeddings (cosine at least 0.8); the default here, where
        there is no such model, is whether at least 0.8 of the words of both are common.
    smoothing : float
        As in :func:`answer_kl`.
    seed : int
        Torch's global generator is put back afterwards.

    Returns
    -------
    Resampled
    """
    if isinstance(sentences, str) or not -len(sentences) <= index < len(sentences):
        raise FoveateError(
            f"index={index!r} names none of the sentences; a list of them was wanted."
        )
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise FoveateError(f"n={n!r} was given; at least one rollout was wanted.")
    index %= len(sentences)
    sampling = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
    before, through = " ".join(sentences[:index]), " ".join(sentences[: index + 1])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kept = [
            f"{through} {rest}"
            for rest in _rollouts(model, tokenizer, question, through, n, sampling)
        ]
        others = _rollouts(model, tokenizer, question, before, n, sampling)
    alike = same or _same_words
    replaced, instead = [], []
    for rest in others:
        whole = f"{before} {rest}".strip()
        said = _first_sentence(rest)
        if alike(sentences[index], said):
            kept.append(whole)
        else:
            replaced.append(whole)
            instead.append(said)
    a, b = [answer(text) for text in kept], [answer(text) for text in replaced]
    return Resampled(tuple(a), tuple(b), answer_kl(b, a, smoothing), tuple(instead))


def _rollouts(
    model: Any, tokenizer: Any, question: Any, begun: str, n: int, sampling: dict[str, Any]
) -> list[str]:
    """``n`` sampled continuations of an answer that has begun."""
    messages = (
        [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
    )
    head = Prompt(tokenizer, messages).text
    prompt = Prompt(tokenizer, head + begun, add_special_tokens=False)
    with torch.no_grad():
        ids = model.generate(
            **prompt.inputs,
            do_sample=True,
            num_return_sequences=n,
            pad_token_id=tokenizer.pad_token_id,
            **sampling,
        )
    texts = tokenizer.batch_decode(ids[:, prompt.length :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def _first_sentence(text: str) -> str:
    from .receiver import sentence_spans

    spans = sentence_spans(text)
    return text[slice(*spans[0])] if spans else text


def _same_words(one: str, other: str) -> bool:
    a, b = (set(text.lower().split()) for text in (one, other))
    return bool(a | b) and len(a & b) / len(a | b) >= 0.8
