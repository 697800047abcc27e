"""The figures of a diagnosis: rows of failing against passing items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...statistics import mcnemar, paired_bootstrap
from .compare import counts, means
from .look import PARTS, Looked
from .places import Places
from .result import ItemDiagnosis, Row

__all__ = ["LITTLE", "THIRDS", "figures"]

LITTLE = 0.02  # a share of attention that is called little
THIRDS = ("first", "middle", "last")
_NAMES = {
    "evidence": "on the evidence",
    "sink": "on the first token and special ones",
    "passages": "on the rest of the context",
    "question": "on the question",
    "rest": "on the rest of the prompt and the reply",
}


def figures(
    cases: Sequence[Places],
    items: Sequence[ItemDiagnosis],
    looked: Sequence[Looked],
    focus: Sequence[float | None],
    seed: int,
) -> tuple[Row, ...]:
    """All rows.

    Parameters
    ----------
    cases : sequence of Places
        All items, also those that were not looked at: for what can be read off the data.
    items, looked, focus : sequence
        Those that were looked at, in one order.
    """
    rows = _of_the_data(cases, items, seed)
    if items:
        rows += _of_looking(items, looked, seed)
        rows += _of_injection(cases, items, focus, seed)
        rows += _of_mattering(items, seed)
    return tuple(row for row in rows if row.n_failing + row.n_passing)


def _of_the_data(cases: Sequence[Places], items: Sequence[ItemDiagnosis], seed: int) -> list[Row]:
    group = "the data"
    rows = [
        means("tokens", "tokens of the prompt", group, "tokens",
              *_split(items, lambda one: one.tokens), seed=seed),
        means("passages", "passages (or sentences) of the context", group, "passages",
              *_split([c for c in cases if c.units], lambda c: len(c.units)), seed=seed),
    ]  # fmt: skip
    placed = [c for c in cases if c.place is not None and len(c.units) > 2]
    sides = [[c for c in placed if c.right is side] for side in (False, True)]
    for name, inside in zip(THIRDS, _thirds(placed), strict=True):
        held = [sum(c in inside for c in side) for side in sides]
        rows.append(
            Row(f"place.{name}", f"items with the evidence in the {name} third of the context",
                group, "items", *map(float, held), *map(len, sides))
        )  # fmt: skip
    middle = _thirds(placed)[1]
    rows.append(
        counts("place.inner", "evidence in the middle third, not at an end", group,
               *([c in middle for c in side] for side in sides))
    )  # fmt: skip
    return rows


def _of_looking(items: Sequence[ItemDiagnosis], looked: Sequence[Looked], seed: int) -> list[Row]:
    share = "share of attention"
    known = [(one, at) for one, at in zip(items, looked, strict=True) if at.evidence_tokens]
    here = [one for one, _ in known]
    rows = []
    for part in PARTS:
        those = here if part == "evidence" else items
        for side, said in (
            ("last", "last prompt token"),
            ("answer", "tokens that chose the reply"),
        ):
            rows.append(
                means(f"{part}.{side}", f"{said}, {_NAMES[part]}", "looked at", share,
                      *_split(those, lambda one, s=side, p=part: getattr(one, s)[p]), seed=seed)
            )  # fmt: skip
    rows += [
        counts("evidence.little", f"under {100 * LITTLE:.0f} % of the last token on the evidence",
               "looked at", *_split(here, lambda one: one.last["evidence"] < LITTLE)),
        means("evidence.density", "its share of the attention over its share of the tokens",
              "looked at", "ratio",
              *_split(here, lambda one: one.last["evidence"] * one.tokens / one.evidence_tokens),
              seed=seed),
        means("entropy.last", "entropy of the last prompt token", "looked at", "nats",
              *_split(items, lambda one: one.entropy), seed=seed),
    ]  # fmt: skip
    for part in ("evidence", "sink"):
        pairs = known if part == "evidence" else list(zip(items, looked, strict=True))
        for name, layers in _depths(looked):
            rows.append(
                means(f"{part}.last.{name}", f"last prompt token, {_NAMES[part]}, {name} third of "
                      "the layers", "by depth", share,
                      *_split(pairs, lambda pair, p=part, at=layers: float(
                          pair[1].last[PARTS.index(p)][at].nanmean())), seed=seed)
            )  # fmt: skip
    rows += [
        means("evidence.reading", "last prompt token, on the evidence, the heads that read it",
              "by heads", share, *_split(here, lambda one: one.reading), seed=seed),
        means("evidence.others", "last prompt token, on the evidence, all other heads",
              "by heads", share, *_split(here, lambda one: one.others), seed=seed),
    ]  # fmt: skip
    return rows


def _of_injection(
    cases: Sequence[Places],
    items: Sequence[ItemDiagnosis],
    focus: Sequence[float | None],
    seed: int,
) -> list[Row]:
    group = "injection"
    told = [c for c in cases if c.context]
    pairs = [(one, value) for one, value in zip(items, focus, strict=True) if value is not None]
    return [
        counts("suspicious", "a sentence of the context reads like an instruction", group,
               *_split(told, lambda c: bool(c.suspicious))),
        means("focus", "last prompt token, on the question, of that on question and context",
              group, "share of attention", *_split(pairs, lambda pair: pair[1]), seed=seed),
    ]  # fmt: skip


def _of_mattering(items: Sequence[ItemDiagnosis], seed: int) -> list[Row]:
    group, unit = "did it matter", "share of items right"
    names = {
        "hidden": "right with the evidence hidden",
        "raised": "right with the evidence raised",
        "control": "right with another passage raised",
        "disarmed": "right with what reads like an instruction hidden",
    }
    rows = []
    for key, name in names.items():
        asked = [one for one in items if getattr(one, key) is not None]
        sides = _split(asked, lambda one, k=key: getattr(one, k))
        low = high = p = None
        if key == "raised":
            both = [one for one in asked if one.control is not None]
            if both:
                pair = [one.control for one in both], [one.raised for one in both]
                low, high = paired_bootstrap(*pair, seed=seed)  # type: ignore[arg-type]
                p = mcnemar(*pair)
        values = (sum(side) / len(side) if side else None for side in sides)
        rows.append(
            Row(key, name, group, unit, *values, *map(len, sides), low, high, p,
                "" if p is None else "McNemar, against another passage raised")
        )  # fmt: skip
    return rows


def _split(those: Sequence[Any], value: Callable[[Any], Any]) -> tuple[list[Any], list[Any]]:
    """A value of the failing ones, and of the passing ones; None does not count."""
    sides: tuple[list[Any], list[Any]] = ([], [])
    for one in those:
        found = value(one)
        if found is not None:
            sides[(one[0] if isinstance(one, tuple) else one).right].append(found)
    return sides


def _thirds(placed: Sequence[Places]) -> list[list[Places]]:
    """The items by where their evidence stands: in the first, middle, last third."""
    found: list[list[Places]] = [[], [], []]
    for case in placed:
        found[min(2, int(3 * (case.place or 0)))].append(case)
    return found


def _depths(looked: Sequence[Looked]) -> list[tuple[str, list[int]]]:
    layers = looked[0].last.shape[1]
    if layers < 3:
        return []
    parts = torch.arange(layers).tensor_split(3)
    return [(name, part.tolist()) for name, part in zip(THIRDS, parts, strict=True)]
