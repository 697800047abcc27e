"""The residual stream: what leaves a block, looked at or edited."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._implements import implements
from ..adapters.sites import Site
from ..errors import FoveateError
from ._method import Method

if TYPE_CHECKING:
    from ..attach import Call

__all__ = ["KeepResidual", "SetActivations", "block_of", "entering"]


def block_of(model: nn.Module, site: Site) -> nn.Module:
    """The block an attention module belongs to: the nearest member of a list around it.

    Raises
    ------
    FoveateError
        Where the module is in no list of blocks.
    """
    parts = site.name.split(".")
    while parts and not parts[-1].isdigit():
        parts.pop()
    if not parts:
        raise FoveateError(f"{site.name} is in no list of blocks; its residual is out of reach.")
    return model.get_submodule(".".join(parts))


def entering(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """The hidden states ``[B, S, dim]`` that a block is called with.

    Raises
    ------
    FoveateError
        Where its first argument is none.
    """
    return _hidden(args[0] if args else kwargs.get("hidden_states", (None,)))


class KeepResidual(Method):
    """Keep what leaves the blocks, ``[B, S, dim]``.

    Attributes
    ----------
    tensors : dict of (stack, layer) to list of Tensor
        One tensor a forward.
    """

    def __init__(self, **scope: Any) -> None:
        super().__init__(**scope)
        self.tensors: dict[tuple[str, int], list[Tensor]] = {}

    def hooks(
        self, model: nn.Module, sites: Sequence[Site]
    ) -> Iterator[tuple[nn.Module, str, Any]]:
        """One on every block."""
        for site in sites:
            kept = self.tensors.setdefault((site.stack, site.layer), [])

            def keep(module: Any, args: Any, kwargs: Any, output: Any, kept: Any = kept) -> None:
                kept.append(_hidden(output))

            yield block_of(model, site), "post", keep


@implements("massive-activations", basis="paper")
class SetActivations(Method):
    """Set single entries of what leaves one block: to 0, to a mean, to anything.

    Parameters
    ----------
    layer : int
        The block.
    entries : mapping of (position, dimension) to float
        Positions count the tokens of a sequence from 0, padding included; one that a forward does
        not hold (a decode step behind it) is left alone.
    stack : str, optional

    Raises
    ------
    FoveateError
        For entries of another form, and dimensions that the block does not have.

    Notes
    -----
    The intervention of Sun et al., "Massive Activations in Large Language Models" (2024): set to
    zero, the few massive entries break the model; set to their mean over other texts nothing
    happens. :func:`foveate.find.massive.massive_activations` finds them.

    Examples
    --------
    >>> import foveate as fv
    >>> from foveate.methods import SetActivations
    >>> model, tokenizer = fv.load("smollm2")
    >>> prompt = fv.Prompt(tokenizer, "The capital of France is")
    >>> with fv.attach(model, SetActivations(11, {(0, 507): 0.0}), prompt=prompt):
    ...     logits = model(**prompt.inputs).logits
    >>> print(tokenizer.decode(logits[0, -1].argmax()))
    """

    def __init__(
        self, layer: int, entries: Mapping[tuple[int, int], float], stack: str | None = None
    ) -> None:
        super().__init__(layers=layer, stack=stack)
        good = isinstance(entries, Mapping) and bool(entries)
        if not good or not all(
            isinstance(key, tuple) and len(key) == 2 and min(key) >= 0 for key in entries
        ):
            raise FoveateError(
                "SetActivations takes {(position, dimension): value}, counted from 0; "
                f"{entries!r:.80} was given."
            )
        self.entries = dict(entries)
        self._start = 0

    def inputs(
        self, q: Tensor, k: Tensor, v: Tensor, site: Site, call: Call
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Note where the forward stands; nothing is edited here."""
        self._start = call.q_offset
        return q, k, v

    def hooks(
        self, model: nn.Module, sites: Sequence[Site]
    ) -> Iterator[tuple[nn.Module, str, Any]]:
        """One on the block."""
        for site in sites:
            yield block_of(model, site), "post", self._set

    def _set(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        hidden = _hidden(output)
        edited = hidden.clone()
        for (position, dim), value in self.entries.items():
            if dim >= hidden.shape[-1]:
                raise FoveateError(f"dimension {dim} was named; the block has {hidden.shape[-1]}.")
            if 0 <= position - self._start < hidden.shape[1]:
                edited[:, position - self._start, dim] = value
        return edited if isinstance(output, Tensor) else (edited, *output[1:])

    def _given(self) -> list[str]:
        return [f"{len(self.entries)} entries"]


def _hidden(output: Any) -> Tensor:
    found = output if isinstance(output, Tensor) else output[0]
    if not isinstance(found, torch.Tensor) or found.dim() != 3:
        raise FoveateError("A block has no hidden states [B, S, dim]; its residual is no tensor.")
    return found
