"""Decode from several views of one model: their distributions are combined token by token.

A *view* is the model under some methods. Every view keeps its own cache; at each step all of them
are asked for the next token, and a rule makes one distribution of their answers. Contrastive
decoding, context-aware decoding and decoding by what was measured of the step are such rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from ..attach import Run
from ..errors import FoveateError
from ..prompt import Prompt
from ..tasks._task import Item, _raw
from ._decoder import Decoded, Decoder, length_of
from ._sampling import Sampling, generator_of
from ._stream import Stream, last_query, stops_of

__all__ = ["Decoded", "Sampling", "Step", "View", "ViewDecoder"]


class View:
    """One view of a model.

    Parameters
    ----------
    *methods
        What is attached, as in :func:`foveate.attach`; none is the model as it is. A method may
        edit attention, hidden states or position embeddings, or only measure.
    item : callable, optional
        ``Item -> Item``: what this view is asked instead (a prompt without its passage, say).
    since : {"prompt", "answer"}
        From where the methods act: from the first token on, or from the last token of the prompt
        on, which chooses the first token of the answer. Views since the answer share the prefill.

    Raises
    ------
    FoveateError
        For another ``since``, or ``since="answer"`` together with ``item=``.
    """

    def __init__(
        self,
        *methods: Any,
        item: Callable[[Item], Item] | None = None,
        since: Literal["prompt", "answer"] = "prompt",
    ) -> None:
        if since not in ("prompt", "answer"):
            raise FoveateError(f'since={since!r} was given; it is "prompt" or "answer".')
        if item is not None and since == "answer":
            raise FoveateError(
                'A view with item= has a prompt of its own, so since="answer" has nothing to share.'
            )
        self.methods, self.item, self.since = methods, item, since

    def __repr__(self) -> str:
        parts = [repr(method) for method in self.methods]
        parts += ["item=…"] * (self.item is not None)
        parts += ["since='answer'"] * (self.since == "answer")
        return f"View({', '.join(parts)})"


@dataclass(eq=False)
class Step:
    """What the views say of the next token: what a rule is given.

    Attributes
    ----------
    logits : tuple of Tensor
        One float32 ``[B, V]`` a view.
    number : int
        0 chooses the first token of the answer.
    prompts : tuple of Prompt
    runs : tuple of Run or None
        None for a view without methods.
    said : Tensor
        The tokens chosen so far, ``[B, number]``.
    """

    logits: tuple[Tensor, ...]
    number: int
    prompts: tuple[Prompt, ...]
    runs: tuple[Run | None, ...]
    said: Tensor

    @property
    def log_probs(self) -> tuple[Tensor, ...]:
        """One ``[B, V]`` a view."""
        return tuple(one.log_softmax(-1) for one in self.logits)

    def measure(self, key: str, view: int = 0) -> Tensor:
        """A measure at the query that chooses this token: ``[L, B, H]`` (``rows``: and ``Sk``)."""
        run = self.runs[view]
        if run is None:
            raise FoveateError(f"View {view} has no methods, so {key!r} was not measured in it.")
        return last_query(run, key)


def first(step: Step) -> Tensor:
    """The rule that takes the first view's word."""
    return step.logits[0]


@dataclass(eq=False, kw_only=True)
class ViewDecoder(Decoder):
    """Decode by a rule over views of one model.

    With one view and the default rule this is the model's own decoding under the view's methods.

    Parameters
    ----------
    views : sequence of View
    combine : callable
        ``Step -> Tensor [B, V]``: log-probabilities of the next token, up to a constant a row.
    sampling, seed, stop, batch_size
        As in every decoder (:class:`~foveate.decoding._decoder.Decoder`).

    Raises
    ------
    FoveateError
        For what is no view, rule, sampling or seed.

    Notes
    -----
    A step costs one forward a view. Where there are several, each is attached for its own forwards
    only; on the embedded model that costs about 2 ms a forward of 35.
    """

    views: Sequence[View] = (View(),)
    combine: Callable[[Step], Tensor] = first

    def __post_init__(self) -> None:
        super().__post_init__()
        views = list(self.views) if isinstance(self.views, Sequence) else [self.views]
        if not views or not all(isinstance(view, View) for view in views):
            raise FoveateError(
                f"views={self.views!r} was given; one or more View(…) objects were wanted."
            )
        if not callable(self.combine):
            raise FoveateError(
                f"combine={self.combine!r} was given; a function of a Step was wanted."
            )

    def score(
        self,
        model: Any,
        tokenizer: Any,
        items: Sequence[Item],
        answers: Sequence[str] | None = None,
    ) -> Tensor:
        """Log-probability of each item's answer under the combined distribution, float32 ``[n]``.

        Parameters
        ----------
        answers : sequence of str, optional
            Other answers than the items' own, one an item.
        """
        said = [item.answer for item in items] if answers is None else list(answers)
        if len(said) != len(items):
            raise FoveateError(f"{len(said)} answers were given for {len(items)} items.")
        scores: list[Tensor] = []
        for asked in self._prompts(tokenizer, items, model.device):
            here = said[len(scores) : len(scores) + asked[0].batch_size]
            lead = [" " if _raw(i, tokenizer) else "" for i in items[len(scores) :][: len(here)]]
            words = asked[0].tokenizer  # of a processor, the one it holds
            rows = [
                words(space + text, add_special_tokens=False)["input_ids"]
                for space, text in zip(lead, here, strict=True)
            ]
            forced = torch.full((len(rows), max(map(len, rows))), -1, device=model.device)
            for row, ids in enumerate(rows):
                forced[row, : len(ids)] = torch.tensor(ids, device=model.device)
            scores += list(self.decode(model, asked, forced=forced).log_probs.sum(-1))
        return torch.stack(scores)

    def decode(
        self,
        model: Any,
        prompt: Prompt | Sequence[Prompt],
        max_new_tokens: int = 32,
        *,
        forced: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Decoded:
        """Decode one prompt (a batch), or one prompt a view.

        Parameters
        ----------
        forced : Tensor, optional
            Token ids ``[B, n]`` to be said instead of chosen ones, -1 behind the end of a row:
            for the log-probabilities of a given text.
        """
        asked = [prompt] * len(self.views) if isinstance(prompt, Prompt) else list(prompt)
        if len(asked) != len(self.views):
            raise FoveateError(f"{len(asked)} prompts were given for {len(self.views)} views.")
        steps = forced.shape[1] if forced is not None else length_of(max_new_tokens)
        generator = generator or generator_of(self.seed, model.device)
        stops, pad = stops_of(model, self.stop)
        ends = torch.tensor(sorted(stops), device=model.device)
        said = asked[0].inputs["input_ids"][:, :0].to(model.device)
        values = said.float()
        going = torch.ones(said.shape[0], dtype=torch.bool, device=said.device)
        with ExitStack() as stack:
            streams, logits = self._begin(model, asked, stack)
            for number in range(steps):
                if number:
                    logits = [stream.feed(said[:, -1:]) for stream in streams]
                runs = tuple(stream.run for stream in streams)
                scores = self.combine(Step(tuple(logits), number, tuple(asked), runs, said))
                if forced is None:
                    chosen = self.sampling.choose(scores, generator)
                else:
                    chosen = forced[:, number]
                    going = chosen >= 0
                chosen = torch.where(going, chosen, pad)
                value = scores.log_softmax(-1).gather(-1, chosen[:, None])
                values = torch.cat([values, torch.where(going[:, None], value, 0.0)], dim=1)
                said = torch.cat([said, chosen[:, None]], dim=1)
                if forced is None:
                    going = going & ~torch.isin(chosen, ends)
                    if not bool(going.any()):
                        break
        return Decoded(said, values)

    def _begin(
        self, model: Any, asked: Sequence[Prompt], stack: ExitStack
    ) -> tuple[list[Stream], list[Tensor]]:
        """The streams behind their prompts, and what they say of the first token."""
        streams = [
            Stream(model, p, view.methods) for view, p in zip(self.views, asked, strict=True)
        ]
        late = {id(p) for view, p in zip(self.views, asked, strict=True) if view.since == "answer"}
        shared: dict[int, Stream] = {}
        logits = []
        for view, stream in zip(self.views, streams, strict=True):
            ids, mask = (stream.prompt.inputs[name] for name in ("input_ids", "attention_mask"))
            shares = view.since == "answer" or (not view.methods and id(stream.prompt) in late)
            if shares and ids.shape[1] > 1:
                if id(stream.prompt) not in shared:
                    plain = shared[id(stream.prompt)] = Stream(model, stream.prompt)
                    plain.feed(ids[:, :-1], mask[:, :-1])
                stream.follow(shared[id(stream.prompt)])
                ids, mask = ids[:, -1:], mask[:, -1:]
            logits.append(stream.feed(ids, mask))
        if len(streams) == 1:  # nobody takes turns with it
            stack.enter_context(streams[0])
        return streams, logits

    def _ways(self) -> Sequence[Callable[[Item], Item] | None]:
        return [view.item for view in self.views]
