"""One view at work: its attachment, its cache of keys and values, its mask."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ..attach import Run
from ..attach.attachment import Attachment
from ..errors import FoveateError
from ..prompt import Prompt

__all__ = ["Stream", "last_query", "stops_of"]


class _Turns(Attachment):
    """An attachment that is entered once a turn and keeps its time in between.

    Views of one model take turns: each is attached for its own forwards only. Entering again costs
    less than attaching anew, and the session goes on counting steps.
    """

    def __init__(self, model: Any, methods: Sequence[Any], prompt: Prompt, regions: Any) -> None:
        super().__init__(model, methods, prompt, regions)
        self._whose = model

    def __enter__(self) -> Run:
        self._model = self._whose
        return super().__enter__()


class Stream:
    """Feed tokens to a model under some methods; keep what it has seen.

    Parameters
    ----------
    model : torch.nn.Module
        A decoder-only language model.
    prompt : Prompt
        Left-padded, if its rows differ in length.
    methods : sequence
        As in :func:`foveate.attach`; none means that the model is not touched.
    regions : mapping of str to Tensor, optional
        Further regions, bool ``[B, S]``.

    Attributes
    ----------
    run : Run or None
        ``run.results`` holds the measures of the last forward alone.
    """

    def __init__(
        self, model: Any, prompt: Prompt, methods: Sequence[Any] = (), regions: Any = None
    ) -> None:
        _check(model, prompt)
        self.prompt = prompt
        self.model = model
        self.cache: Any = None
        self.mask: Tensor = prompt.inputs["attention_mask"][:, :0]
        self.run: Run | None = None
        self._turns = _Turns(model, methods, prompt, regions) if methods else None
        self._held = False
        self._takes = set(inspect.signature(model.forward).parameters)

    # -- attaching ---------------------------------------------------------------------------------
    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._turns is None or self._held:
            yield
            return
        with self._turns as run:
            self.run = run
            yield

    def __enter__(self) -> Stream:
        """Stay attached until exit: for the only view of a model."""
        if self._turns is not None:
            self.run = self._turns.__enter__()
        self._held = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held = False
        if self._turns is not None:
            self._turns.__exit__(kind, error, trace)

    # -- tokens ------------------------------------------------------------------------------------
    def feed(self, ids: Tensor, real: Tensor | None = None) -> Tensor:
        """Logits float32 ``[B, V]`` behind the last of the tokens ``[B, n]``.

        ``real`` is the tokens' attention mask ``[B, n]``; default all ones.
        """
        return self.feed_all(ids, real, last=1)[:, -1]

    def feed_all(self, ids: Tensor, real: Tensor | None = None, last: int = 0) -> Tensor:
        """Logits float32 ``[B, n, V]``, or ``[B, last, V]`` of the last tokens."""
        real = torch.ones_like(ids) if real is None else real
        mask = torch.cat([self.mask, real.to(self.mask)], dim=1)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": True}
        if self.cache is not None:
            inputs["past_key_values"] = self.cache
        else:  # pictures go in once, with the tokens that stand for them
            inputs |= _beside(self.prompt, ids.shape[1])
        if "position_ids" in self._takes:  # of a padded row the first real token is at 0
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = last
        with torch.no_grad(), self._turn():
            if self.run is not None:
                self.run.results.clear()
            output = self.model(**inputs)
        self.cache, self.mask = output.past_key_values, mask
        return output.logits[:, -last:].float()

    def read(self, ids: Tensor, real: Tensor) -> None:
        """Take in tokens ``[B, n]`` without the methods; before the stream is held."""
        plain = Stream(self.model, self.prompt)
        plain.cache, plain.mask = self.cache, self.mask
        plain.feed(ids, real)
        self.cache, self.mask = plain.cache, plain.mask

    def follow(self, other: Stream) -> None:
        """Take a copy of what another stream has seen."""
        self.cache, self.mask = copy.deepcopy(other.cache), other.mask

    def repeat(self, times: int) -> None:
        """Every row ``times`` times, neighbours alike."""
        if times > 1:
            self.cache.batch_repeat_interleave(times)
            self.mask = self.mask.repeat_interleave(times, dim=0)

    def select(self, rows: Tensor) -> None:
        """Keep these rows."""
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]

    def measure(self, key: str) -> Tensor:
        """A measure at the last query fed: ``[L, B, H]``, ``[L, B, H, Sk]`` for ``rows``."""
        if self.run is None:
            raise FoveateError(
                f"{key!r} was asked of a view without methods: give it fv.Measure(…)."
            )
        return last_query(self.run, key)


def _beside(prompt: Prompt, length: int) -> dict[str, Any]:
    """What goes to the model beside ids and mask, cut to the first tokens where it is one a token.

    Pictures whose tokens stand further behind cannot be cut, and are not asked for.
    """
    ids = prompt.inputs["input_ids"]
    return {
        name: value[:, :length] if value.shape == ids.shape else value
        for name, value in prompt.inputs.items()
        if name not in ("input_ids", "attention_mask")
    }


def last_query(run: Run, key: str) -> Tensor:
    """A measure at the last query of the last forward."""
    series = run.results[key]
    for value in (series.decode, series.prefill):
        if value.shape[3]:
            return value[:, :, :, -1]
    raise FoveateError(f"Nothing was recorded for {key!r} in the last forward.")


def stops_of(model: Any, further: Sequence[int] = ()) -> tuple[set[int], int]:
    """The ids that end a reply, and the one that fills finished rows."""
    settings = getattr(model, "generation_config", None)
    ends = getattr(settings, "eos_token_id", None)
    if ends is None:
        ends = getattr(model.config, "eos_token_id", None)
    ends = [ends] if isinstance(ends, int) else list(ends or ())
    stops = {*ends, *further}
    pad = getattr(settings, "pad_token_id", None)
    return stops, pad if pad is not None else next(iter(ends), 0)


def _check(model: Any, prompt: Any) -> None:
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise FoveateError(
            f"{type(model).__name__} is an encoder–decoder; decoding from views takes a "
            "decoder-only language model."
        )
    if not isinstance(prompt, Prompt):
        raise FoveateError(
            f"A prompt was wanted, {type(prompt).__name__} was given: fv.Prompt(tokenizer, text)."
        )
    if not bool(prompt.inputs["attention_mask"][:, -1].all()):
        raise FoveateError(
            "The prompt is padded on the right, behind which nothing can be generated: make it "
            'with padding_side="left".'
        )
