"""One look at a prompt: where does every head of every layer look?"""

from __future__ import annotations

import inspect as _inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .attach import Run, attach
from .engine import measures as m
from .methods.measure import Measure

__all__ = ["inspect"]


def inspect(
    model: nn.Module,
    prompt: Any,
    measures: Sequence[m.Read] | None = None,
    layers: Any = None,
    regions: Mapping[str, Any] | None = None,
    stack: str | None = None,
    **forward_kwargs: Any,
) -> Run:
    """Run one forward over a prompt or a picture and measure all of its attention.

    Nothing is edited and no attention matrix is made, so prompts of many thousand tokens are fine.

    Parameters
    ----------
    model : torch.nn.Module
    prompt : Prompt or Picture
        Its ``inputs`` go to the model. The report draws attention over pictures that it has.
    measures : sequence of Read, optional
        Default: the mass of every region that has tokens, entropy, distance, received,
        ``rows([-1])`` (what the last token looks at; of a :class:`Picture`, the class token) and
        ``block_map(32)``.
    layers : int or sequence of int, optional
        Default: all.
    regions : mapping of str to Tensor, optional
        Further regions, bool ``[S]`` or ``[B, S]``.
    stack : str, optional
        Which stack; default the decoder, the only one, or a picture's own. A tower inside a model
        that reads has other tokens than the prompt: inspect it by itself, on a :class:`Picture`.
    **forward_kwargs
        Go to the model's forward, over ``prompt.inputs``. ``logits_to_keep=1`` is added where the
        forward takes it: the logits of a long prompt are larger than all that is measured.

    Returns
    -------
    Run
        ``run.results``, ``run.report(path)``.

    Raises
    ------
    FoveateError
        As :func:`foveate.attach`.

    Examples
    --------
    >>> fv.inspect(model, prompt).report("report.html")
    """
    named = {**getattr(prompt, "regions", {}), **(regions or {})}
    if measures is None:
        masses = [m.mass(name) for name, mask in named.items() if bool(torch.as_tensor(mask).any())]
        measures = [*masses, *_details(prompt)]
    config = getattr(model, "config", None)
    # an encoder–decoder model's prompt is read by its encoder and its cross-attention
    if stack is None:
        crossed = getattr(config, "is_encoder_decoder", False)
        # beside the patches' own attention a tower may have a head that pools them
        stack = "all" if crossed else getattr(prompt, "stack", None)
    inputs = {**getattr(prompt, "inputs", {}), **forward_kwargs}
    if "logits_to_keep" in _inspect.signature(model.forward).parameters:
        inputs.setdefault("logits_to_keep", 1)
    with (
        attach(
            model, Measure(*measures, layers=layers, stack=stack), prompt=prompt, regions=regions
        ) as run,
        torch.no_grad(),
    ):
        model(**inputs)
    return run


def _details(prompt: Any) -> list[m.Read]:
    """What a report shows besides masses."""
    if not hasattr(prompt, "reader"):
        return [m.entropy(), m.distance(), m.received(), m.rows([-1]), m.block_map(32)]
    # patches lie in rows and columns: how far apart two are in the row of tokens says nothing
    read = [] if prompt.reader is None else [m.rows([prompt.reader])]
    return [m.entropy(), m.received(), *read, m.block_map(32)]
