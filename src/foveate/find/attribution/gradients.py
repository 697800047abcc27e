"""Attribution by gradients and perturbations on the input embeddings: captum's methods."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import FoveateError
from ._tape import frozen

if TYPE_CHECKING:
    from ._result import Attribution
    from ._target import Question

__all__ = ["GRADIENTS", "gradients"]

GRADIENTS = ("gradient-input", "integrated-gradients", "gradient-shap", "lime")
DEFAULTS: dict[str, Any] = {
    "baseline": None,  # the padding token where there is one, else zero
    "steps": 32,  # integrated gradients: points of the line
    "samples": 200,  # gradient-shap, lime
    "batch": 16,  # rows in one forward
    "seed": 0,
}


def gradients(question: Question, method: str, options: dict[str, Any]) -> list[Attribution]:
    """Run one of captum's methods; scores are summed over the embedding's dimensions, signed."""
    from .attribute import _results

    captum = _captum()
    if unknown := set(options) - set(DEFAULTS):
        raise FoveateError(
            f"options {sorted(unknown)} were given; there are {', '.join(DEFAULTS)}."
        )
    settings = {**DEFAULTS, **options}
    for name in ("steps", "samples", "batch"):
        if not isinstance(settings[name], int) or settings[name] < 1:
            raise FoveateError(f"{name}={settings[name]!r} was given; a whole number from 1 on.")
    pixels: Any = question.inputs.get("pixel_values")
    shared = isinstance(pixels, Tensor) and len(pixels) != question.batch
    # which rows are an item's is the model's secret, and copies of an item would need copies
    if shared and (question.batch > 1 or method != "gradient-input"):
        raise FoveateError(
            f"{method} takes one picture an item; pixel_values has {len(pixels)} rows for "
            f"{question.batch} item(s): take relevance, or gradient-input one item at a time."
        )
    rows, values, targets, details = [], [], [], []
    with frozen(question.model), _seeded(settings["seed"]), torch.enable_grad():
        embedding = _embedding(question.model)
        for b in range(question.batch):
            one = question.item(b)
            embeds, value, ids = _plain(one, embedding)
            ask = _FromEmbeddings(one, embedding, ids)
            base = _baseline(settings["baseline"], one, embedding, embeds)
            found, error = _run(captum, method, ask, embeds, base, settings)
            rows.append(found[0].detach())
            values.append(value)
            targets.append(ids)
            said = {**settings, "baseline": _said(settings["baseline"])}
            # how far the scores are from adding up to f(x) − f(baseline)
            details.append(said if error is None else {**said, "convergence error": error})
    which = None if targets[0] is None else torch.cat([t for t in targets if t is not None])
    scores, value = torch.stack(rows), torch.cat(values)
    return _results(question, method, scores, None, value, which, details)


def _run(
    captum: Any, method: str, ask: _FromEmbeddings, x: Tensor, base: Tensor, settings: Any
) -> tuple[Tensor, float | None]:
    """Scores ``[1, S]`` of embeddings ``[1, S, dim]``, and captum's convergence error if any."""
    if method == "gradient-input":
        return captum.InputXGradient(ask).attribute(x).sum(-1), None
    if method == "integrated-gradients":
        found, delta = captum.IntegratedGradients(ask).attribute(
            x, base, n_steps=settings["steps"], internal_batch_size=settings["batch"],
            return_convergence_delta=True,
        )  # fmt: skip
        return found.sum(-1), float(delta)
    if method == "gradient-shap":
        total, done = torch.zeros_like(x), 0
        while done < settings["samples"]:
            n = min(settings["batch"], settings["samples"] - done)
            part = captum.GradientShap(ask).attribute(x, base, n_samples=n, stdevs=0.01)
            total, done = total + n * part, done + n
        return total.sum(-1) / done, None
    from captum._utils.models.linear_model import SkLearnRidge

    tokens = torch.arange(x.shape[1], device=x.device)[None, :, None].expand(x.shape)
    with torch.no_grad():
        found = captum.Lime(ask, interpretable_model=SkLearnRidge(alpha=1.0)).attribute(
            x, base, feature_mask=tokens, n_samples=settings["samples"],
            perturbations_per_eval=settings["batch"],
        )  # fmt: skip
    return found.mean(-1), None  # a token's coefficient stands at each of its dimensions


def _captum() -> Any:
    try:
        import captum.attr
    except ImportError as error:
        raise FoveateError(
            "Gradient methods run in captum: pip install foveate[attribution]."
        ) from error
    return captum.attr


# -- embeddings as inputs --------------------------------------------------------------------------
class _FromEmbeddings(nn.Module):
    """The explained number as a function of what the embedding module gives."""

    def __init__(self, question: Question, embedding: nn.Module, ids: Tensor | None) -> None:
        super().__init__()
        self.model = question.model
        self._question = question
        self._embedding = [embedding]  # not a child: the model has it
        self._ids = ids

    def forward(self, embeds: Tensor) -> Tensor:
        """``[n, S, dim]``, all of one item, to ``[n]``."""
        question = self._question
        repeated = {
            name: t.expand(len(embeds), *t.shape[1:])
            for name, t in question.inputs.items()
            if isinstance(t, Tensor) and t.dim() and len(t) == 1
        }
        with _replaced(self._embedding[0], embeds):
            output = question.ask(**repeated)
        return question.value(output, self._ids)[0]


def _embedding(model: nn.Module) -> nn.Module:
    crossed = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    owner: Any = model
    try:
        if crossed and hasattr(model, "get_encoder"):
            owner = owner.get_encoder()
        found = owner.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        found = None
    if not isinstance(found, nn.Module):
        raise FoveateError(
            f"{type(model).__name__} does not say which module embeds its input "
            "(get_input_embeddings), so there is nothing to take gradients of."
        )
    return found


def _plain(question: Question, embedding: nn.Module) -> tuple[Tensor, Tensor, Tensor | None]:
    """The embeddings of the input, the explained numbers and what they are of."""
    seen: list[Tensor] = []
    handle = embedding.register_forward_hook(lambda module, args, out: seen.append(out))
    try:
        with torch.no_grad():
            value, ids = question.value(question.ask())
    finally:
        handle.remove()
    if not seen or not _are_embeddings(seen[0], embedding, question.model):
        raise FoveateError(
            f"{type(embedding).__name__}, which {type(question.model).__name__} says embeds its "
            "input, gave no embeddings [B, S, dim] in this forward, so there are no gradients per "
            "token. If inputs_embeds were given: give ids."
        )
    return seen[0].detach().requires_grad_(), value, ids


def _are_embeddings(found: Any, embedding: nn.Module, model: nn.Module) -> bool:
    sizes = {getattr(embedding, "embedding_dim", None)}
    sizes.add(getattr(getattr(model, "config", None), "hidden_size", None))
    return isinstance(found, Tensor) and found.dim() == 3 and found.shape[-1] in sizes


@contextmanager
def _replaced(embedding: nn.Module, embeds: Tensor) -> Iterator[None]:
    """Inside, the embedding module gives ``embeds`` in its first call (a decoder may share it)."""
    calls = 0

    def swap(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return embeds if calls == 1 else out

    handle = embedding.register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


def _baseline(given: Any, question: Question, embedding: nn.Module, embeds: Tensor) -> Tensor:
    """Where the line begins, ``[B, S, dim]``."""
    if isinstance(given, Tensor):
        if given.dim() > 3 or given.shape[-1] != embeds.shape[-1]:
            raise FoveateError(
                f"baseline is {list(given.shape)}; [S, dim] as the embeddings, "
                f"{list(embeds.shape[1:])}, was wanted."
            )
        return given.to(embeds).expand_as(embeds).contiguous()
    token: Any = given
    if given is None or given == "pad":
        token = getattr(question.tokenizer, "pad_token_id", None)
        if token is None:
            token = getattr(getattr(question.model, "config", None), "pad_token_id", None)
        if token is None and given == "pad":
            raise FoveateError('baseline="pad" was given, and this model has no padding token.')
        if token is None or not isinstance(embedding, nn.Embedding):
            given = "zero"
    if given == "zero":
        return torch.zeros_like(embeds)
    ids = torch.full(embeds.shape[:2], question._id(token), device=embeds.device)
    with torch.no_grad():
        found: Tensor = embedding(ids)
    return found


def _said(baseline: Any) -> Any:
    return f"a tensor {list(baseline.shape)}" if isinstance(baseline, Tensor) else baseline


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """captum draws from the global generators: lend them a seed and put them back."""
    import numpy as np

    state, plain = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(state)
        random.setstate(plain)
