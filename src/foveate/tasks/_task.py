"""What a task is: seeded items with exact answers, and how a model is asked."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..attach import attach
from ..errors import FoveateError
from ..prompt import Prompt, continued
from .answering import generate, text_of

__all__ = ["Item", "Task", "answer", "prompts", "says", "score_answers"]

Mark = str | tuple[int, int]


def says(reply: str, value: str) -> bool:
    """Whether a reply states a value as whole words, whatever the case."""
    return (
        re.search(rf"(?<!\w){re.escape(value)}(?!\w)", reply, re.IGNORECASE | re.UNICODE)
        is not None
    )


@dataclass(frozen=True)
class Item:
    """One question with an exact answer.

    Attributes
    ----------
    id : str
        Stable for a seed.
    content : str or list of dict
        What the user says, or the messages of a chat.
    answer : str
        What a right reply states.
    marks : mapping of str to str or (int, int), or a list of these
        Regions: a piece of the content (every occurrence) or, of a text, a span of its characters.
    wrong : tuple of str
        Other candidates: a reply that states one of them is wrong.
    raw : bool
        The text goes to the model as it is, not as a chat.
    info : mapping
        Whatever else is known of the item (depth of the needle, template, …).
    """

    id: str
    content: str | list[dict[str, str]]
    answer: str
    marks: Mapping[str, Mark | list[Mark]] = field(default_factory=dict)
    wrong: tuple[str, ...] = ()
    raw: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)

    def right(self, reply: str) -> bool:
        """Whether ``reply`` states the answer and none of the wrong candidates."""
        return says(reply, self.answer) and not any(says(reply, other) for other in self.wrong)


class Task:
    """The base of tasks: frozen dataclasses with ``n``, ``seed`` and their own sizes.

    Attributes
    ----------
    name : str
        Of the task with its settings, as tables show it.
    max_new_tokens : int
        How long an answer may be.
    """

    name: str = "task"
    max_new_tokens: int = 16

    def items(self, tokenizer: Any = None) -> list[Item]:
        """The items: the same for a seed, a longer list beginning with the shorter one."""
        raise NotImplementedError

    def right(self, item: Item, reply: str) -> bool:
        """Whether a reply is right; tasks with rules of their own override it."""
        return item.right(reply)


def prompts(
    items: Sequence[Item], tokenizer: Any, batch_size: int = 8
) -> Iterator[tuple[list[Item], Prompt]]:
    """Left-padded batches of items as prompts, with their marks.

    Parameters
    ----------
    items : sequence of Item
        Neighbours of one kind (chat or raw) share a batch. Where an item lacks a region that
        another of its batch has, the region is empty there.
    tokenizer
    batch_size : int

    Yields
    ------
    (list of Item, Prompt)
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise FoveateError(
            f"batch_size takes a whole number of at least 1; {batch_size!r} was given."
        )
    if not items:
        raise FoveateError("There are no items to ask: the task made none.")
    start = 0
    while start < len(items):
        raw = _raw(items[start], tokenizer)
        stop = start
        while stop < len(items) and stop - start < batch_size:
            if _raw(items[stop], tokenizer) != raw:
                break
            stop += 1
        batch = list(items[start:stop])
        texts = [_content(item, raw) for item in batch]
        prompt = Prompt(tokenizer, texts, padding_side="left")
        prompt.items = tuple(batch)
        for row, item in enumerate(batch):
            for name, mark in item.marks.items():
                for piece in mark if isinstance(mark, list) else [mark]:
                    if isinstance(piece, str):
                        prompt.mark(name, piece, item=row)
                    else:
                        prompt.mark(name, span=_span(item, prompt.texts[row], piece), item=row)
        yield batch, prompt
        start = stop


def answer(
    model: Any,
    tokenizer: Any,
    items: Sequence[Item],
    methods: Sequence[Any] = (),
    *,
    batch_size: int = 8,
    max_new_tokens: int = 16,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Greedy replies to items under ``attach(model, *methods)``.

    Parameters
    ----------
    methods : sequence
        As in :func:`foveate.attach`; they find the items' regions by name.
    progress : callable, optional
        Called with the number of items just answered.
    """
    replies: list[str] = []
    for batch, prompt in prompts(items, tokenizer, batch_size):
        prompt.to(model.device)
        with torch.no_grad(), attach(model, *methods, prompt=prompt):
            ids = generate(model, prompt, max_new_tokens)
        replies += [text_of(tokenizer, row) for row in ids]
        if progress is not None:
            progress(len(batch))
    return replies


def score_answers(
    model: Any,
    tokenizer: Any,
    items: Sequence[Item],
    methods: Sequence[Any] = (),
    *,
    answers: Sequence[str] | None = None,
    batch_size: int = 8,
    mean: bool = False,
) -> Tensor:
    """Log-probability of each item's answer after its prompt, teacher-forced, ``[n]`` float32.

    Parameters
    ----------
    answers : sequence of str, optional
        Other answers than the items' own, one an item.
    mean : bool
        Per token of the answer instead of its sum.
    """
    wanted = [item.answer for item in items] if answers is None else list(answers)
    if len(wanted) != len(items):
        raise FoveateError(f"{len(wanted)} answers were given for {len(items)} items.")
    scores: list[Tensor] = []
    for batch, prompt in prompts(items, tokenizer, batch_size):
        said = wanted[len(scores) : len(scores) + len(batch)]
        lead = [" " if _raw(item, tokenizer) else "" for item in batch]
        tails = [
            prompt.tokenizer(space + text, add_special_tokens=False)["input_ids"]
            for space, text in zip(lead, said, strict=True)
        ]
        longest = max(map(len, tails))
        prompt.to(model.device)
        device = prompt.inputs["input_ids"].device
        tail = torch.zeros(len(batch), longest, dtype=torch.long, device=device)
        real = torch.zeros(len(batch), longest, dtype=torch.bool, device=device)
        for row, ids in enumerate(tails):
            tail[row, : len(ids)] = torch.tensor(ids, device=device)
            real[row, : len(ids)] = True
        inputs = continued(prompt.inputs, tail, real)
        mask = inputs["attention_mask"]
        known = inspect.signature(model.forward).parameters
        # of a padded row the first real token is at 0; where pictures stand the model knows best
        if "position_ids" in known and not prompt.pictures:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        keep = {"logits_to_keep": longest + 1} if "logits_to_keep" in known else {}
        with torch.no_grad(), attach(model, *methods, prompt=prompt):
            logits = model(**inputs, **keep).logits[:, -longest - 1 :]
        logp = logits[:, :-1].float().log_softmax(-1).gather(-1, tail[..., None])[..., 0]
        total = (logp * real).sum(-1)
        scores += list(total / real.sum(-1) if mean else total)
    return torch.stack(scores)


def _raw(item: Item, tokenizer: Any) -> bool:
    return isinstance(item.content, str) and (
        item.raw or not getattr(tokenizer, "chat_template", None)
    )


def _content(item: Item, raw: bool) -> Any:
    if raw or not isinstance(item.content, str):
        return item.content
    return [{"role": "user", "content": item.content}]


def _span(item: Item, rendered: str, span: tuple[int, int]) -> tuple[int, int]:
    """A span of the content as a span of the rendered prompt."""
    if not isinstance(item.content, str):
        raise FoveateError(
            f"Item {item.id!r} marks characters {span} of a chat; spans are of a text: mark a "
            "piece of a message by its words."
        )
    start = rendered.find(item.content)
    if start < 0:
        raise FoveateError(
            f"The chat template changed the text of item {item.id!r}, so its spans point nowhere: "
            "mark pieces of it by their words."
        )
    return start + span[0], start + span[1]
