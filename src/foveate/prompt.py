"""Tokens and regions: a prompt knows which of its tokens came from which piece of its text.

A *region* is a named set of token positions, a bool tensor ``[B, S]`` over the padded batch. Roles
and special tokens are regions unasked; :meth:`Prompt.mark` adds the user's own.

**When is a token inside?** Tokens do not end where words do: in GPT-2-style vocabularies they
carry the space before the word, in others a piece of punctuation. A token is inside a span of
characters if at least one of its characters *that is not white space* lies in the span; a token
that is nothing but white space (a line break) is inside if any of it does. So marking ``"Tarn
Point"`` takes ``" Tarn"``, and does not take ``" lighthouse"`` because of the blank in between.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from heapq import nlargest
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from .display import COLOURS, chip, folded, lines, note
from .errors import FoveateError
from .grid import Grid
from .pictures.layout import grid_of, token_ids
from .pictures.processing import Prepared, prepare
from .pictures.reading import taken

__all__ = ["BUILT_IN", "Prompt", "continued"]

_ROLES = ("system", "user", "assistant")
BUILT_IN = (*_ROLES, "special", "first", "generated")
"""Regions that every prompt has."""
IMAGE = "image"
"""The region of the pictures' tokens: of prompts with pictures."""

Message = Mapping[str, Any]
Span = tuple[int, int]


class Prompt:
    """Text or chats, with pictures where the model sees, tokenized, with named regions of tokens.

    Parameters
    ----------
    tokenizer : transformers tokenizer (fast) or a processor that holds one
        Must report character offsets, which only fast tokenizers do.
    text_or_messages : str, list of dict, list of str, or list of list of dict
        A ``str`` is raw text, tokenized as it is. A list of messages
        (``{"role": "user", "content": "..."}``; roles ``system``, ``user``, ``assistant``) is one
        chat, rendered by the tokenizer's chat template. A list of either is a batch. The content of
        a message may be a list of parts: ``{"type": "text", "text": ...}`` and, with a processor,
        ``{"type": "image", "image": picture}``: a PIL image, a uint8 array ``[H, W, 3]`` or the
        path of an image file.
    add_generation_prompt : bool
        Whether a chat ends with the header of the assistant's answer. No effect on raw text.
    system : str, optional
        A system message put before every chat. Error for raw text and for chats that have one.
    padding_side : {"left", "right"}, optional
        Default: ``tokenizer.padding_side`` (:func:`foveate.load` sets ``"left"`` where the model
        generates left to right). The tokenizer itself is not changed.
    add_special_tokens : bool, optional
        Whether the tokenizer adds its own (BOS, ``[CLS]``, ...). Default: yes for raw text, no for
        chats, whose template has written them already; with pictures, as processors do: unless the
        chat begins with the one for the beginning.
    template_args : mapping, optional
        Further arguments of the chat template, e.g. ``{"enable_thinking": False}``.

    Attributes
    ----------
    inputs : dict of str to Tensor
        ``input_ids`` and ``attention_mask``, int64 ``[B, S]``, and with pictures what the processor
        made of them (``pixel_values``, ...): goes to the model as ``**inputs``.
    texts : list of str
        What was tokenized, one string an item, templates included. Spans count in its characters.
        A picture is as many ``<image>`` (or what the model calls it) as it has tokens.
    pictures : tuple of PIL images
        All pictures, item by item in the order of the messages.
    batch_size, length : int
        ``B`` and ``S`` (tokens, padding included).
    items : tuple
        The items of a task that it was made of (:func:`foveate.tasks.prompts`), if it was.

    Raises
    ------
    FoveateError
        The prompt is empty or of none of the kinds above, a role is unknown, there is no chat
        template or it refuses the messages, the tokenizer reports no offsets, what was given for a
        picture is none, or the processor refuses it.

    Notes
    -----
    Always there in :attr:`regions`: ``system``, ``user``, ``assistant`` (the *content* of those
    messages, without their headers; a system prompt that the template adds by itself counts as
    ``system``; empty for raw text), ``special`` (special tokens), ``first`` (the first token that
    is not padding) and ``generated`` (empty here: tokens made later belong to it alone). A prompt
    with pictures has ``image`` besides: the tokens of all of them, which are then neither
    ``special`` nor ``user``. :meth:`mark_box` marks a part of a picture.

    Examples
    --------
    >>> prompt = Prompt(tokenizer, "Ann lives in Oslo. Bob lives in Rome.")    # doctest: +SKIP
    >>> prompt.mark("evidence", "Bob lives in Rome.").positions("evidence")    # doctest: +SKIP
    [5, 6, 7, 8, 9]
    """

    def __init__(
        self,
        tokenizer: Any,
        text_or_messages: str | Sequence[Any],
        *,
        add_generation_prompt: bool = True,
        system: str | None = None,
        padding_side: str | None = None,
        add_special_tokens: bool | None = None,
        template_args: Mapping[str, Any] | None = None,
    ) -> None:
        # A processor of a vision-language model holds its tokenizer.
        self.tokenizer: Any = getattr(tokenizer, "tokenizer", None) or tokenizer
        if not callable(self.tokenizer) or not hasattr(self.tokenizer, "all_special_ids"):
            raise FoveateError(
                f"Prompt got {type(tokenizer).__name__} as its tokenizer, but wants the one of the "
                "model, e.g. from fv.load(...) or transformers.AutoTokenizer."
            )
        if not getattr(self.tokenizer, "is_fast", False):
            raise FoveateError(
                f"{type(self.tokenizer).__name__} is a slow tokenizer and reports no character "
                "offsets, which regions need; load its fast version "
                "(AutoTokenizer.from_pretrained(...), or save it with a tokenizer.json)."
            )
        side = padding_side or getattr(self.tokenizer, "padding_side", "left")
        if side not in ("left", "right"):
            raise FoveateError(f"padding_side={side!r}, but it is 'left' or 'right'.")
        self.padding_side: str = side

        drafts: list[_Draft] = []
        for given in _batch(text_or_messages):
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
                self._sees(tokenizer, pictures)
                messages = _messages(given, system)
                text, roles = _render(
                    tokenizer,
                    self.tokenizer,
                    messages,
                    add_generation_prompt,
                    template_args or {},
                    pictures=bool(pictures),
                )
            drafts.append(_Draft(text, roles, pictures, isinstance(given, str)))
        prepared = self._prepared(tokenizer, drafts, add_special_tokens)
        self._items: list[_Item] = []
        for number, draft in enumerate(drafts):
            own = draft.raw if add_special_tokens is None else add_special_tokens
            text, roles = draft.text, draft.roles
            if prepared is not None:
                own, text = prepared.added, prepared.texts[number]
                roles = {
                    role: [prepared.moved(number, span) for span in spans]
                    for role, spans in roles.items()
                }
            item = _Item.tokenized(self.tokenizer, text, roles, own)
            if not text or not item.ids:
                raise FoveateError(
                    f"Item {number} of the prompt is empty; give it at least one token of text."
                )
            self._items.append(item)

        self.items: tuple[Any, ...] = ()
        self.batch_size: int = len(self._items)
        self.length: int = max(len(item.ids) for item in self._items)
        self.inputs: dict[str, Tensor] = self._padded()
        self.pictures: tuple[Any, ...] = tuple(one for draft in drafts for one in draft.pictures)
        self._shown: list[_Shown] = []
        if prepared is not None:
            self._shown = self._found(tokenizer, prepared)
            self.inputs = {**prepared.outputs, **self._checked(prepared.outputs)}
        self._grids: tuple[Grid, ...] | None = None
        self._regions: dict[str, Tensor] = self._built_in()

    # ------------------------------------------------------------------ pictures

    def _sees(self, processor: Any, pictures: Sequence[Any]) -> None:
        if pictures and getattr(processor, "image_processor", None) is None:
            raise FoveateError(
                f"The messages have pictures, but {type(processor).__name__} prepares none; give "
                "the processor of a model that sees: model, processor = fv.load('shapes-vlm')."
            )

    def _prepared(
        self, processor: Any, drafts: Sequence[_Draft], add_special_tokens: bool | None
    ) -> Prepared | None:
        """What the processor makes of a prompt with pictures; None for one without."""
        if not any(draft.pictures for draft in drafts):
            return None
        begin = self.tokenizer.bos_token
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
            padding_side=self.padding_side,
        )

    def _checked(self, outputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Ids and mask of the processor, which must be those whose characters are known."""
        ids, mask = outputs["input_ids"], outputs["attention_mask"]
        ours = self.inputs["attention_mask"].bool()
        same = ids.shape == ours.shape and torch.equal(mask.bool(), ours)
        if not same or not torch.equal(ids[ours], self.inputs["input_ids"][ours]):
            raise FoveateError(
                "The processor tokenizes this prompt otherwise than its tokenizer, so which token "
                "belongs to which word cannot be told; run it yourself and pass regions= to "
                "fv.attach."
            )
        return {"input_ids": ids, "attention_mask": mask}

    def _found(self, processor: Any, prepared: Prepared) -> list[_Shown]:
        """Where the pictures' tokens stand."""
        ids = token_ids(processor)
        found: list[_Shown] = []
        for number, item in enumerate(self._items):
            first = self._slice(number).start
            for a, b in prepared.spans[number]:
                own = [
                    i
                    for i, (token, start) in enumerate(
                        zip(item.ids, item.starts.tolist(), strict=True)
                    )
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
                found.append(_Shown(processor, number, item.text[a:b], places, starts))
        return found

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The grid of patches of each picture, in the order of :attr:`pictures`.

        Rows and columns, the picture's pixels, where its tokens stand in the padded row (``at``)
        and its item.

        Raises
        ------
        FoveateError
            The model does not put one token for each patch, or in an order that is not known.
        """
        if self._grids is None:
            self._grids = tuple(
                grid_of(
                    one.processor,
                    self.inputs,
                    number,
                    picture.size,
                    one.text,
                    one.places,
                    one.starts,
                    one.item,
                )
                for number, (one, picture) in enumerate(
                    zip(self._shown, self.pictures, strict=True)
                )
            )
        return self._grids

    def mark_box(
        self, name: str, box: Sequence[float], *, picture: int = 0, item: int | None = None
    ) -> Prompt:
        """Name a region: the tokens of a part of a picture.

        A token is inside if the centre of its patch is (:meth:`foveate.Grid.mask`). Marking a name
        again adds to it. Where a processor shows a picture twice, in tiles and as a whole, it is
        marked in both.

        Parameters
        ----------
        name : str
            The region's name; the built-in ones cannot be marked.
        box : (x0, y0, x1, y1)
            In the picture's own pixels, from its upper left corner.
        picture : int
            Which picture of the item, counted from 0 in the order of the messages.
        item : int, optional
            Only this item of the batch. Default: all, and each must have such a picture.

        Returns
        -------
        Prompt
            Itself, so that marks can be chained.

        Raises
        ------
        FoveateError
            The box is empty or holds the centre of no patch, there is no such picture or item, the
            name is taken, or where the tokens lie in the picture is not known.

        Examples
        --------
        >>> prompt.mark_box("object", (4, 4, 16, 16))              # doctest: +SKIP
        """
        self._may_mark(name)
        if not self._shown:
            raise FoveateError(
                f"mark_box({name!r}) wants a prompt with a picture; this one has none: give the "
                'processor a message with {"type": "image", "image": picture}.'
            )
        marked = torch.zeros(self.batch_size, self.length, dtype=torch.bool)
        for number in self._item_numbers(item):
            own = [grid for grid in self.grids if grid.item == number]
            whole = not isinstance(picture, bool) and isinstance(picture, int)
            if not whole or not -len(own) <= picture < len(own):
                raise FoveateError(
                    f"picture={picture!r}, but there are {len(own)} picture(s)"
                    f"{self._of(number)}, counted from 0."
                )
            grid = own[picture]
            for view in (grid, grid.overview):
                if view is not None:
                    places = torch.tensor(view.places)
                    marked[number, places[view.mask(box)]] = True
        return self._add(name, marked)

    # ------------------------------------------------------------------ building

    def _slice(self, item: int) -> slice:
        """Where an item's own tokens stand in its padded row."""
        size = len(self._items[item].ids)
        start = self.length - size if self.padding_side == "left" else 0
        return slice(start, start + size)

    def _row(self, item: int, inside: Tensor) -> Tensor:
        """A bool over an item's own tokens ``[n]``, placed in its padded row ``[S]``."""
        row = torch.zeros(self.length, dtype=torch.bool)
        row[self._slice(item)] = inside
        return row

    def _padded(self) -> dict[str, Tensor]:
        # Which id fills the gap does not matter, since the mask hides it: GPT-2 has none.
        candidates = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        filler = next(token for token in candidates if token is not None)
        ids = torch.full((self.batch_size, self.length), filler, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, item in enumerate(self._items):
            ids[number, self._slice(number)] = torch.tensor(item.ids)
            mask[number, self._slice(number)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def _built_in(self) -> dict[str, Tensor]:
        regions = {
            role: torch.stack(
                [
                    self._row(number, item.inside(item.roles.get(role, ())))
                    for number, item in enumerate(self._items)
                ]
            )
            for role in _ROLES
        }
        special = [self._row(number, item.special) for number, item in enumerate(self._items)]
        regions["special"] = torch.stack(special)
        if self._shown:
            seen = torch.zeros(self.batch_size, self.length, dtype=torch.bool)
            for shown in self._shown:
                seen[shown.item, list(shown.places)] = True
            regions["special"] &= ~seen
            regions[IMAGE] = seen
        first = torch.zeros(self.batch_size, self.length, dtype=torch.bool)
        for number in range(self.batch_size):
            first[number, self._slice(number).start] = True
        regions["first"] = first
        regions["generated"] = torch.zeros_like(first)
        return regions

    # ------------------------------------------------------------------ reading

    @property
    def regions(self) -> dict[str, Tensor]:
        """Name → bool ``[B, S]`` in absolute (padded) token positions, false on padding."""
        return dict(self._regions)

    @property
    def texts(self) -> list[str]:
        """What was tokenized, one string an item."""
        return [item.text for item in self._items]

    @property
    def text(self) -> str:
        """What was tokenized, for a prompt of one item (else :attr:`texts`)."""
        return self._items[self._only("text", "texts")].text

    @property
    def token_rows(self) -> list[list[str]]:
        """The tokens of each item as readable strings, ``[B][S]``; padding is ``""``.

        A token is shown as the text it covers. Where it covers none, or only a part of one
        character, it is shown as it stands in the vocabulary.
        """
        rows = []
        for number, item in enumerate(self._items):
            row = [""] * self.length
            row[self._slice(number)] = item.strings(self.tokenizer)
            rows.append(row)
        return rows

    @property
    def tokens(self) -> list[str]:
        """The tokens as readable strings, for a prompt of one item (else :attr:`token_rows`)."""
        return self.token_rows[self._only("tokens", "token_rows")]

    def positions(self, name: str, item: int | None = None) -> list[int]:
        """Absolute token positions of a region.

        Parameters
        ----------
        name : str
            A region: built in or marked.
        item : int, optional
            Which item of the batch; may be left out when there is one.

        Returns
        -------
        list of int
            Ascending, counted in the padded row.

        Raises
        ------
        FoveateError
            No such region or item, or ``item`` left out for a batch.
        """
        if name not in self._regions:
            raise FoveateError(
                f"There is no region {name!r}; there are {', '.join(map(repr, self._regions))}. "
                f"Make it with prompt.mark({name!r}, 'a piece of the text')."
            )
        number = self._only("positions(name)", "positions(name, item=i)") if item is None else item
        chosen = self._regions[name][self._item_numbers(number)[0]]
        return chosen.nonzero().flatten().tolist()

    def to(self, device: torch.device | str) -> Prompt:
        """Move inputs and regions to a device, in place; returns the prompt."""
        self.inputs = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in self.inputs.items()
        }
        self._regions = {name: tensor.to(device) for name, tensor in self._regions.items()}
        return self

    # ------------------------------------------------------------------ marking

    def mark(
        self,
        name: str,
        text: str | None = None,
        *,
        span: Span | None = None,
        tokens: Span | None = None,
        nth: int | None = None,
        item: int | None = None,
    ) -> Prompt:
        """Name a region of tokens, by exactly one of text, characters or tokens.

        Marking a name again adds to it. Either all that was asked for is marked, or nothing.

        Parameters
        ----------
        name : str
            The region's name; the built-in ones cannot be marked.
        text : str, optional
            A piece of the prompt's text, letter by letter: every occurrence (from left to right,
            without overlap) in every item, templates included.
        span : (int, int), optional
            Characters ``a <= c < b`` of the item's text.
        tokens : (int, int), optional
            Token positions ``i <= t < j``, absolute: counted in the padded row.
        nth : int, optional
            With ``text``: only this occurrence, counted from 0; -1 is the last.
        item : int, optional
            Only this item of the batch. Default: all, and each must have what is marked.

        Returns
        -------
        Prompt
            Itself, so that marks can be chained.

        Raises
        ------
        FoveateError
            The text does not occur (the message quotes the nearest piece), a span or a range is
            empty or reaches outside, there are fewer occurrences than ``nth``, the span covers no
            token, or the name is taken.

        Examples
        --------
        >>> prompt.mark("names", "Ann").mark("names", "Bob")       # doctest: +SKIP
        >>> prompt.mark("answer", "Rome", nth=-1)                  # doctest: +SKIP
        """
        self._may_mark(name)
        given = [key for key, value in (("text", text), ("span", span), ("tokens", tokens))
                 if value is not None]  # fmt: skip
        if len(given) != 1:
            raise FoveateError(
                f"mark({name!r}) wants exactly one of text, span=(a, b) or tokens=(i, j), but got "
                f"{' and '.join(given) or 'none'}."
            )
        if nth is not None and text is None:
            raise FoveateError(f"nth={nth!r} counts occurrences of a text; {given[0]}= has none.")

        marked = torch.zeros(self.batch_size, self.length, dtype=torch.bool)
        for number in self._item_numbers(item):
            if tokens is not None:
                marked[number] = self._marked_tokens(tokens, number)
                continue
            one = self._items[number]
            if text is not None:
                spans = self._occurrences(text, nth, number)
            else:
                spans = [_pair("span", span, len(one.text), "characters", self._of(number))]
            inside = one.inside(spans)
            if not inside.any():
                a, b = spans[0]
                raise FoveateError(
                    f"Characters {a} to {b} of the text{self._of(number)}, {one.text[a:b]!r}, "
                    "belong to no token of their own; take in the word beside them."
                )
            marked[number] = self._row(number, inside)
        return self._add(name, marked)

    def _may_mark(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise FoveateError(f"A region's name is a non-empty str, not {name!r}.")
        if name in BUILT_IN or (name == IMAGE and self._shown):
            raise FoveateError(
                f"The region {name!r} is there unasked and cannot be marked; choose another name."
            )

    def _add(self, name: str, marked: Tensor) -> Prompt:
        old = self._regions.get(name)
        marked = marked.to(self.inputs["input_ids"].device)
        self._regions[name] = marked if old is None else old | marked
        return self

    def _marked_tokens(self, tokens: Span, number: int) -> Tensor:
        i, j = _pair("tokens", tokens, self.length, "tokens", self._of(number))
        own = self._slice(number)
        if i < own.start or j > own.stop:
            raise FoveateError(
                f"tokens=({i}, {j}) reaches into the padding: the tokens{self._of(number)} stand "
                f"at {own.start} to {own.stop}. Mark one item at a time with item=."
            )
        row = torch.zeros(self.length, dtype=torch.bool)
        row[i:j] = True
        return row

    def _occurrences(self, wanted: str, nth: int | None, number: int) -> list[Span]:
        if not isinstance(wanted, str):
            raise FoveateError(
                f"mark() wants the text as a str, not {type(wanted).__name__}; use span= for "
                "characters and tokens= for tokens."
            )
        if not wanted:
            raise FoveateError("mark() got an empty text; give the piece of the prompt to mark.")
        text = self._items[number].text
        found = list(_find(text, wanted))
        if not found:
            hint = " Choose one with item=." if self.batch_size > 1 else ""
            raise FoveateError(
                f"The text {_short(wanted)!r} does not occur in the prompt{self._of(number)}; the "
                f"nearest piece is {_short(_nearest(text, wanted))!r}.{hint}"
            )
        if nth is None:
            return found
        if isinstance(nth, bool) or not isinstance(nth, int):
            raise FoveateError(f"nth={nth!r}, but it is an int: 0 is the first occurrence.")
        if not -len(found) <= nth < len(found):
            raise FoveateError(
                f"nth={nth}, but {_short(wanted)!r} occurs {len(found)} time(s){self._of(number)}: "
                f"nth is {-len(found)} to {len(found) - 1}."
            )
        return [found[nth]]

    # ------------------------------------------------------------------ small helpers

    def _only(self, singular: str, plural: str) -> int:
        if self.batch_size > 1:
            raise FoveateError(
                f"This prompt has {self.batch_size} items, and .{singular} is for one; "
                f"use .{plural}."
            )
        return 0

    def _item_numbers(self, item: int | None) -> list[int]:
        if item is None:
            return list(range(self.batch_size))
        if isinstance(item, bool) or not isinstance(item, int):
            raise FoveateError(f"item={item!r}, but it is an int: the number of an item.")
        if not -self.batch_size <= item < self.batch_size:
            raise FoveateError(
                f"item={item}, but the prompt has {self.batch_size} item(s), counted from 0."
            )
        return [item % self.batch_size]

    def _of(self, number: int) -> str:
        return f" of item {number}" if self.batch_size > 1 else ""

    def __len__(self) -> int:
        """Tokens in a row, padding included."""
        return self.length

    def __repr__(self) -> str:
        marks = ", ".join(
            f"{name}: {int(region.sum())}"
            for name, region in self._regions.items()
            if name not in BUILT_IN
        )
        return f"Prompt(batch_size={self.batch_size}, length={self.length}, marks={{{marks}}})"

    def _repr_html_(self) -> str:
        """The tokens with their marks, for a notebook; everything of the prompt is escaped.

        Long stretches without a mark are folded, and so are the items of a batch after the fourth.
        """
        marks = [name for name in self._regions if name not in BUILT_IN]
        colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(marks)}
        masks = {name: region.cpu() for name, region in self._regions.items()}
        legend = [chip(f"{name} ({int(masks[name].sum())})", colours[name]) for name in marks]
        size = f"{self.batch_size} × {self.length}" if self.batch_size > 1 else str(self.length)
        head = f"{size} tokens; hover over one for its position, id and regions"
        rows = self.token_rows
        items = [
            self._item_html(number, rows[number], masks, colours) for number in range(len(rows))
        ]
        if len(items) > 1:
            names = (
                f"item {number} · {len(one.ids)} tokens" for number, one in enumerate(self._items)
            )
            items = [
                folded(name, item, shown=number < _OPEN)
                for number, (name, item) in enumerate(zip(names, items, strict=True))
            ]
        return lines(note(head), f"<div>{''.join(legend)}</div>" if legend else "", *items)

    def _item_html(
        self, number: int, row: list[str], masks: Mapping[str, Tensor], colours: Mapping[str, str]
    ) -> str:
        own = self._slice(number)
        ids = self.inputs["input_ids"][number].tolist()
        marked = torch.zeros(self.length, dtype=torch.bool)
        names: list[list[str]] = [[] for _ in range(self.length)]
        for name, mask in masks.items():
            for position in mask[number].nonzero().flatten().tolist():
                names[position].append(name)
            if name in colours:
                marked |= mask[number]

        def token(position: int) -> str:
            inside = names[position]
            title = f"{position} · id {ids[position]} · {', '.join(inside) or '–'}"
            style = _background([colours[name] for name in inside if name in colours])
            style += "opacity:.5" if "special" in inside else ""
            shown = html.escape(row[position]).replace("\n", "↵\n")
            return f'<span style="{style}" title="{html.escape(title)}">{shown}</span>'

        parts = ['<div style="white-space:pre-wrap;overflow-wrap:anywhere;font-family:monospace;'
                 'line-height:1.8;margin:.4em 0">']  # fmt: skip
        for start, stop, hidden in _stretches(marked.tolist(), own.start, own.stop):
            body = "".join(map(token, range(start, min(stop, start + _MOST) if hidden else stop)))
            if hidden and stop - start > _MOST:
                body += f" … and {stop - start - _MOST} more, not shown"
            if hidden:
                body = (
                    '<details style="display:inline"><summary style="display:inline;cursor:pointer;'
                    f'opacity:.7"> ⋯ {stop - start} tokens ⋯ </summary>{body}</details>'
                )
            parts.append(body)
        return "".join([*parts, "</div>"])


_OPEN = 4  # items of a batch shown open
_LONG, _KEPT = 160, 40  # tokens without a mark that are folded; shown at both ends of the gap
_MOST = 2000  # tokens of one fold that go into the page


def _stretches(marked: list[bool], start: int, stop: int) -> Iterator[tuple[int, int, bool]]:
    """``(from, to, folded)``: all tokens in order; what is far from any mark is folded."""
    shown = start
    edges = [start, *(i for i in range(start, stop) if marked[i]), stop - 1]
    for before, after in pairwise(edges):
        if after - before > _LONG:
            yield shown, before + _KEPT, False
            yield before + _KEPT, after - _KEPT, True
            shown = after - _KEPT
    yield shown, stop, False


def _background(colours: list[str]) -> str:
    """One colour, or as many stripes as a token has marks."""
    if len(colours) < 2:
        return f"background:{colours[0]};" if colours else ""
    bands = [
        f"{colour} {100 * i // len(colours)}% {100 * (i + 1) // len(colours)}%"
        for i, colour in enumerate(colours)
    ]
    return f"background:linear-gradient({','.join(bands)});"


def continued(
    inputs: Mapping[str, Any], tail: Tensor, real: Tensor | None = None
) -> dict[str, Any]:
    """A prompt's inputs with text behind them, and the pictures that belong to them.

    Parameters
    ----------
    inputs : mapping
        :attr:`Prompt.inputs`.
    tail : Tensor
        Token ids ``[B, n]`` of text.
    real : Tensor, optional
        Which of them are no padding, bool ``[B, n]``; default all.
    """
    ids = inputs["input_ids"]
    tail = tail.to(ids)
    added = {"input_ids": tail, "attention_mask": torch.ones_like(tail) if real is None else real}
    longer = {}
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape == ids.shape:  # of what kind each token is
            more = added.get(name, torch.zeros_like(tail))
            value = torch.cat([value, more.to(value)], 1)
        longer[name] = value
    return longer


# --------------------------------------------------------------------------- one item


@dataclass(frozen=True)
class _Draft:
    """One item as it was given: its text, and the pictures that stand in it."""

    text: str
    roles: dict[str, list[Span]]
    pictures: list[Any]
    raw: bool


@dataclass(frozen=True)
class _Shown:
    """One picture among the tokens."""

    processor: Any
    item: int
    text: str  # what the processor put in its place
    places: tuple[int, ...]  # of its tokens in the padded row
    starts: tuple[int, ...]  # of these tokens in that text


@dataclass(frozen=True)
class _Item:
    """One text with its tokens, before padding."""

    text: str
    ids: list[int]
    starts: Tensor  # [n] first character of each token
    ends: Tensor  # [n] one past the last; equal to the start for tokens the tokenizer added
    ink: Tensor  # [chars + 1] how many characters before this one are not white space
    special: Tensor  # [n] bool
    roles: dict[str, list[Span]]  # characters of the messages' contents

    @classmethod
    def tokenized(
        cls, tokenizer: Any, text: str, roles: dict[str, list[Span]], add_special_tokens: bool
    ) -> _Item:
        encoded = tokenizer(
            text, add_special_tokens=add_special_tokens, return_offsets_mapping=True
        )
        ids = list(encoded["input_ids"])
        offsets = torch.tensor(encoded["offset_mapping"], dtype=torch.long).reshape(-1, 2)
        ink = torch.tensor([0, *accumulate(not char.isspace() for char in text)])
        special_ids, unknown = _special_ids(tokenizer), tokenizer.unk_token_id
        special = [
            # A word the tokenizer does not know is content; the same token written out is not.
            token in special_ids
            and (token != unknown or a == b or text[a:b] == tokenizer.unk_token)
            for token, (a, b) in zip(ids, offsets.tolist(), strict=True)
        ]
        starts, ends = offsets.unbind(1)
        return cls(text, ids, starts, ends, ink, torch.tensor(special, dtype=torch.bool), roles)

    def inside(self, spans: Sequence[Span]) -> Tensor:
        """Which tokens lie in any of the spans: bool ``[n]`` (rule: head of this file)."""
        inside = torch.zeros(len(self.ids), dtype=torch.bool)
        blank = self.ink[self.ends] == self.ink[self.starts]
        for a, b in spans:
            low, high = self.starts.clamp(min=a), self.ends.clamp(max=b)
            overlaps = low < high
            low, high = torch.where(overlaps, low, 0), torch.where(overlaps, high, 0)
            inside |= overlaps & (blank | (self.ink[high] > self.ink[low]))
        return inside

    def strings(self, tokenizer: Any) -> list[str]:
        pieces = tokenizer.convert_ids_to_tokens(self.ids)
        strings, done = [], 0
        for piece, a, b in zip(pieces, self.starts.tolist(), self.ends.tolist(), strict=True):
            if b <= max(a, done):  # covers nothing, or the rest of a character already shown
                strings.append(piece)
                continue
            # Some tokenizers leave the blank between two words to neither: show it with the second.
            start = done if a < done or self.text[done:a].isspace() else a
            strings.append(self.text[start:b])
            done = b
        return strings


def _special_ids(tokenizer: Any) -> set[int]:
    # Headers such as <|start_header_id|> are special tokens without being bos, eos and the like.
    added = getattr(tokenizer, "added_tokens_decoder", {})
    also = {number for number, token in added.items() if getattr(token, "special", False)}
    return set(tokenizer.all_special_ids) | also


# --------------------------------------------------------------------------- what was given


def _batch(given: Any) -> list[Any]:
    """The items of the prompt: each a str or a list of messages."""
    wanted = (
        "a str, a list of messages ({'role': ..., 'content': ...}), or a list of one of these "
        "for a batch"
    )
    if isinstance(given, str):
        if not given:
            raise FoveateError("The prompt is an empty str; give it at least one token of text.")
        return [given]
    if not isinstance(given, Sequence) or isinstance(given, (bytes, bytearray)):
        raise FoveateError(f"Prompt got {type(given).__name__}, but wants {wanted}.")
    if not given:
        raise FoveateError(f"The prompt is an empty list; Prompt wants {wanted}.")
    if all(isinstance(one, Mapping) for one in given):
        return [given]
    if all(isinstance(one, str) for one in given):
        return list(given)
    if all(isinstance(one, Sequence) and not isinstance(one, (str, bytes)) for one in given):
        return list(given)
    kinds = ", ".join(sorted({type(one).__name__ for one in given}))
    raise FoveateError(f"Prompt got a list of {kinds}, but wants {wanted}.")


def _messages(given: Any, system: str | None) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if system is not None:
        if not isinstance(system, str):
            raise FoveateError(f"system= is a str, not {type(system).__name__}.")
        if any(isinstance(one, Mapping) and one.get("role") == "system" for one in given):
            raise FoveateError("system= was given, but the chat has a system message already.")
        messages.append({"role": "system", "content": system})
    if not given:
        raise FoveateError("A chat of the prompt has no messages; give it at least one.")
    for number, one in enumerate(given):
        if not isinstance(one, Mapping) or "role" not in one or "content" not in one:
            raise FoveateError(
                f"Message {number} is {_short(repr(one))}, but a message is a dict with 'role' and "
                "'content'."
            )
        if one["role"] not in _ROLES:
            raise FoveateError(
                f"Message {number} has the role {one['role']!r}, but roles are 'system', 'user' "
                "and 'assistant'."
            )
        for text in _contents(one):
            if not isinstance(text, str):
                raise FoveateError(
                    f"Message {number} has content that is not text ({type(text).__name__}); "
                    "Prompt reads a str or a list of {'type': 'text', 'text': ...} and "
                    "{'type': 'image', 'image': picture}."
                )
        messages.append(dict(one))
    seen = any(_is_picture(part) for one in messages for part in _parts(one))
    if not seen and not any(text for one in messages for text in _contents(one)):
        raise FoveateError(
            "Every message of the chat is empty; give it at least one token of text."
        )
    return messages


def _contents(message: Message) -> list[Any]:
    """The texts of a message: one, or one for each of its parts that is no picture."""
    return [
        part.get("text") if isinstance(part, Mapping) else part
        for part in _parts(message)
        if not _is_picture(part)
    ]


def _parts(message: Message) -> list[Any]:
    content = message["content"]
    whole = isinstance(content, Sequence) and not isinstance(content, str)
    return list(content) if whole else [content]


def _is_picture(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "image"


def _pair(label: str, given: Any, size: int, unit: str, of: str) -> Span:
    whole = isinstance(given, Sequence) and len(given) == 2
    if not whole or any(isinstance(one, bool) or not isinstance(one, int) for one in given):
        raise FoveateError(f"{label}={given!r}, but it is a pair of ints (from, to).")
    a, b = given
    if not 0 <= a < b <= size:
        raise FoveateError(
            f"{label}=({a}, {b}) does not fit: there are {size} {unit}{of}, so "
            f"0 <= from < to <= {size}."
        )
    return a, b


# --------------------------------------------------------------------------- chats


def _render(
    owner: Any,
    tokenizer: Any,
    messages: list[dict[str, Any]],
    add_generation_prompt: bool,
    template_args: Mapping[str, Any],
    *,
    pictures: bool = False,
) -> tuple[str, dict[str, list[Span]]]:
    """The chat as text, and where in it the contents of each role stand.

    Searching for the contents would be wrong: "user" is also a header, two messages may be alike,
    and templates strip or add. Instead the same chat is rendered a second time with a placeholder
    for every content; what stands between the placeholders is the template's own text.
    """
    # where both have one, the processor's knows how a picture is written
    first, second = (owner, tokenizer) if pictures else (tokenizer, owner)
    source = first if getattr(first, "chat_template", None) else second
    if not getattr(source, "chat_template", None):
        raise FoveateError(
            "This tokenizer has no chat template, so it cannot render a list of messages; pass "
            "the text itself as a str, or set tokenizer.chat_template."
        )

    def render(chat: list[dict[str, Any]]) -> str:
        return source.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=add_generation_prompt, **template_args
        )

    try:
        text = render(messages)
    except Exception as error:  # jinja's own errors, and whatever a template raises by itself
        raise FoveateError(
            f"The chat template refuses these messages ({str(error) or type(error).__name__}); "
            f"their roles are {', '.join(one['role'] for one in messages)}."
        ) from error

    stem = "fvslot"
    while stem in text.lower():
        stem += "x"
    contents: list[str] = []
    roles: list[str] = []

    def emptied(message: dict[str, Any]) -> dict[str, Any]:
        """The message with a placeholder for each of its texts."""
        slots = []
        for content in _contents(message):
            slots.append(f"{stem}{len(contents)}e")
            contents.append(content)
            roles.append(message["role"])
        parts = message["content"]
        if isinstance(parts, str):
            return {**message, "content": slots[0]}
        left = iter(slots)
        filled = [part if _is_picture(part) else {**part, "text": next(left)} for part in parts]
        return {**message, "content": filled}

    hollow = [emptied(message) for message in messages]
    spans: list[tuple[int, Span]] | None = None
    default: Span | None = None
    try:
        pieces = _split(rf"{stem}(\d+)e", render(hollow))
    except Exception:
        pieces = []  # the template looks into the contents
    if pieces:
        spans = _align(text, pieces, contents)
    if spans is not None and "system" not in roles:
        default = _default_system(render, hollow, pieces[0], stem)
    if spans is None:
        spans = _search(text, contents, roles)

    found: dict[str, list[Span]] = {}
    if default is not None:
        found["system"] = [default]
    for slot, span in spans:
        found.setdefault(roles[slot], []).append(span)
    return text, found


def _split(placeholder: str, text: str) -> list[str]:
    # A template may change the letters' case, of the placeholders too.
    return re.split(placeholder, text, flags=re.IGNORECASE)


def _align(text: str, pieces: list[str], contents: list[str]) -> list[tuple[int, Span]] | None:
    """Lay the template's own text over the rendered chat: ``[(slot, span), ...]`` or None.

    ``pieces`` alternates template text and slot numbers: ``[literal, slot, literal, ...]``.
    """
    if not text.startswith(pieces[0]):
        return None
    spans, cursor = [], len(pieces[0])
    for k in range(1, len(pieces), 2):
        slot, literal, last = int(pieces[k]), pieces[k + 1], k + 2 == len(pieces)

        def fits(end: int, literal: str = literal, last: bool = last) -> bool:
            return text.startswith(literal, end) and (not last or end + len(literal) == len(text))

        content = contents[slot]
        for variant in (content, content.strip(), content.rstrip(), content.lstrip()):
            end = cursor + len(variant)
            if text.startswith(variant, cursor) and fits(end):
                break
        else:  # the template rewrote the content: it is whatever stands up to its next own text
            end = len(text) - len(literal) if last else text.find(literal, cursor)
            if not literal or end < cursor or not fits(end):
                return None
        spans.append((slot, (cursor, end)))
        cursor = end + len(literal)
    return spans


def _default_system(render: Any, hollow: list[dict[str, Any]], head: str, stem: str) -> Span | None:
    """Where the template's own system prompt stands, if it adds one.

    With a system message of ours the chat begins ``before + ours + after``; without, it begins
    with ``head``. If that is ``before + something + after``, the something is the default.
    """
    try:
        with_ours = render([{"role": "system", "content": f"{stem}se"}, *hollow])
    except Exception:
        return None  # this template knows no system messages
    pieces = _split(rf"{stem}(s|\d+)e", with_ours)
    if len(pieces) < 5 or pieces[1].lower() != "s":
        return None
    before, after = pieces[0], pieces[2]
    a, b = len(before), len(head) - len(after)
    if a < b and head.startswith(before) and head.endswith(after):
        return a, b
    return None


def _search(text: str, contents: list[str], roles: list[str]) -> list[tuple[int, Span]]:
    """The contents one after the other, for templates that cannot be rendered hollow."""
    spans, cursor = [], 0
    for slot, content in enumerate(contents):
        wanted = content.strip()
        if not wanted:
            continue
        start = text.find(wanted, cursor)
        if start < 0:
            raise FoveateError(
                f"The chat template changes the {roles[slot]} message {_short(content)!r} so that "
                "its tokens cannot be told; render the chat yourself and pass it as a str with "
                "add_special_tokens=False."
            )
        cursor = start + len(wanted)
        spans.append((slot, (start, cursor)))
    return spans


# --------------------------------------------------------------------------- finding text


def _find(text: str, wanted: str) -> Iterator[Span]:
    start = text.find(wanted)
    while start >= 0:
        yield start, start + len(wanted)
        start = text.find(wanted, start + len(wanted))


def _nearest(text: str, wanted: str) -> str:
    """The piece of the text most like the wanted one, cut at words.

    Windows of the wanted length are ranked by the three-letter groups they share with it (one
    running sum over the text), and only the best few are compared properly.
    """
    hay, needle = _lowered(text), _lowered(wanted)[:300]
    width = min(len(needle), len(hay))
    group = min(3, width)
    groups = {needle[i : i + group] for i in range(len(needle) - group + 1)}
    hits = [0, *accumulate(hay[i : i + group] in groups for i in range(len(hay)))]

    def shared(start: int) -> int:
        return hits[start + width - group + 1] - hits[start]

    # The best start of every half width: else all candidates would be neighbours of one.
    last = len(hay) - width + 1
    step = max(width // 2, 1)
    starts = [max(range(i, min(i + step, last)), key=shared) for i in range(0, last, step)]
    best = nlargest(16, starts, key=shared)
    matcher = SequenceMatcher(None, autojunk=False)
    matcher.set_seq2(needle)  # the cached side

    def likeness(start: int) -> float:
        matcher.set_seq1(hay[start : start + width])
        return matcher.ratio()

    start = max(best, key=likeness)
    end = start + width
    while start > 0 and not text[start - 1].isspace() and not text[start].isspace():
        start -= 1
    while end < len(text) and not text[end].isspace() and not text[end - 1].isspace():
        end += 1
    return text[start:end].strip()


def _lowered(text: str) -> str:
    """Lower case, character by character, so that positions stay what they are."""
    return "".join(low if len(low := char.lower()) == 1 else char for char in text)


def _short(text: str, width: int = 160) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
