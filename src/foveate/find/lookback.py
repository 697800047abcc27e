"""Lookback Lens: does a reply look back at its context, or at itself? (Chuang et al. 2024)"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._implements import implements
from ..adapters.sites import sites
from ..decoding._stream import Stream
from ..engine.measures import mass
from ..errors import FoveateError
from ..methods.measure import Measure
from ..prompt import Prompt
from ..results import Results
from ..tasks._task import Item, prompts
from ._artefact import keep, kept
from ._model import ModelId

__all__ = ["LookbackLens", "Lookback", "lookback_ratios"]

_FORMAT = "foveate lookback lens, version 1"
_DATA = Path(__file__).parent / "data"


class Lookback:
    """The lookback ratio of each head at each query.

    The mean attention on a token of the context, over that mean plus the mean attention on a token
    said since: 0.5 where both get alike, whatever their numbers; 1 where all goes to the context.

    Parameters
    ----------
    prompt : Prompt
    region : str, optional
        The context; default: all of the prompt but its *tail*.

    Attributes
    ----------
    regions : dict of str to Tensor
        For ``attach(regions=…)``.
    method : Measure
        Three masses: cheap in a prefill and in decode, no row of the matrix is kept.

    Notes
    -----
    The tail are the tokens behind the last user message of a chat (the header of the answer), else
    the last token. It counts as said, as in the official code (the "#Answer#:" of its prompts): so
    the first token of a reply has something of its own to look at.
    """

    def __init__(self, prompt: Prompt, region: str | None = None) -> None:
        real = prompt.inputs["attention_mask"].bool()
        user = prompt.regions["user"]
        position = torch.arange(real.shape[1], device=real.device)
        last_user = torch.where(user, position, -1).max(1).values
        end = torch.where(user.any(1), last_user, real.shape[1] - 2).clamp(max=real.shape[1] - 2)
        tail = real & (position[None] > end[:, None])
        if region is None:
            context = real & ~tail
        elif region in prompt.regions:
            context = prompt.regions[region] & ~tail
        else:
            there = ", ".join(map(repr, prompt.regions))
            raise FoveateError(
                f"region={region!r} was given as the context; the prompt has {there}: mark it with "
                f"prompt.mark({region!r}, …)."
            )
        if not bool(context.any(1).all()):
            raise FoveateError(
                "A row of the prompt has no token of context to look back at: give it one, or mark "
                "another region."
            )
        self.regions = {"lookback:context": context, "lookback:tail": tail}
        self.method = Measure(*(mass(name) for name in (*self.regions, "generated")))
        self._counts = context.sum(1), tail.sum(1)

    def ratios(self, results: Results, said: int) -> Tensor:
        """The ratios of a forward's queries, float32 ``[L, B, H, Sq]``.

        Parameters
        ----------
        results : Results
            Of one forward with :attr:`method`; its batch may hold several rows an item.
        said : int
            Tokens generated that the first query sees, itself included.
        """
        series = [results[f"mass:{name}"] for name in (*self.regions, "generated")]
        phase = "decode" if series[0].steps else "prefill"
        masses = [getattr(one, phase) for one in series]
        context, tail = (n.repeat_interleave(masses[0].shape[1] // len(n)) for n in self._counts)
        steps = said + torch.arange(masses[0].shape[-1], device=masses[0].device)
        on_context = masses[0] / context[None, :, None, None]
        on_new = (masses[1] + masses[2]) / (tail[:, None] + steps)[None, :, None]
        return on_context / (on_context + on_new).clamp(min=1e-12)


def lookback_ratios(
    model: Any,
    tokenizer: Any,
    items: Sequence[Item] | Prompt,
    replies: Sequence[str] | Sequence[Sequence[int]],
    *,
    region: str | None = None,
    batch_size: int = 8,
) -> tuple[list[Tensor], list[Tensor]]:
    """Lookback ratios and log-probabilities of replies, put into the model's mouth.

    Parameters
    ----------
    items : sequence of Item, or Prompt
    replies : sequence of str or of token ids
        One each, not empty.
    region : str, optional
        The context; default all of the prompt but its tail (:class:`Lookback`).

    Returns
    -------
    (list of Tensor, list of Tensor)
        Of each reply with ``n`` tokens: ratios float32 ``[n, L, H]``, of the queries that choose
        these tokens, and log-probabilities ``[n]``.

    Raises
    ------
    FoveateError
        For an empty reply, or another number of replies than items.
    """
    rows = [
        tokenizer(reply, add_special_tokens=False)["input_ids"] if isinstance(reply, str) else reply
        for reply in replies
    ]
    asked: Iterable[Prompt]
    if isinstance(items, Prompt):
        asked = [items]
    else:
        asked = (prompt for _, prompt in prompts(items, tokenizer, batch_size))
    ratios: list[Tensor] = []
    chances: list[Tensor] = []
    for prompt in asked:
        prompt.to(model.device)
        here = [list(map(int, row)) for row in rows[len(ratios) :][: prompt.batch_size]]
        if len(here) < prompt.batch_size or not all(here):
            raise FoveateError(
                f"{len(rows)} replies were given; one for each item was wanted, none of them empty."
            )
        ids = prompt.inputs["input_ids"]
        said = ids.new_zeros(len(here), max(map(len, here)))
        real = torch.zeros_like(said)
        for row, tokens in enumerate(here):
            said[row, : len(tokens)] = torch.tensor(tokens, device=said.device)
            real[row, : len(tokens)] = 1
        look = Lookback(prompt, region)
        logits, results = _forced(model, prompt, look, said, real)
        values = look.ratios(results, 0).permute(1, 3, 0, 2)  # (B, n, L, H)
        chosen = logits.log_softmax(-1).gather(-1, said[..., None])[..., 0]
        for row, tokens in enumerate(here):
            ratios.append(values[row, : len(tokens)].cpu())
            chances.append(chosen[row, : len(tokens)].cpu())
    if len(ratios) != len(rows):
        raise FoveateError(f"{len(rows)} replies were given for {len(ratios)} items.")
    return ratios, chances


def _forced(
    model: Any, prompt: Prompt, look: Lookback, said: Tensor, real: Tensor
) -> tuple[Tensor, Results]:
    """Logits ``[B, n, V]`` of the queries that choose ``said``, and what they look at."""
    ids, mask = prompt.inputs["input_ids"], prompt.inputs["attention_mask"]
    stream = Stream(model, prompt, [look.method], look.regions)
    if ids.shape[1] > 1:  # what the prompt itself looks at is not asked
        stream.read(ids[:, :-1], mask[:, :-1])
    fed = torch.cat([ids[:, -1:], said[:, :-1]], dim=1)
    logits = stream.feed_all(fed, torch.cat([mask[:, -1:], real[:, :-1]], dim=1))
    assert stream.run is not None
    return logits, stream.run.results


@implements("lookback-lens", basis="paper")
@dataclass(frozen=True, eq=False)
class LookbackLens:
    """A logistic regression on lookback ratios: is this span grounded in the context?

    Parameters
    ----------
    coefficients : Tensor
        ``[L, H]``.
    intercept : float
    model : ModelId
        Whose heads they are.
    settings : mapping
        How it was trained, and what it reached on held-out data; JSON-able.

    Notes
    -----
    Source: arXiv 2407.07071 and the official code (voidism/Lookback-Lens): ratios of *means*, a
    span's ratios averaged, scikit-learn's logistic regression with its defaults, label 1 for
    grounded. The first reply token of the official code looks at the prompt's tail alone; so here.

    Examples
    --------
    >>> import foveate as fv
    >>> from foveate.find import LookbackLens
    >>> model, tokenizer = fv.load("smollm2")
    >>> items = fv.tasks.Unanswerable(n=4, seed=7, allow=False).items(tokenizer)
    >>> replies = fv.tasks.answer(model, tokenizer, items)
    >>> lens = LookbackLens.load("smollm2")
    >>> lens.detect(model, tokenizer, items, replies)  # probability that each reply is grounded
    """

    coefficients: Tensor
    intercept: float
    model: ModelId
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = torch.as_tensor(self.coefficients, dtype=torch.float64)
        if given.dim() != 2 or not given.numel() or not bool(given.isfinite().all()):
            raise FoveateError(
                f"A lens takes finite coefficients [layers, heads]; {list(given.shape)} were given."
            )
        object.__setattr__(self, "coefficients", given)

    @classmethod
    def fit(
        cls,
        features: Tensor,
        labels: Sequence[Any],
        model: Any,
        *,
        C: float = 1.0,
        settings: Mapping[str, Any] | None = None,
    ) -> LookbackLens:
        """Train on span means.

        Parameters
        ----------
        features : Tensor
            ``[n, L, H]``: of each span the mean of its tokens' ratios.
        labels : sequence of bool
            True where the span is grounded.
        model
            The model they come from, or its ``ModelId``.
        C : float
            Inverse strength of the L2 penalty.

        Raises
        ------
        FoveateError
            For features of another shape, one class alone, or without scikit-learn.
        """
        given = [bool(label) for label in labels]
        if features.dim() != 3 or len(features) != len(given) or len(set(given)) != 2:
            raise FoveateError(
                f"fit takes features [n, L, H] and n labels of both kinds; {list(features.shape)} "
                f"and {len(given)} labels ({sum(given)} of them true) were given."
            )
        try:
            from sklearn.linear_model import LogisticRegression
        except ImportError as error:
            raise FoveateError(
                "Training a lens needs scikit-learn: pip install 'foveate[probes]'."
            ) from error
        found = LogisticRegression(C=C, max_iter=1000).fit(
            features.flatten(1).double().numpy(), given
        )
        return cls(
            torch.tensor(found.coef_[0]).reshape(features.shape[1:]),
            float(found.intercept_[0]),
            model if isinstance(model, ModelId) else ModelId.of(model),
            {"C": C, "n": len(given), "grounded": sum(given), **(settings or {})},
        )

    def score(self, ratios: Tensor) -> Tensor:
        """The probability that spans are grounded: float64 ``[…]`` of mean ratios ``[…, L, H]``."""
        if ratios.shape[-2:] != self.coefficients.shape:
            raise FoveateError(
                f"The lens is of {self.model.name}, {list(self.coefficients.shape)} layers and "
                f"heads; ratios {list(ratios.shape)} were given."
            )
        weights = self.coefficients.to(ratios.device)
        return ((ratios.double() * weights).sum((-2, -1)) + self.intercept).sigmoid()

    def detect(
        self,
        model: Any,
        tokenizer: Any,
        items: Sequence[Item] | Prompt,
        replies: Sequence[str],
        *,
        batch_size: int = 8,
    ) -> Tensor:
        """The probability that each reply is grounded in its prompt, float64 ``[n]``."""
        self.check(model)
        ratios, _ = lookback_ratios(
            model, tokenizer, items, replies, region=self.region, batch_size=batch_size
        )
        return torch.stack([self.score(one.mean(0)) for one in ratios])

    @property
    def region(self) -> str | None:
        """The context it was trained with; None is the whole prompt."""
        return self.settings.get("region")

    def check(self, model: Any) -> LookbackLens:
        """Refuse a model with other layers or heads; returns the lens."""
        here = [site for site in sites(model) if site.stack == "decoder"]
        grid = [len(here), here[0].heads if here else None]
        if grid != list(self.coefficients.shape):
            raise FoveateError(
                f"The lens is of {self.model.name}, {list(self.coefficients.shape)} layers and "
                f"heads; {type(model).__name__} has {grid}: train one with LookbackLens.fit(…)."
            )
        return self

    def save(self, path: str | Path) -> Path:
        """Write it as JSON; the path is returned."""
        data = {
            "model": vars(self.model),
            "settings": dict(self.settings),
            "intercept": self.intercept,
            "coefficients": [[round(x, 6) for x in row] for row in self.coefficients.tolist()],
        }
        return keep(path, _FORMAT, data)

    @classmethod
    def load(cls, source: str | Path) -> LookbackLens:
        """Read what :meth:`save` wrote, or the lens shipped for a model (``"smollm2"``).

        Raises
        ------
        FoveateError
            If the file cannot be read or is none of ours.
        """
        shipped = _DATA / f"lookback_{source}.json"
        path = shipped if isinstance(source, str) and shipped.is_file() else Path(source)
        with kept(path, _FORMAT, "A lookback lens (one is shipped: 'smollm2')") as data:
            return cls(
                torch.tensor(data["coefficients"], dtype=torch.float64),
                float(data["intercept"]),
                ModelId(**data["model"]),
                data["settings"],
            )
