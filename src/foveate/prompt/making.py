"""How a prompt is made: what is given becomes items, and with pictures what a processor adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import FoveateError
from ..pictures.layout import token_ids
from ..pictures.processing import Prepared, prepare
from ..pictures.reading import taken
from .chat import render
from .given import batch, messages_of
from .item import Item, Shown, Span
from .rows import Rows

__all__ = [
    "Draft",
    "checked",
    "drafts_of",
    "shown_in",
    "tokenized",
    "tokenizer_of",
    "with_pictures",
]


@dataclass(frozen=True)
class Draft:
    """One item as it was given: its text, and the pictures that stand in it."""

    text: str
    roles: dict[str, list[Span]]
    pictures: list[Any]
    raw: bool


def tokenizer_of(given: Any) -> Any:
    """The fast tokenizer that was given, or that a processor holds."""
    found = getattr(given, "tokenizer", None) or given
    if not callable(found) or not hasattr(found, "all_special_ids"):
        raise FoveateError(
            f"Prompt got {type(given).__name__} as its tokenizer, but wants the one of the "
            "model, e.g. from fv.load(...) or transformers.AutoTokenizer."
        )
    if not getattr(found, "is_fast", False):
        raise FoveateError(
            f"{type(found).__name__} is a slow tokenizer and reports no character "
            "offsets, which regions need; load its fast version "
            "(AutoTokenizer.from_pretrained(...), or save it with a tokenizer.json)."
        )
    return found


def drafts_of(
    owner: Any,
    tokenizer: Any,
    text_or_messages: Any,
    add_generation_prompt: bool,
    system: str | None,
    template_args: Mapping[str, Any],
) -> list[Draft]:
    """The items of a prompt as texts; ``owner`` is the tokenizer or the processor that holds it."""
    drafts: list[Draft] = []
    for given in batch(text_or_messages):
        roles: dict[str, list[Span]] = {}
        pictures: list[Any] = []
        if isinstance(given, str):
            if system is not None:
                raise FoveateError(
                    "system= was given with raw text, which has no roles; write it into the "
                    "text, or pass a chat: [{'role': 'user', 'content': ...}]."
                )
            text = given
        else:
            given, pictures = taken(given)
            if pictures and getattr(owner, "image_processor", None) is None:
                raise FoveateError(
                    f"The messages have pictures, but {type(owner).__name__} prepares none; give "
                    "the processor of a model that sees: model, processor = fv.load('shapes-vlm')."
                )
            text, roles = render(
                owner,
                tokenizer,
                messages_of(given, system),
                add_generation_prompt,
                template_args,
                pictures=bool(pictures),
            )
        drafts.append(Draft(text, roles, pictures, isinstance(given, str)))
    return drafts


def with_pictures(
    processor: Any,
    tokenizer: Any,
    drafts: Sequence[Draft],
    add_special_tokens: bool | None,
    padding_side: str,
) -> Prepared | None:
    """What the processor makes of a prompt with pictures; None for one without."""
    if not any(draft.pictures for draft in drafts):
        return None
    begin = tokenizer.bos_token
    own = [
        (draft.raw or not (begin and draft.text.startswith(begin)))
        if add_special_tokens is None
        else add_special_tokens
        for draft in drafts
    ]
    return prepare(
        processor,
        [draft.text for draft in drafts],
        [draft.pictures for draft in drafts],
        add_special_tokens=own,
        padding_side=padding_side,
    )


def tokenized(
    tokenizer: Any,
    drafts: Sequence[Draft],
    prepared: Prepared | None,
    add_special_tokens: bool | None,
) -> tuple[Item, ...]:
    """The items with their tokens; with pictures, as the processor writes them."""
    items: list[Item] = []
    for number, draft in enumerate(drafts):
        own = draft.raw if add_special_tokens is None else add_special_tokens
        text, roles = draft.text, draft.roles
        if prepared is not None:
            own, text = prepared.added, prepared.texts[number]
            roles = {
                role: [prepared.moved(number, span) for span in spans]
                for role, spans in roles.items()
            }
        item = Item.tokenized(tokenizer, text, roles, own)
        if not text or not item.ids:
            raise FoveateError(
                f"Item {number} of the prompt is empty; give it at least one token of text."
            )
        items.append(item)
    return tuple(items)


def shown_in(processor: Any, prepared: Prepared, rows: Rows) -> list[Shown]:
    """Where the pictures' tokens stand."""
    ids = token_ids(processor)
    found: list[Shown] = []
    for number, item in enumerate(rows.items):
        first = rows.slice(number).start
        for a, b in prepared.spans[number]:
            own = [
                i
                for i, (token, start) in enumerate(zip(item.ids, item.starts.tolist(), strict=True))
                if token in ids and a <= start < b
            ]
            if not own:
                raise FoveateError(
                    f"{type(processor).__name__} put no token in the place of picture "
                    f"{len(found)}, so there is nothing to attend to; run it yourself and pass "
                    "regions= to fv.attach."
                )
            starts = tuple(int(item.starts[i]) - a for i in own)
            places = tuple(first + i for i in own)
            found.append(Shown(processor, number, item.text[a:b], places, starts))
    return found


def checked(outputs: Mapping[str, Any], ours: Mapping[str, Tensor]) -> dict[str, Any]:
    """A processor's inputs, whose ids and mask must be those whose characters are known."""
    ids, mask = outputs["input_ids"], outputs["attention_mask"]
    real = ours["attention_mask"].bool()
    same = ids.shape == real.shape and torch.equal(mask.bool(), real)
    if not same or not torch.equal(ids[real], ours["input_ids"][real]):
        raise FoveateError(
            "The processor tokenizes this prompt otherwise than its tokenizer, so which token "
            "belongs to which word cannot be told; run it yourself and pass regions= to "
            "fv.attach."
        )
    return dict(outputs)
