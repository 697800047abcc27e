"""Which head gets which pattern, where all of them together may show so many pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import FoveateError

__all__ = ["by_mass", "protect", "shuffled", "spent"]


def by_mass(masses: Tensor, costs: Sequence[float], budget: float, *, layers: bool) -> Tensor:
    """Give every head the pattern that keeps most mass for its density, within a budget.

    All begin with the cheapest pattern; then the upgrades that gain most mass a unit of density
    are taken, as long as they fit (the greedy solution of a knapsack with one choice a head, on
    the concave hull of each head's choices).

    Parameters
    ----------
    masses : Tensor
        ``[patterns, layers, heads]``, as :func:`~foveate.find.tuning.masses.retained` gives it.
    costs : sequence of float
        The share of pairs of each pattern.
    budget : float
        Mean share over all heads.
    layers : bool
        One pattern a layer instead of one a head.

    Returns
    -------
    Tensor
        int64 ``[layers, heads]``: the pattern's index; ``len(costs)`` is dense.

    Raises
    ------
    FoveateError
        If even the cheapest pattern everywhere exceeds the budget.
    """
    P, L, H = masses.shape
    if len(costs) != P:
        raise FoveateError(f"{P} patterns' masses and {len(costs)} costs were given.")
    value = masses.double().mean(-1, keepdim=True) if layers else masses.double()
    value = torch.cat([value, torch.ones_like(value[:1])]).flatten(1)  # dense keeps everything
    price = [*costs, 1.0]
    units = value.shape[1]
    first = min(range(P + 1), key=lambda p: price[p])
    left = budget * units - price[first] * units
    if left < -1e-9:
        raise FoveateError(
            f"The cheapest pattern shows {price[first]:.3g} of the pairs, more than the budget of "
            f"{budget:g}: a larger budget was wanted."
        )
    steps = []  # (gain a unit, unit, order within it, pattern)
    for unit in range(units):
        here, order = first, 0
        while True:
            gains = [
                ((float(value[p, unit] - value[here, unit]) / (price[p] - price[here])), -p)
                for p in range(P + 1)
                if price[p] > price[here] + 1e-12 and value[p, unit] > value[here, unit]
            ]
            if not gains:
                break
            gain, p = max(gains)
            steps.append((-gain, unit, order, -p))
            here, order = -p, order + 1
    chosen = torch.full((units,), first, dtype=torch.long)
    for _, unit, _, p in sorted(steps):
        extra = price[p] - price[int(chosen[unit])]
        if extra <= left + 1e-9:
            chosen[unit] = p
            left -= extra
    return chosen.view(L, -1).expand(L, H).clone()


def protect(scores: Tensor, costs: Sequence[float], budget: float) -> Tensor:
    """The heads with the highest scores dense, the others on the cheapest pattern, in a budget.

    Parameters
    ----------
    scores : Tensor
        ``[layers, heads]``; NaN is never protected.
    Returns
    -------
    Tensor
        int64 ``[layers, heads]`` as in :func:`by_mass`.
    """
    thin = min(range(len(costs)), key=costs.__getitem__)
    flat = scores.flatten().nan_to_num(nan=-float("inf"))
    count = int(flat.numel() * (budget - costs[thin]) / (1 - costs[thin]) + 1e-9)
    chosen = torch.full(flat.shape, thin, dtype=torch.long)
    order = flat.argsort(descending=True, stable=True)[: max(0, count)]
    chosen[order[flat[order] > -float("inf")]] = len(costs)
    return chosen.view(scores.shape)


def shuffled(chosen: Tensor, seed: int) -> Tensor:
    """The same patterns as often, on heads drawn blindly: the control that a choice needs."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(chosen.numel(), generator=generator)
    return chosen.flatten()[order].view(chosen.shape)


def spent(chosen: Tensor, costs: Sequence[float]) -> float:
    """The mean share of pairs over all heads."""
    return float(torch.tensor([*costs, 1.0], dtype=torch.double)[chosen].mean())


def choices(chosen: Tensor, patterns: Sequence[Any]) -> list[tuple[Any, dict[int, list[int]]]]:
    """As :class:`~foveate.methods.tuned.Tuned` takes them; dense heads are not named."""
    found: dict[int, dict[int, list[int]]] = {}
    for layer, row in enumerate(chosen.tolist()):
        for head, p in enumerate(row):
            if p < len(patterns):
                found.setdefault(p, {}).setdefault(layer, []).append(head)
    return [(patterns[p], where) for p, where in sorted(found.items())]
