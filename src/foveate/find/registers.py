"""Register neurons: the few that make outliers of patches in a vision transformer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._implements import implements
from ..adapters.sites import Site
from ..attach import attach
from ..errors import FoveateError
from ..methods._method import Method
from ..methods.vision.tower import Tower

__all__ = ["RegisterNeuron", "RegisterNeurons", "patch_norms", "register_neurons"]

STANDS_OUT = 3.0  # times the median norm; in DINOv2-L patches have about 50, the outliers over 150


class RegisterNeuron(NamedTuple):
    """A neuron with its mean ``|activation|`` at the outliers."""

    layer: int
    neuron: int
    score: float


@dataclass(frozen=True)
class RegisterNeurons:
    """What :func:`register_neurons` found.

    Attributes
    ----------
    ranking : tuple of RegisterNeuron
        Of the layers up to ``highest``, best first.
    threshold : float
        The norm above which a patch was an outlier.
    highest : int
        The last layer looked at.
    outliers : Tensor
        Bool ``[N, patches]``: which patches of which picture.
    """

    ranking: tuple[RegisterNeuron, ...]
    threshold: float
    highest: int
    outliers: Tensor

    def top(self, k: int) -> dict[int, tuple[int, ...]]:
        """The ``k`` best as layer -> neurons, as :class:`~foveate.methods.TestTimeRegisters` takes
        them.

        Raises
        ------
        FoveateError
            For a ``k`` below 1 or above the number of neurons.
        """
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(self.ranking):
            raise FoveateError(f"top({k!r}): a whole number from 1 to {len(self.ranking)}.")
        found: dict[int, list[int]] = {}
        for layer, neuron, _ in self.ranking[:k]:
            found.setdefault(layer, []).append(neuron)
        return {layer: tuple(sorted(found[layer])) for layer in sorted(found)}

    def __repr__(self) -> str:
        best = ", ".join(f"({n.layer}, {n.neuron}) {n.score:.3g}" for n in self.ranking[:4])
        return (
            f"RegisterNeurons({int(self.outliers.sum())} outliers in {len(self.outliers)} "
            f"pictures, layers 0–{self.highest}: {best}, …)"
        )


@implements("test-time-registers", basis="paper")
@torch.no_grad()
def register_neurons(
    model: nn.Module,
    inputs: Any,
    *,
    threshold: float | None = None,
    at: int = -1,
    highest: int | None = None,
    sparse: bool = False,
    lead: int | None = None,
    stack: str = "vision",
) -> RegisterNeurons:
    """Rank the neurons of a vision transformer by how they fire where patches stand out.

    A neuron's score is the mean of ``|a|`` over the outliers of a picture, and then over the
    pictures that have any.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode.
    inputs : mapping, Tensor or sequence of these
        What the model is called with, such as ``{"pixel_values": [N, 3, H, W]}``; a tensor is
        pixel values. Several are batches of one size. The authors take 100 to 500 pictures.
    threshold : float, optional
        Patches of a larger norm are outliers. Default: 3 times the median norm of all patches.
        The authors set it by hand (30 for CLIP B/16, 150 for DINOv2 L).
    at : int
        Behind which block norms are looked at; -1 (the last) for CLIP, -2 for DINOv2 L.
    highest : int, optional
        Only neurons of layers up to this one, where the outliers appear (5 for CLIP B/16, 17 for
        DINOv2 L, by hand). Default: the first layer behind which the same patches have 3 times the
        median norm on average; ``at`` if none does before.
    sparse : bool
        Leave out, picture by picture, neurons that are at 0.5 or above at more than half of the
        tokens, as the authors' notebook does.
    lead : int, optional
        Tokens before the patches; default: as the embeddings say.
    stack : str

    Returns
    -------
    RegisterNeurons
        With ``.top(k)``.

    Raises
    ------
    FoveateError
        When no patch stands out: then there is nothing to shift (models below ViT-L often have
        none). A model in training mode, a layer that is not there, a tower without MLPs.

    Notes
    -----
    Jiang et al. (2025), algorithm 1, and the authors' ``find_register_neurons``. They count [CLS]
    among the outliers when its norm is above the threshold; here only patches are.

    Examples
    --------
    >>> import torch
    >>> import foveate as fv
    >>> from foveate.find import register_neurons
    >>> model, processor = fv.load("shapes-clip")
    >>> pixels = torch.rand(8, 3, 32, 32) * 2 - 1
    >>> found = register_neurons(model.vision_model, pixels, threshold=10.0)  # far below outliers
    >>> found.top(3)  # layer -> neurons, for fv.TestTimeRegisters
    """
    seen = _look(model, inputs, stack, lead, neurons=True)
    depth = len(seen.norms)
    for name, layer in (("at", at), ("highest", highest)):
        if layer is None and name == "highest":
            continue
        whole = isinstance(layer, int) and not isinstance(layer, bool)
        if not (whole and layer is not None and -depth <= layer < depth):
            raise FoveateError(f"{name}={layer!r} was given; the tower has layers 0–{depth - 1}.")
    if threshold is not None and not threshold > 0:
        raise FoveateError(f"threshold={threshold!r} was given; a norm is above 0.")
    norms = seen.norms[at]
    median = float(norms.median())
    above = STANDS_OUT * median if threshold is None else float(threshold)
    outliers = norms > above
    if not bool(outliers.any()):
        raise FoveateError(
            f"No patch stands out: the largest norm is {float(norms.max()) / median:.2f} times the "
            f"median ({median:.3g}), and {above:.3g} was wanted. This tower needs no registers; or "
            "give threshold= or at=, or more pictures."
        )
    if highest is None:
        highest = _appear(seen.norms, outliers, at % depth)
    layers = range(highest % depth + 1)
    with_any = outliers.any(1)
    share = outliers.float() / outliers.sum(1, keepdim=True).clamp(min=1)  # [N, patches]
    found = []
    for layer in layers:
        values = seen.neurons[layer]  # [N, S, n]
        patches = values[:, seen.lead :]
        scores = torch.einsum("np,npm->nm", share.to(values), patches.abs())
        if sparse:
            scores = scores * ((values < 0.5).float().mean(1) >= 0.5)
        mean = scores[with_any].mean(0)
        found += [RegisterNeuron(layer, n, float(score)) for n, score in enumerate(mean)]
    ranking = tuple(sorted(found, key=lambda one: -one.score))
    return RegisterNeurons(ranking, above, highest % depth, outliers)


@torch.no_grad()
def patch_norms(
    model: nn.Module, inputs: Any, *, lead: int | None = None, stack: str = "vision"
) -> Tensor:
    """The norms of the patches behind every block: ``[layers, N, patches]``, float32.

    Parameters are those of :func:`register_neurons`. In a tower with outliers the largest is many
    times the median.
    """
    return _look(model, inputs, stack, lead, neurons=False).norms


@dataclass(frozen=True, eq=False)
class _Seen:
    norms: Tensor  # [layers, N, patches]
    neurons: list[Tensor]  # a layer: [N, S, neurons]
    lead: int


class _Keep(Method):
    """Keep what leaves the blocks (its norms) and what goes into the MLPs' down projections."""

    def __init__(self, stack: str, lead: int | None, neurons: bool) -> None:
        super().__init__(stack=stack)
        self.lead = lead
        self.wanted = neurons
        self.norms: dict[int, list[Tensor]] = {}
        self.values: dict[int, list[Tensor]] = {}

    def hooks(
        self, model: nn.Module, sites: Sequence[Site]
    ) -> Iterator[tuple[nn.Module, str, Any]]:
        tower = Tower.of(model, sites, "register_neurons")
        if self.lead is None:
            self.lead = tower.lead()
        for layer, block in enumerate(tower.blocks):
            norms = self.norms.setdefault(layer, [])
            values = self.values.setdefault(layer, [])

            def keep(
                module: Any, args: Any, kwargs: Any, out: Any, norms: list[Tensor] = norms
            ) -> None:
                hidden = out if isinstance(out, Tensor) else out[0]
                norms.append(hidden[:, self.lead :].float().norm(dim=-1))

            def note(module: Any, args: Any, kwargs: Any, values: list[Tensor] = values) -> None:
                values.append(args[0].float())

            yield block, "post", keep
            if self.wanted:
                yield tower.down(layer), "pre", note


def _look(model: Any, inputs: Any, stack: str, lead: int | None, neurons: bool) -> _Seen:
    if not isinstance(model, nn.Module) or model.training:
        raise FoveateError(
            f"A model in evaluation mode was wanted, and {type(model).__name__} was given: call "
            "model.eval() first."
        )
    batches = [inputs] if isinstance(inputs, Mapping | Tensor) else inputs
    if not isinstance(batches, Sequence) or not batches:
        raise FoveateError(
            'The model\'s inputs were wanted, such as {"pixel_values": pixels}, or a sequence of '
            f"them; {type(inputs).__name__} was given."
        )
    keep = _Keep(stack, lead, neurons)
    with attach(model, keep):
        for batch in batches:
            if isinstance(batch, Tensor):
                model(pixel_values=batch)
            else:
                model(**batch)
    assert keep.lead is not None
    try:
        layers = [torch.cat(rows) for rows in keep.norms.values()]
        least = min(rows.shape[1] for rows in layers)  # registers stand behind the patches
        norms = torch.stack([rows[:, :least] for rows in layers])
    except RuntimeError as error:
        raise FoveateError("Pictures of one size were wanted: their patches differ.") from error
    return _Seen(norms, [torch.cat(rows) for rows in keep.values.values() if rows], keep.lead)


def _appear(norms: Tensor, outliers: Tensor, at: int) -> int:
    """The first layer behind which the outliers stand out on average."""
    for layer in range(at):
        if float(norms[layer][outliers].mean()) > STANDS_OUT * float(norms[layer].median()):
            return layer
    return at
