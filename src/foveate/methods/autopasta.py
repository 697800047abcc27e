"""AutoPASTA: the model says which sentence matters, and is made to look at it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from .._implements import implements
from ..errors import FoveateError
from ..find.key_sentence import ASK, Encoder, Reading, asked, attended, likely
from ..prompt import Prompt
from ..tasks._task import Item, answer, prompts
from .pasta import PASTA

__all__ = ["AutoPASTA"]

REGION = "key"


@implements("autopasta", basis="abstract")
class AutoPASTA:
    """Two calls: the model names the key sentence of a context, then answers steered towards it.

    Parameters
    ----------
    heads : sequence of (layer, head), or dict layer -> sequence of int
        Where to steer: :func:`foveate.find.profiling.profile_heads` finds them. None is all heads.
    delta : float
        Taken off the scores of all other tokens of the prompt; ``log 100`` in the paper, that is
        PASTA with ``alpha = exp(-delta)``. 0 changes nothing.
    by : {"ask", "likelihood", "attention"}
        How the sentence is found. ``"ask"``, the paper's: the model is prompted for it, and its
        reply mapped to the nearest sentence. For models too small to be asked, two that take the
        sentence from inside: ``"likelihood"``, the one behind which the model finds the question
        most likely; ``"attention"``, the one that the question's tokens look at most at ``heads``
        (one unsteered forward).
    unit : {"sentence", "passage"}
        What is chosen among: sentences, as in the paper, or lines where the context has several.
    ask : str
        The question of the first call, with ``{context}`` and ``{question}``.
    encoder : callable, optional
        A sentence encoder for the mapping: texts to vectors ``[n, d]``. Default: a cosine of
        three-letter groups, of foveate's own.
    batch_size : int

    Raises
    ------
    FoveateError
        For what is out of range, and ``by="attention"`` without heads.

    Notes
    -----
    Zhang et al., "Model Tells Itself Where to Attend" (arXiv 2409.10790). Its code is not public;
    this rests on the abstract and on what others report of the paper (the bias, ``delta = log
    100``, the search from layers to heads, one key sentence a passage), and on the paper and code
    of PASTA, its second call. Our own: the wording of ``ask``, the mapping without an encoder,
    ``by="likelihood"`` and ``by="attention"``, ``unit="passage"``.

    Examples
    --------
    >>> import foveate as fv
    >>> model, tokenizer = fv.load("smollm2")
    >>> context = "The lighthouse on Gull Rock was built in 1902. Tarn Point followed in 1877."
    >>> question = "In which year was the lighthouse on Tarn Point built?"
    >>> auto = fv.AutoPASTA([(17, 3), (18, 6), (23, 2)], by="likelihood")
    >>> prompt = auto.choose(model, tokenizer, context, question)
    >>> with fv.attach(model, auto.steer, prompt=prompt):
    ...     ids = model.generate(**prompt.inputs, max_new_tokens=16)
    >>> print(tokenizer.decode(ids[0, prompt.inputs["input_ids"].shape[1] :]))
    """

    def __init__(
        self,
        heads: Any = None,
        delta: float = math.log(100),
        *,
        by: str = "ask",
        unit: str = "sentence",
        ask: str = ASK,
        encoder: Encoder | None = None,
        batch_size: int = 8,
    ) -> None:
        if isinstance(delta, bool) or not isinstance(delta, int | float) or not delta >= 0:
            raise FoveateError(f"delta={delta!r} was given; a number of at least 0 was wanted.")
        if math.exp(-delta) == 0:
            raise FoveateError(f"delta={delta!r} leaves nothing of the rest; log(100) is usual.")
        if by not in ("ask", "likelihood", "attention"):
            raise FoveateError(f'by={by!r} was given; "ask", "likelihood" or "attention".')
        if unit not in ("sentence", "passage"):
            raise FoveateError(f'unit={unit!r} was given; it is "sentence" or "passage".')
        if by == "attention" and heads is None:
            raise FoveateError(
                'by="attention" reads the heads that steer; give heads=profile_heads(…).top(k).'
            )
        self.heads = heads
        self.delta = float(delta)
        self.by = by
        self.unit = unit
        self.ask = ask
        self.encoder = encoder
        self.batch_size = batch_size
        self.steer = PASTA(REGION, math.exp(-self.delta), heads=heads)

    def choose(
        self,
        model: nn.Module,
        tokenizer: Any,
        contexts: str | Sequence[str],
        questions: str | Sequence[str] | None = None,
    ) -> Prompt:
        """The first call: a prompt with the key sentence marked ``"key"``, for :attr:`steer`.

        Parameters
        ----------
        contexts, questions : str or sequence of str
            As many of the one as of the other. Without ``questions`` each text holds both, the
            question last (:meth:`foveate.find.key_sentence.Reading.of`).

        Returns
        -------
        Prompt
            One user message an item: the context, an empty line, the question.
        """
        texts = [contexts] if isinstance(contexts, str) else list(contexts)
        asks = [questions] if isinstance(questions, str) else questions
        if asks is None:
            items = [Item(f"item-{i}", text, "") for i, text in enumerate(texts)]
        elif len(asks) != len(texts):
            raise FoveateError(f"{len(texts)} contexts and {len(asks)} questions were given.")
        else:
            items = []
            for i, (text, question) in enumerate(zip(texts, asks, strict=True)):
                start = len(text) + 2
                marks = {"context": (0, len(text)), "question": (start, start + len(question))}
                items.append(Item(f"item-{i}", f"{text}\n\n{question}", "", marks))
        if not items:
            raise FoveateError("choose was given no context.")
        ((_, prompt),) = prompts(self.mark(model, tokenizer, items), tokenizer, len(items))
        return prompt

    def mark(self, model: nn.Module, tokenizer: Any, items: Sequence[Item]) -> list[Item]:
        """The first call on items of a task: each with its key sentence marked ``"key"``."""
        readings = [Reading.of(item, self.unit) for item in items]
        if self.by == "ask":
            scores = asked(
                model,
                tokenizer,
                readings,
                ask=self.ask,
                encoder=self.encoder,
                batch_size=self.batch_size,
            )
        elif self.by == "likelihood":
            scores = likely(model, tokenizer, readings, batch_size=self.batch_size)
        else:
            scores = attended(
                model, tokenizer, readings, heads=self.heads, batch_size=self.batch_size
            )
        return [
            one.mark(**{REGION: one.pieces[int(score.argmax())]})
            for one, score in zip(readings, scores, strict=True)
        ]

    def generate(
        self,
        model: nn.Module,
        tokenizer: Any,
        items: Sequence[Item],
        max_new_tokens: int = 16,
        progress: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Both calls: greedy replies to items of a task, steered."""
        return answer(
            model,
            tokenizer,
            self.mark(model, tokenizer, items),
            [self.steer],
            batch_size=self.batch_size,
            max_new_tokens=max_new_tokens,
            progress=progress,
        )

    def __repr__(self) -> str:
        return (
            f"AutoPASTA(heads={self.heads!r}, delta={self.delta:.4g}, by={self.by!r}, "
            f"unit={self.unit!r})"
        )
