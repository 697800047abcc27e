"""Heads: those that say where an answer stands, and those that read the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import FoveateError
from .look import forced, prompted
from .places import Places

__all__ = ["Located", "locate", "reading"]

_KNOWN = 12  # items with known evidence that heads are chosen and checked on
_LEAST = 5  # of these, below which a general calibration is taken instead
_SHARE = 0.05  # of all heads that are asked
_CLEAR = 1.5  # times the mass of the second, for the first to be the evidence
_UNITS = 64  # units of a context up to which heads are asked


@dataclass(frozen=True)
class Located:
    """The items, with evidence found by heads where that can be trusted.

    Attributes
    ----------
    cases : list of Places
    found : int
        By heads.
    hits, tried : int
        Items with known evidence on which heads, chosen on the others, point at it.
    how : str
        ``""`` (nothing was left to locate), ``these items``, ``needles`` (heads calibrated on
        needle prompts, not checked here) or ``not trusted``.
    """

    cases: list[Places]
    found: int = 0
    hits: int = 0
    tried: int = 0
    how: str = ""


def locate(
    model: nn.Module, tokenizer: Any, cases: Sequence[Places], *, batch_size: int, seed: int
) -> Located:
    """Find the evidence that was neither given nor stands there in the answer's words.

    The right answer is put into the model's mouth, and the unit that copying heads look at is taken
    if it stands out. The heads are those that point at the evidence where it is known; if they,
    each time chosen on the other items, find it no oftener than chance, nothing is located.
    """
    lost = [i for i, c in enumerate(cases) if not c.evidence and 1 < len(c.units) <= _UNITS]
    lost = [i for i in lost if cases[i].item.answer.strip()]
    if not lost:
        return Located(list(cases))
    known = [
        i for i, c in enumerate(cases)
        if c.unit is not None and 1 < len(c.units) <= _UNITS and c.item.answer.strip()
    ][:_KNOWN]  # fmt: skip
    asked = [*lost, *known] if len(known) >= _LEAST else lost
    masses = _forced(model, tokenizer, [cases[i] for i in asked], batch_size)
    hits = tried = 0
    if len(known) >= _LEAST:
        at = [cases[i].unit or 0 for i in known]
        given = masses[len(lost) :]
        points = torch.stack([m.argmax(0) == unit for m, unit in zip(given, at, strict=True)])
        points = points.float()  # [n, L, H]
        for n, (mass, unit) in enumerate(zip(given, at, strict=True)):
            heads = _best((points.sum(0) - points[n]) / (len(known) - 1))
            hits += int(mass[:, heads].mean(1).argmax()) == unit
        tried = len(known)
        chance = sum(1 / len(m) for m in given) / tried
        if _tail(hits, tried, chance) >= 0.05:
            return Located(list(cases), 0, hits, tried, "not trusted")
        heads, how = _best(points.mean(0)), "these items"
    else:
        scores = _needles(model, tokenizer, seed)
        if scores is None:
            return Located(list(cases), how="not trusted")
        heads, how = _best(scores), "needles"
    found, placed = 0, list(cases)
    for i, mass in zip(lost, masses, strict=False):
        first, second = mass[:, heads].mean(1).topk(2)[0].tolist()
        if first >= _CLEAR * second:
            placed[i] = cases[i].by_heads(int(mass[:, heads].mean(1).argmax()), seed)
            found += 1
    return Located(placed, found, hits, tried, how)


def reading(last: Sequence[Tensor], right: Sequence[bool]) -> tuple[list[Tensor], str]:
    """For every item the heads that look at the evidence most in the *other* passing items.

    Leaving an item out of the choice of its own heads keeps the comparison fair: heads chosen on
    passing items look at the evidence more there for that reason alone.

    Parameters
    ----------
    last : sequence of Tensor
        ``[L, H]`` an item: share on the evidence.
    right : sequence of bool

    Returns
    -------
    list of Tensor, str
        bool ``[L, H]`` an item; ``passing`` or, where those are fewer than 4, ``all``.
    """
    passing = [i for i, good in enumerate(right) if good]
    basis = "passing" if len(passing) >= 4 else "all"
    pool = passing if basis == "passing" else list(range(len(last)))
    total = torch.stack([last[i].nan_to_num() for i in pool]).sum(0)
    chosen = []
    for i, own in enumerate(last):
        others = total - own.nan_to_num() if i in pool and len(pool) > 1 else total
        chosen.append(_best(others))
    return chosen, basis


def _best(scores: Tensor) -> Tensor:
    """The highest twentieth of heads, at least one; bool ``[L, H]``. Earlier ones at a tie."""
    flat = scores.flatten()
    count = max(1, round(_SHARE * flat.numel()))
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[flat.sort(descending=True, stable=True).indices[:count]] = True
    return mask.view(scores.shape)


def _forced(
    model: nn.Module, tokenizer: Any, cases: Sequence[Places], batch_size: int
) -> list[Tensor]:
    return [
        one
        for asked in prompted(model, tokenizer, cases, batch_size)
        for one in forced(model, tokenizer, asked)
    ]


def _needles(model: nn.Module, tokenizer: Any, seed: int) -> Tensor | None:
    """Retrieval scores of a few short needle prompts; None for a model that answers none."""
    from ...find.heads import find_heads

    try:
        return find_heads(
            model, tokenizer, "retrieval", mode="forced", n=8, length=192, seed=seed, cache=True
        ).values
    except FoveateError:
        return None


def _tail(hits: int, n: int, p: float) -> float:
    """The chance of at least so many hits in n, each with probability p."""
    return sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(hits, n + 1))
