"""Maps of where a model looks in a picture for an answer: by attention, gradient, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..attach import attach
from ..engine.measures import rows
from ..errors import FoveateError
from ..grid import Grid
from ..methods.measure import Measure
from ..prompt import Prompt
from .attribution._tape import Tape, frozen
from .boxes import edges

__all__ = ["MAPS", "firsts", "grad_att", "pure_grad", "rel_att"]

_FLOOR = 1e-12  # of what is divided by


def rel_att(
    model: nn.Module, prompt: Prompt, general: Prompt, *, layers: Any = None
) -> list[Tensor]:
    """Attention to the picture for a question over that for a general one.

    Parameters
    ----------
    model : torch.nn.Module
    prompt : Prompt
        With a picture in each item, padded on the left.
    general : Prompt
        The same pictures with a question that asks for nothing in particular.
    layers : int or sequence of int, optional
        Whose attention is averaged. Default all. The authors take one, chosen by validation: the
        15th of 32 of LLaVA-1.5 (``layers=14``).

    Returns
    -------
    list of Tensor
        ``[rows, columns]`` an item: of its first picture, by the last query, mean over heads.

    Raises
    ------
    FoveateError
        An item without a picture, or whose picture's tokens lie on no known grid; pictures that
        differ.
    """
    maps = []
    asked = _attention(model, prompt, layers), _attention(model, general, layers)
    for first, second in zip(firsts(prompt), firsts(general, prompt.batch_size), strict=True):
        one, other = (
            grid.picture(seen[grid.item]) for grid, seen in zip((first, second), asked, strict=True)
        )
        if one.shape != other.shape:
            raise FoveateError(
                f"Item {first.item} has its picture in {list(one.shape)} patches, with the general "
                f"question in {list(other.shape)}; give both prompts the same pictures."
            )
        maps.append(one / other.clamp(min=_FLOOR))
    return maps


def grad_att(
    model: nn.Module, prompt: Prompt, general: Prompt | None = None, *, layers: Any = None
) -> list[Tensor]:
    """Attention to the picture times its gradient, where that is positive.

    The gradient is that of the log-probability of the likeliest first token of the answer. Takes
    and returns what :func:`rel_att` does; ``general`` is not looked at.
    """
    _left_padded(prompt)
    tape = Tape(grad=True, layers=layers)
    with (
        frozen(model),
        attach(model, *tape.around(()), prompt=prompt),
        torch.enable_grad(),
    ):
        tape.differentiate(_preferred(model, prompt.inputs))
    calls = tape.of("decoder")
    last = torch.zeros_like(prompt.inputs["input_ids"], dtype=calls[0].q.dtype)
    last[:, -1] = 1
    seen = torch.stack([call.relevance().left(last) for call in calls]).mean(0)
    return [grid.picture(seen[grid.item]) for grid in firsts(prompt)]


def pure_grad(
    model: nn.Module, prompt: Prompt, general: Prompt, *, layers: Any = None
) -> list[Tensor]:
    """Length of the gradient at each pixel over that for a general question, at fine detail only.

    The gradient is that of the log-probability of the likeliest first token; the mean over a
    patch's pixels is taken. Takes and returns what :func:`rel_att` does; ``layers`` is not looked
    at. The model's image processor gives pictures of one size, ``pixel_values [N, 3, h, w]``.
    """
    found = []
    for asked in (prompt, general):
        _left_padded(asked)
        inputs = dict(asked.inputs)
        pixels = inputs.get("pixel_values")
        if pixels is None or pixels.dim() != 4 or len(pixels) != len(asked.grids):
            shape = None if pixels is None else list(pixels.shape)
            raise FoveateError(
                f"pure_grad takes pixel_values [pictures, 3, h, w]; this processor gives {shape}: "
                "take rel_att or grad_att."
            )
        inputs["pixel_values"] = pixels.detach().clone().requires_grad_()
        with frozen(model), torch.enable_grad():
            value = _preferred(model, inputs).sum()
            (grad,) = torch.autograd.grad(value, inputs["pixel_values"])
        found.append(grad.float().norm(dim=1))  # [N, h, w]
    maps = []
    for first, second in zip(firsts(prompt), firsts(general, prompt.batch_size), strict=True):
        here, there = prompt.grids.index(first), general.grids.index(second)
        ratio = found[0][here] / found[1][there].clamp(min=_FLOOR)
        ratio = ratio * edges(prompt.inputs["pixel_values"][here].float())
        maps.append(F.adaptive_avg_pool2d(ratio[None], (first.rows, first.columns))[0])
    return maps


MAPS: dict[str, Callable[..., list[Tensor]]] = {
    "rel_att": rel_att,
    "grad_att": grad_att,
    "pure_grad": pure_grad,
}


def _attention(model: nn.Module, prompt: Prompt, layers: Any) -> Tensor:
    """Of the last query, mean over heads and layers, ``[B, S]``."""
    _left_padded(prompt)
    measure = Measure(rows(-1), layers=layers)
    with torch.no_grad(), attach(model, measure, prompt=prompt) as run:
        model(**prompt.inputs)
    return run.results["rows"].prefill[:, :, :, -1].float().mean((0, 2))


def _preferred(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """Log-probability of the likeliest first token, ``[B]``."""
    return model(**inputs).logits[:, -1].float().log_softmax(-1).max(-1).values


def firsts(prompt: Prompt, batch: int | None = None) -> list[Grid]:
    """The grid of each item's first picture."""
    if batch is not None and prompt.batch_size != batch:
        raise FoveateError(
            f"The general prompt has {prompt.batch_size} items, the question's {batch}."
        )
    found: dict[int, Grid] = {}
    for grid in prompt.grids:
        found.setdefault(grid.item, grid)
    for item in range(prompt.batch_size):
        if item not in found:
            raise FoveateError(
                f"Item {item} of the prompt has no picture; write its message's content as "
                '[{"type": "image", "image": picture}, {"type": "text", "text": …}].'
            )
    return [found[item] for item in range(prompt.batch_size)]


def _left_padded(prompt: Prompt) -> None:
    if not bool(prompt.inputs["attention_mask"][:, -1].all()):
        raise FoveateError(
            "The prompt is padded on the right, where the last query is no token of the question: "
            'make it with padding_side="left".'
        )
