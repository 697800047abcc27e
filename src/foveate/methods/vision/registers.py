"""Test-time registers: a spare token takes the outliers and the attention they draw.

Large vision transformers make a few patches their notepad: tokens of ten times the usual norm, in
uniform places, which everybody attends to. Few neurons do it. What these would write on the
patches is written on a token that is no patch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..._implements import implements
from ...adapters.sites import Site
from ...errors import FoveateError
from .._method import Method
from ..residual import entering
from .tower import Tower

__all__ = ["TestTimeRegisters"]


@implements("test-time-registers", basis="paper")
class TestTimeRegisters(Method):
    """Append tokens without training to a vision transformer; register neurons fire there alone.

    For each neuron ``n`` (a hidden unit of a block's MLP, behind its activation) with values
    ``a_t`` at the tokens ``t``: ``a_register = a_t*``, ``t* = argmax_t |a_t|`` over all tokens;
    ``a_patch = 0`` at every patch; [CLS] keeps its own. The tokens start at zero, behind the
    patches, without a position. They are in the blocks alone: taken off behind each and put back
    before the next, so that what reads between or behind them (the states of layers, a projector, a
    pyramid of features, a classifier) has the tokens it expects.

    Parameters
    ----------
    neurons : mapping of int to sequence of int, or sequence of (int, int)
        Layer -> neurons, or pairs (layer, neuron), such as ``register_neurons(…).top(10)``. Layers
        count the blocks of the tower from 0. Empty: a token is added, and no neuron moved.
    registers : int
        How many tokens; 1 in the paper. All get the same.
    lead : int, optional
        How many tokens stand before the patches ([CLS], trained registers); default: as the
        model's embeddings say.
    stack : str
        The tower; ``"vision"``.

    Raises
    ------
    FoveateError
        For neurons of another form. Attaching it raises for a neuron that is not there, and for a
        tower to which no token can be added without moving the others: windows (Swin), positions
        that are rotated or relative to other tokens (DINOv3, BEiT), packed batches (Qwen2-VL).

    Notes
    -----
    Jiang, Dravid, Efros and Gandelsman, "Vision Transformers Don't Need Trained Registers" (2025),
    section 3, and the authors' code (``activate_on_registers``). It scales nothing here
    (``scale=1``) and sets patches to zero (``normal_values="zero"``), their defaults. Where paper
    and code differ: the paper copies each neuron's own highest activation, their last code the one
    number of largest magnitude *among all chosen neurons of the layer*, with its sign; here it is
    each neuron's own, by magnitude and with its sign, which for a neuron that fires upwards is its
    maximum. The register starts at zero, before a norm that precedes the blocks (CLIP), as in
    their last code; an earlier one took the mean of the patches. They leave the register in the
    output; here it is taken off.

    Inside the block the tower's attention has ``registers`` more keys and queries than patches and
    [CLS]: a region for it is that much longer, and so are ``fv.rows`` measured there. Which neurons
    to move: :func:`foveate.find.register_neurons`.

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> model, processor = fv.load("shapes-clip")
    >>> pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    >>> with fv.attach(model, fv.TestTimeRegisters({0: [5, 17]})):
    ...     found = model.vision_model(pixel_values=pixels)
    >>> print(found.last_hidden_state.shape)  # the register is gone again
    """

    __test__ = False  # the name begins as those of tests do; it is none

    def __init__(
        self,
        neurons: Any,
        registers: int = 1,
        lead: int | None = None,
        stack: str = "vision",
    ) -> None:
        super().__init__(stack=stack)
        self.neurons = _neurons(neurons)
        for name, value, least in (("registers", registers, 1), ("lead", lead, 0)):
            if isinstance(value, bool) or not (
                (name == "lead" and value is None) or (isinstance(value, int) and value >= least)
            ):
                raise FoveateError(
                    f"{name}={value!r} was given; a whole number of at least {least}."
                )
        self.registers = registers
        self.lead = lead

    def hooks(
        self, model: nn.Module, sites: Sequence[Site]
    ) -> Iterator[tuple[nn.Module, str, Any]]:
        """The token comes behind the embeddings and is in the blocks."""
        tower = Tower.of(model, sites, repr(self))
        tower.check_tokens(repr(self))
        lead = tower.lead() if self.lead is None else self.lead
        for layer, chosen in self.neurons.items():
            if not -len(tower.blocks) <= layer < len(tower.blocks):
                raise FoveateError(
                    f"{self!r} names layer {layer}; the tower has layers 0–{len(tower.blocks) - 1}."
                )
            width = tower.down(layer).in_features
            if max(chosen) >= width:
                raise FoveateError(
                    f"{self!r} names neuron {max(chosen)} of layer {layer}; its MLP has neurons "
                    f"0–{width - 1}."
                )
        yield tower.entry, "post", self._append
        for layer, chosen in self.neurons.items():
            yield tower.down(layer), "pre", _Shift(chosen, lead, self.registers)
        for number, block in enumerate(tower.blocks):
            if number:
                yield block, "pre", self._put_back
            yield block, "post", self._take_off
        for module in tower.around:  # states kept by hooks that act before these
            yield module, "post", self._shorten

    def _append(self, module: Any, args: Any, kwargs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() != 3:
            raise FoveateError(
                f"{type(module).__name__} gave no tokens [B, S, dim], so {self!r} has nowhere to "
                "add one: packed batches and towers that keep tokens as maps are not supported."
            )
        self._length = output.shape[1]
        empty = output.new_zeros(len(output), self.registers, output.shape[2])
        return torch.cat([output, empty], 1)

    def _put_back(self, module: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        hidden = torch.cat([entering(args, kwargs), self._held], 1)
        return (
            ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
        )

    def _take_off(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        hidden = output if isinstance(output, Tensor) else output[0]
        self._held = hidden[:, self._length :]
        return self._shorten(module, args, kwargs, output)

    def _shorten(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        return _shortened(output, self._length, self._length + self.registers)

    def _given(self) -> list[str]:
        count = sum(len(chosen) for chosen in self.neurons.values())
        return [f"{count} neurons", *([f"registers={self.registers}"] * (self.registers > 1))]


class _Shift:
    """Before the down projection ``[B, S, neurons]``: from the patches to the registers."""

    def __init__(self, neurons: Sequence[int], lead: int, registers: int) -> None:
        self.neurons, self.lead, self.registers = list(neurons), lead, registers

    def __call__(self, module: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        hidden = args[0].clone()
        values = hidden[..., self.neurons]  # [B, S, n]
        most = values.abs().argmax(1, keepdim=True)
        hidden[:, self.lead : -self.registers, self.neurons] = 0
        hidden[:, -self.registers :, self.neurons] = values.gather(1, most)
        return (hidden, *args[1:]), kwargs


def _shortened(output: Any, length: int, longer: int) -> Any:
    """Tensors of ``longer`` tokens without the last ones, wherever they are in an output."""
    if isinstance(output, Tensor):
        return output[:, :length] if output.dim() == 3 and output.shape[1] == longer else output
    if isinstance(output, dict):  # a ModelOutput: its attributes follow its items
        for name, value in list(output.items()):
            output[name] = _shortened(value, length, longer)
        return output
    if isinstance(output, tuple | list):
        return type(output)(_shortened(value, length, longer) for value in output)
    return output


def _neurons(given: Any) -> dict[int, tuple[int, ...]]:
    """Layer -> neurons, ascending."""
    pairs: Any = given
    if isinstance(given, Mapping):
        pairs = []
        for layer, some in given.items():
            pairs += [(layer, n) for n in (some if isinstance(some, Iterable) else [some])]
    found: dict[int, set[int]] = {}
    try:
        for layer, neuron in pairs:
            if any(isinstance(n, bool) or not isinstance(n, int) for n in (layer, neuron)):
                raise TypeError
            if neuron < 0:
                raise ValueError
            found.setdefault(layer, set()).add(neuron)
    except (TypeError, ValueError):
        raise FoveateError(
            f"neurons={given!r:.80} was given; a mapping layer -> neurons, such as {{0: [5, 17]}}, "
            "or pairs (layer, neuron), counted from 0, was wanted."
        ) from None
    return {layer: tuple(sorted(found[layer])) for layer in sorted(found)}
