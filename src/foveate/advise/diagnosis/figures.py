"""The figures of a diagnosis: rows of failing against passing items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
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
    group, about = "the data", "items with the evidence in the {} third of the context"
    rows = [
        means("tokens", "tokens of the prompt", group, "tokens",
              *_sides((one.right, one.tokens) for one in items), seed=seed),
        means("passages", "passages (or sentences) of the context", group, "passages",
              *_sides((c.right, len(c.units)) for c in cases if c.units), seed=seed),
    ]  # fmt: skip
    third = [
        (c.right, min(2, int(3 * c.place)))
        for c in cases
        if c.place is not None and len(c.units) > 2
    ]
    for number, name in enumerate(THIRDS):
        bad, good = _sides((right, at == number) for right, at in third)
        rows.append(
            Row(f"place.{name}", about.format(name), group, "items",
                float(sum(bad)), float(sum(good)), len(bad), len(good))
        )  # fmt: skip
    inner = _sides((right, at == 1) for right, at in third)
    return [*rows, counts("place.inner", "evidence in the middle third", group, *inner)]


def _of_looking(items: Sequence[ItemDiagnosis], looked: Sequence[Looked], seed: int) -> list[Row]:
    every = list(zip(items, looked, strict=True))
    known = [(one, at) for one, at in every if at.evidence_tokens]
    here = [one for one, _ in known]

    def share(key: str, name: str, group: str, values: Iterable[tuple[bool, Any]]) -> Row:
        return means(key, name, group, "share of attention", *_sides(values), seed=seed)

    rows = []
    for part in PARTS:
        those, on = here if part == "evidence" else items, _NAMES[part]
        rows += [
            share(f"{part}.last", f"last prompt token, {on}", "looked at",
                  ((one.right, one.last[part]) for one in those)),
            share(f"{part}.answer", f"tokens that chose the reply, {on}", "looked at",
                  ((one.right, one.answer[part]) for one in those)),
        ]  # fmt: skip
    density = [(one.right, one.last["evidence"] * one.tokens / one.evidence_tokens) for one in here]
    rows += [
        counts("evidence.little", f"under {100 * LITTLE:.0f} % of the last token on the evidence",
               "looked at", *_sides((one.right, one.last["evidence"] < LITTLE) for one in here)),
        means("evidence.density", "its share of the attention over its share of the tokens",
              "looked at", "ratio", *_sides(density), seed=seed),
        means("entropy.last", "entropy of the last prompt token", "looked at", "nats",
              *_sides((one.right, one.entropy) for one in items), seed=seed),
    ]  # fmt: skip
    for part, pairs in (("evidence", known), ("sink", every)):
        number = PARTS.index(part)
        for name, layers in _depths(looked):
            about = f"last prompt token, {_NAMES[part]}, {name} third of the layers"
            values = ((one.right, float(at.last[number][layers].nanmean())) for one, at in pairs)
            rows.append(share(f"{part}.last.{name}", about, "by depth", values))
    lead = "last prompt token, on the evidence, "
    return [
        *rows,
        share("evidence.reading", f"{lead}the heads that read it", "by heads",
              ((one.right, one.reading) for one in here)),
        share("evidence.others", f"{lead}all other heads", "by heads",
              ((one.right, one.others) for one in here)),
    ]  # fmt: skip


def _of_injection(
    cases: Sequence[Places],
    items: Sequence[ItemDiagnosis],
    focus: Sequence[float | None],
    seed: int,
) -> list[Row]:
    group = "injection"
    values = zip((one.right for one in items), focus, strict=True)
    return [
        counts("suspicious", "a sentence of the context reads like an instruction", group,
               *_sides((c.right, bool(c.suspicious)) for c in cases if c.context)),
        means("focus", "last prompt token, on the question, of that on question and context",
              group, "share of attention", *_sides(values), seed=seed),
    ]  # fmt: skip


def _of_mattering(items: Sequence[ItemDiagnosis], seed: int) -> list[Row]:
    names = {
        "hidden": "right with the evidence hidden",
        "raised": "right with the evidence raised",
        "control": "right with another passage raised",
        "disarmed": "right with what reads like an instruction hidden",
    }
    rows = []
    for key, name in names.items():
        bad, good = _sides((one.right, getattr(one, key)) for one in items)
        row = means(key, name, "did it matter", "share of items right", bad, good)
        # what raising did is compared with another passage, not failing items with passing ones
        row = replace(row, low=None, high=None, p=None, test="")
        both = [(one.control, one.raised) for one in items if None not in (one.control, one.raised)]
        if key == "raised" and both:
            other, own = zip(*both, strict=True)
            low, high = paired_bootstrap(other, own, seed=seed)
            said = "McNemar, against another passage raised"
            row = replace(row, low=low, high=high, p=mcnemar(other, own), test=said)
        rows.append(row)
    return rows


def _sides(values: Iterable[tuple[bool, Any]]) -> tuple[list[Any], list[Any]]:
    """Values of failing and of passing items, from (right, value); None does not count."""
    known = [(right, value) for right, value in values if value is not None]
    return [v for right, v in known if not right], [v for right, v in known if right]


def _depths(looked: Sequence[Looked]) -> list[tuple[str, list[int]]]:
    layers = looked[0].last.shape[1]
    if layers < 3:
        return []
    parts = torch.arange(layers).tensor_split(3)
    return [(name, part.tolist()) for name, part in zip(THIRDS, parts, strict=True)]
