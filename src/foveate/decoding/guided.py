"""Guided decoding: of several sampled chunks the best grounded one is kept (Chuang et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from .._implements import implements
from ..errors import FoveateError
from ..find.lookback import Lookback, LookbackLens
from ..prompt import Prompt
from ._decoder import Decoded, Decoder, length_of
from ._sampling import Sampling, generator_of
from ._stream import Stream, stops_of

__all__ = ["LookbackGuided"]


@implements("lookback-lens", basis="paper")
@dataclass(eq=False)
class LookbackGuided(Decoder):
    """Sample several chunks, keep the one that a lookback lens finds best grounded, go on from it.

    Parameters
    ----------
    lens : LookbackLens, or what ``LookbackLens.load`` takes
    candidates : int
        Chunks sampled at each turn; 1 is plain sampling.
    chunk : int
        Tokens of a chunk.
    sampling : Sampling
        Default: temperature 0.9, top-p 0.95, as in the official code. It must not be greedy.

    Raises
    ------
    FoveateError
        For settings out of range, and a lens of another model's size.

    Notes
    -----
    A token costs a forward with ``candidates`` rows for each item, and three masses a head. Source:
    arXiv 2407.07071 and the official code (voidism/Lookback-Lens): 8 candidates of 8 tokens, the
    mean lookback ratio over a chunk's tokens, the first of equals. That code samples one candidate
    after the other and drops what does not fill a last chunk; here they run as one batch and the
    last chunk may be shorter.

    Examples
    --------
    >>> import foveate as fv
    >>> model, tokenizer = fv.load("smollm2")
    >>> items = fv.tasks.Unanswerable(n=2, seed=7, allow=False).items(tokenizer)
    >>> decoder = fv.decoding.LookbackGuided("smollm2", candidates=4, seed=1)
    >>> decoder.generate(model, tokenizer, items, max_new_tokens=16)
    """

    lens: LookbackLens | str | Path
    candidates: int = 8
    chunk: int = 8
    sampling: Sampling = field(
        default_factory=lambda: Sampling(temperature=0.9, top_p=0.95), kw_only=True
    )
    batch_size: int = field(default=4, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.lens, LookbackLens):
            self.lens = LookbackLens.load(self.lens)
        for name in ("candidates", "chunk"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise FoveateError(f"{name}={value!r} was given; a whole number from 1 was wanted.")
        if self.candidates > 1 and not self.sampling.temperature:
            raise FoveateError(
                "Greedy sampling makes all candidates alike; give a temperature above 0: "
                "sampling=Sampling(temperature=0.9)."
            )

    def decode(
        self,
        model: Any,
        prompt: Prompt | Sequence[Prompt],
        max_new_tokens: int = 32,
        *,
        generator: Generator | None = None,
    ) -> Decoded:
        """Decode one prompt (a batch)."""
        asked = prompt if isinstance(prompt, Prompt) else prompt[0]
        generator = generator or generator_of(self.seed, model.device)
        search = _Search(self, model, asked, generator)
        search.read()
        left = length_of(max_new_tokens)
        with search.stream:
            search.begin()
            while left:
                search.turn(min(self.chunk, left))
                left -= min(self.chunk, left)
                if not left or not bool(search.going.any()):
                    break
                search.go_on()
        return Decoded(search.said, search.values)


class _Search:
    """One prompt's search, chunk by chunk."""

    def __init__(
        self, guided: LookbackGuided, model: Any, prompt: Prompt, generator: Generator
    ) -> None:
        assert isinstance(guided.lens, LookbackLens)
        self.sampling, self.count, self.generator = guided.sampling, guided.candidates, generator
        self.lens = guided.lens.check(model)
        self.look: Lookback | None = None
        self.stream = Stream(model, prompt)
        if self.count > 1:  # one candidate needs no judge: the model is left as it is
            self.look = Lookback(prompt, self.lens.region)
            self.stream = Stream(model, prompt, [self.look.method], self.look.regions)
        stops, self.pad = stops_of(model, guided.stop)
        self.ends = torch.tensor(sorted(stops), device=model.device)
        self.said = prompt.inputs["input_ids"][:, :0]
        self.values = self.said.float()
        self.going = torch.ones(len(self.said), dtype=torch.bool, device=self.said.device)
        self.inputs = prompt.inputs["input_ids"], prompt.inputs["attention_mask"]

    def read(self) -> None:
        """Read the prompt but its last token, which alone is measured."""
        ids, mask = self.inputs
        if self.look is not None and ids.shape[1] > 1:
            self.stream.read(ids[:, :-1], mask[:, :-1])
            self.inputs = ids[:, -1:], mask[:, -1:]

    def begin(self) -> None:
        """What the prompt leaves to be said."""
        self.logits = self.stream.feed(*self.inputs)
        self.ratios = self._ratios(0)

    def go_on(self) -> None:
        """Read the last token of the chunk that was kept."""
        self.logits = self.stream.feed(self.said[:, -1:])
        self.ratios = self._ratios(self.said.shape[1])

    def turn(self, size: int) -> None:
        """Sample chunks of at most ``size`` tokens, keep the best of each item."""
        items, n = len(self.said), self.count
        self.stream.repeat(n)
        logits, ratios = self.logits.repeat_interleave(n, 0), self.ratios.repeat_interleave(n, 0)
        alive = self.going.repeat_interleave(n)
        said = self.said.repeat_interleave(n, 0)[:, :0]
        values = said.float()
        total, tokens = torch.zeros_like(ratios), torch.zeros(len(said), 1, 1, device=said.device)
        for number in range(size):
            if number:
                logits = self.stream.feed(said[:, -1:])
                ratios = self._ratios(self.said.shape[1] + number)
            chosen = self.sampling.choose(logits, self.generator)
            chosen = torch.where(alive, chosen, self.pad)
            value = logits.log_softmax(-1).gather(-1, chosen[:, None])
            values = torch.cat([values, torch.where(alive[:, None], value, 0.0)], 1)
            said = torch.cat([said, chosen[:, None]], 1)
            total = total + ratios * alive[:, None, None]
            tokens = tokens + alive[:, None, None]
            alive = alive & ~torch.isin(chosen, self.ends)
            if not bool(alive.any()):
                break
        best = torch.zeros(items, dtype=torch.long, device=said.device)
        if n > 1:
            scores = self.lens.score(total / tokens.clamp(min=1))
            best = scores.view(items, n).argmax(1)  # the first of equals
        rows = torch.arange(items, device=said.device) * n + best
        if n > 1:
            self.stream.select(rows)
        self.said = torch.cat([self.said, said[rows]], 1)
        self.values = torch.cat([self.values, values[rows]], 1)
        self.going = alive[rows]

    def _ratios(self, said: int) -> Tensor:
        """Of the last query fed, ``[B, L, H]``; nothing where nothing is judged."""
        if self.look is None or self.stream.run is None:
            return torch.zeros(self.stream.mask.shape[0], 1, 1, device=self.said.device)
        return self.look.ratios(self.stream.run.results, said)[..., -1].transpose(0, 1)
