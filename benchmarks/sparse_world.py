"""Long documents with facts in them: read once under a pattern, asked many times.

The text is prose of the Python reference (``pydoc_data``, in every CPython). Into it go facts of
different wordings (each asked for by its own: *needle*) and facts of one wording with a key each
(*multi-key*). A document is read in one prefill under the method; every question is then asked
densely behind the cache, as MInference, HiP and Δ attention are used. The loss of the document's
last tokens comes from the same prefill.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

import foveate as fv

TAIL = 512  # tokens of the document whose loss is taken

# what is said, what is asked, how the answer begins
_SINGLE = (
    (
        "The bronze bell of the abbey weighs {v} kilograms.",
        "How many kilograms does the bronze bell of the abbey weigh?",
        "The bronze bell of the abbey weighs",
    ),
    (
        "The ferry to Norhaven carries {v} passengers a year.",
        "How many passengers does the ferry to Norhaven carry a year?",
        "The ferry to Norhaven carries",
    ),
    (
        "The combination of the museum safe is {v}.",
        "What is the combination of the museum safe?",
        "The combination of the museum safe is",
    ),
    (
        "The painting by Ansel Crowe was sold for {v} crowns.",
        "For how many crowns was the painting by Ansel Crowe sold?",
        "The painting by Ansel Crowe was sold for",
    ),
    (
        "The tunnel under Mount Sorrel is {v} metres long.",
        "How many metres long is the tunnel under Mount Sorrel?",
        "The tunnel under Mount Sorrel is",
    ),
    (
        "The flight to Port Ellery has the number {v}.",
        "Which number does the flight to Port Ellery have?",
        "The flight to Port Ellery has the number",
    ),
    (
        "The library of Saint Odile holds {v} manuscripts.",
        "How many manuscripts does the library of Saint Odile hold?",
        "The library of Saint Odile holds",
    ),
    (
        "The orchard behind the mill has {v} apple trees.",
        "How many apple trees does the orchard behind the mill have?",
        "The orchard behind the mill has",
    ),
)
_KEYS = ("Arden", "Barrow", "Calder", "Dunmore", "Esk", "Farrow", "Gorse", "Harrow")


@dataclass(frozen=True)
class Question:
    """One question on a document.

    Attributes
    ----------
    kind : {"needle", "multi-key"}
    ids : list of int
        The question, the chat's turn, and how the answer begins.
    value : list of int
        The tokens of the right value.
    rivals : list of int
        The token that tells the candidates apart, the right one's first: all leading digits, or,
        of keys, those of the document's other values.
    """

    kind: str
    ids: list[int]
    value: list[int]
    rivals: list[int]


@dataclass(frozen=True)
class Document:
    """Token ids of a document, the questions on it, and which of its last tokens are plain text."""

    ids: list[int]
    questions: list[Question]
    plain: list[bool]


def prose() -> list[str]:
    """Paragraphs of running English."""
    from pydoc_data import topics

    pages = (topics.topics[name] for name in sorted(topics.topics))
    found = [" ".join(part.split()) for page in pages for part in page.split("\n\n")]
    words = [part for part in found if len(part) > 120 and "***" not in part and ">>>" not in part]
    return list(dict.fromkeys(words))


def document(tokenizer: Any, length: int, seed: int, each: int) -> Document:
    """A document of ``length`` tokens with ``each`` facts of either kind, evenly spread."""
    rng = random.Random(f"sparse/{length}/{seed}")
    firsts = [rng.sample(range(1, 10), min(each, 9)) for _ in range(2)]
    values = [[f"{first}{rng.randint(0, 999):03d}" for first in row] for row in firsts]
    single = rng.sample(_SINGLE, each)
    facts = [said.format(v=v) for (said, _, _), v in zip(single, values[0], strict=True)]
    facts += [f"The secret number of {k} Hall is {v}." for k, v in zip(_KEYS, values[1])]
    order = list(range(len(facts)))
    rng.shuffle(order)

    head, tail = _frame(tokenizer)
    room = length - len(head) - sum(len(_ids(tokenizer, f" {fact}")) for fact in facts)
    paragraphs = prose()
    start = rng.randrange(len(paragraphs))
    hay: list[list[int]] = []
    while room > 0:
        for one in paragraphs[start % len(paragraphs)].split(". "):
            part = _ids(tokenizer, f" {one.removesuffix('.')}.")[:room]
            room -= len(part)
            hay += [part] if part else []
        start += 1
    sentences = _spread(hay, [_ids(tokenizer, f" {facts[i]}") for i in order])
    ids = head + [token for part, _ in sentences for token in part]
    plain = [False] * len(head) + [own for part, own in sentences for _ in part]

    def asked(kind: str, ask: str, lead: str, value: str, others: Sequence[str]) -> Question:
        said = _ids(tokenizer, f" {value}")
        at = next(n for n, token in enumerate(said) if tokenizer.decode(token).strip())
        begun = _ids(tokenizer, f"\n\n{ask}") + tail + _ids(tokenizer, lead) + said[:at]
        rivals = [_ids(tokenizer, f" {other}")[at] for other in (value, *others)]
        return Question(kind, begun, said[at:], list(dict.fromkeys(rivals)))

    digits = [str(d) for d in range(1, 10)]
    questions = [
        asked("needle", ask, lead, v, [d for d in digits if d != v[0]])
        for (_, ask, lead), v in zip(single, values[0], strict=True)
    ]
    for k, v in zip(_KEYS, values[1]):
        what = f"secret number of {k} Hall is"
        rest = [other for other in values[1] if other != v]
        questions.append(asked("multi-key", f"What is the {what[:-3]}?", f"The {what}", v, rest))
    return Document(ids, questions, plain)


def _spread(hay: list[list[int]], facts: list[list[int]]) -> list[tuple[list[int], bool]]:
    """The facts between the sentences, at even distances in tokens; True marks the sentences."""
    total = sum(map(len, hay))
    places = [total * (n + 0.5) / len(facts) for n in range(len(facts))]
    found: list[tuple[list[int], bool]] = []
    passed, waiting = 0, list(zip(places, facts, strict=True))
    for part in hay:
        found.append((part, True))
        passed += len(part)
        while waiting and waiting[0][0] <= passed:
            found.append((waiting.pop(0)[1], False))
    return found


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What stands before the user's words and behind them."""
    mark = "\u2016"
    chat = [{"role": "user", "content": mark}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    before, _, behind = text.partition(mark)
    return _ids(tokenizer, before), _ids(tokenizer, behind)


@torch.no_grad()
def ask(
    model: Any, text: Document, methods: Sequence[Any] | None, *, everything: bool = False
) -> dict[str, Any]:
    """Read a document under methods (None: nothing attached) and ask its questions.

    Questions and answers are dense; with ``everything`` they are read under the methods too, as a
    chunk behind the document.

    Returns
    -------
    dict
        ``right``: kind -> list of bool, by the candidates' leading digits; ``exact``: the same by
        greedy decoding of the whole value; ``logp``: kind -> mean log-probability of the value;
        ``loss``: nats a token of the last plain tokens; ``seconds`` of the prefill.
    """
    ids = torch.tensor([text.ids])
    keep = min(TAIL, len(text.ids) - 1)
    with ExitStack() as attached:
        if methods is not None:
            attached.enter_context(fv.attach(model, *methods))
        start = time.perf_counter()
        done = model(input_ids=ids, use_cache=True, logits_to_keep=keep + 1)
        seconds = time.perf_counter() - start
        if not everything:
            attached.close()
        each = F.cross_entropy(done.logits[0, :-1].float(), ids[0, -keep:], reduction="none")
        plain = torch.tensor(text.plain[-keep:])
        cache, length = done.past_key_values, len(text.ids)
        found: dict[str, Any] = {"right": {}, "exact": {}, "logp": {}}
        for one in text.questions:
            fed = torch.tensor([one.ids + one.value[:-1]])
            mask = torch.ones(1, length + fed.shape[1], dtype=torch.long)
            logits = model(input_ids=fed, attention_mask=mask, past_key_values=cache).logits[0]
            cache.crop(-fed.shape[1])
            logp = logits[-len(one.value) :].float().log_softmax(-1)
            value = torch.tensor(one.value)
            best = int(logp[0, torch.tensor(one.rivals)].argmax()) == 0
            found["right"].setdefault(one.kind, []).append(best)
            found["exact"].setdefault(one.kind, []).append(bool((logp.argmax(-1) == value).all()))
            score = float(logp.gather(-1, value[:, None]).sum())
            found["logp"].setdefault(one.kind, []).append(round(score, 3))
    loss = float(each[plain].mean())
    return {**found, "loss": round(loss, 5), "seconds": round(seconds, 3), "tokens": length}
