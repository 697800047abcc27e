"""The prompt: what a user makes, reads and marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import FoveateError
from ..grid import Grid
from ..pictures.layout import grid_of
from .item import Shown, Span
from .making import checked, drafts_of, shown_in, tokenized, tokenizer_of, with_pictures
from .marking import by_box, by_characters, by_text, by_tokens
from .page import drawn
from .rows import BUILT_IN, IMAGE, Rows
from .text import brief

__all__ = ["Prompt"]


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
        self.tokenizer: Any = tokenizer_of(tokenizer)
        side = padding_side or getattr(self.tokenizer, "padding_side", "left")
        if side not in ("left", "right"):
            raise FoveateError(f"padding_side={side!r}, but it is 'left' or 'right'.")
        self.padding_side: str = side

        drafts = drafts_of(
            tokenizer,
            self.tokenizer,
            text_or_messages,
            add_generation_prompt,
            system,
            template_args or {},
        )
        prepared = with_pictures(tokenizer, self.tokenizer, drafts, add_special_tokens, side)
        self._rows = Rows(tokenized(self.tokenizer, drafts, prepared, add_special_tokens), side)

        self.items: tuple[Any, ...] = ()
        self.batch_size: int = len(self._rows.items)
        self.length: int = self._rows.length
        self.inputs: dict[str, Tensor] = self._rows.inputs(self.tokenizer)
        self.pictures: tuple[Any, ...] = tuple(one for draft in drafts for one in draft.pictures)
        self._shown: list[Shown] = []
        if prepared is not None:
            self._shown = shown_in(tokenizer, prepared, self._rows)
            self.inputs = checked(prepared.outputs, self.inputs)
        self._grids: tuple[Grid, ...] | None = None
        self._regions: dict[str, Tensor] = self._rows.built_in(self._shown)

    # ------------------------------------------------------------------ reading

    @property
    def regions(self) -> dict[str, Tensor]:
        """Name → bool ``[B, S]`` in absolute (padded) token positions, false on padding."""
        return dict(self._regions)

    @property
    def texts(self) -> list[str]:
        """What was tokenized, one string an item."""
        return [item.text for item in self._rows.items]

    @property
    def text(self) -> str:
        """What was tokenized, for a prompt of one item (else :attr:`texts`)."""
        return self._rows.items[self._rows.only("text", "texts")].text

    @property
    def token_rows(self) -> list[list[str]]:
        """The tokens of each item as readable strings, ``[B][S]``; padding is ``""``.

        A token is shown as the text it covers. Where it covers none, or only a part of one
        character, it is shown as it stands in the vocabulary.
        """
        rows = []
        for number, item in enumerate(self._rows.items):
            row = [""] * self.length
            row[self._rows.slice(number)] = item.strings(self.tokenizer)
            rows.append(row)
        return rows

    @property
    def tokens(self) -> list[str]:
        """The tokens as readable strings, for a prompt of one item (else :attr:`token_rows`)."""
        return self.token_rows[self._rows.only("tokens", "token_rows")]

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
                f"There is no region {brief(name)}; there are "
                f"{', '.join(map(repr, self._regions))}. Make it with "
                f"prompt.mark({brief(name)}, 'a piece of the text')."
            )
        number = (
            self._rows.only("positions(name)", "positions(name, item=i)") if item is None else item
        )
        chosen = self._regions[name][self._rows.numbers(number)[0]]
        return chosen.nonzero().flatten().tolist()

    def to(self, device: torch.device | str) -> Prompt:
        """Move inputs and regions to a device, in place; returns the prompt."""
        self.inputs = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in self.inputs.items()
        }
        self._regions = {name: tensor.to(device) for name, tensor in self._regions.items()}
        return self

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

        marked = self._rows.nowhere()
        for number in self._rows.numbers(item):
            if text is not None:
                marked[number] = by_text(self._rows, number, text, nth)
            elif span is not None:
                marked[number] = by_characters(self._rows, number, span)
            elif tokens is not None:
                marked[number] = by_tokens(self._rows, number, tokens)
        return self._add(name, marked)

    def mark_box(
        self, name: str, box: Sequence[float], *, picture: int = 0, item: int | None = None
    ) -> Prompt:
        """Name a region: the tokens of a part of a picture.

        A token is inside if a part of its patch is (:meth:`foveate.Grid.mask`). Marking a name
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
            The box is empty or covers nothing of a patch, there is no such picture or item, the
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
        marked = self._rows.nowhere()
        for number in self._rows.numbers(item):
            marked[number] = by_box(self._rows, number, box, picture, self.grids)
        return self._add(name, marked)

    def _may_mark(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise FoveateError(f"A region's name is a non-empty str, not {brief(name)}.")
        if name in BUILT_IN or (name == IMAGE and self._shown):
            raise FoveateError(
                f"The region {name!r} is there unasked and cannot be marked; choose another name."
            )

    def _add(self, name: str, marked: Tensor) -> Prompt:
        old = self._regions.get(name)
        marked = marked.to(self.inputs["input_ids"].device)
        self._regions[name] = marked if old is None else old | marked
        return self

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
        """The tokens with their marks, for a notebook; everything of the prompt is escaped."""
        return drawn(self)
