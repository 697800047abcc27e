"""Heads that point at the evidence are found where it is known, and not trusted where they miss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from foveate.advise.diagnosis import heads
from foveate.advise.diagnosis.places import Places
from foveate.errors import FoveateError
from foveate.tasks import Questions

NOTES = [
    f"The tower of {name} is old. Nobody knows who made it." for name in "Ash Oak Elm Fir".split()
]


def case(n: int, known: bool) -> Places:
    record = {"id": str(n), "prompt": "Which tower?", "context": NOTES, "answer": "zzz"}
    if known:
        record["evidence"] = n % 4
    (item,) = Questions.of([record]).items()
    return Places.of(item, right=False)


def planted(noise: float, seed: int = 0) -> Any:
    """Masses ``[4 units, 2 layers, 10 heads]`` in which head (1, 3) alone points at unit n % 4."""
    g = torch.Generator().manual_seed(seed)

    def forced(model: Any, tokenizer: Any, cases: list[Places], batch_size: int) -> list[Tensor]:
        found = []
        for one in cases:
            mass = torch.rand(4, 2, 10, generator=g) * 0.1
            mass[int(one.item.id) % 4, 1, 3] = 1.0 - noise
            found.append(mass)
        return found

    return forced


def test_a_head_that_points_at_known_evidence_finds_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heads, "_forced", planted(0.0))
    cases = [case(n, known=n < 8) for n in range(11)]
    found = heads.locate(None, None, cases, batch_size=4, seed=0)  # type: ignore[arg-type]
    assert (found.how, found.found, found.hits, found.tried) == ("these items", 3, 8, 8)
    for n in (8, 9, 10):
        assert found.cases[n].located == "heads" and found.cases[n].unit == n % 4
        assert found.cases[n].control and found.cases[n].control != found.cases[n].evidence
    assert found.cases[:8] == cases[:8]


def test_heads_that_find_it_by_chance_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "_forced", planted(1.0))
    cases = [case(n, known=n < 8) for n in range(11)]
    found = heads.locate(None, None, cases, batch_size=4, seed=0)  # type: ignore[arg-type]
    assert (found.how, found.found, found.tried) == ("not trusted", 0, 8)
    assert found.cases == cases


def test_a_unit_that_does_not_stand_out_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def flat(model: Any, tokenizer: Any, cases: list[Places], batch_size: int) -> list[Tensor]:
        masses = planted(0.0)(model, tokenizer, cases, batch_size)
        for one, mass in zip(cases, masses, strict=True):
            if not one.evidence:
                mass[:] = 0.25
        return masses

    monkeypatch.setattr(heads, "_forced", flat)
    found = heads.locate(
        None, None, [case(n, known=n < 8) for n in range(11)], batch_size=4, seed=0
    )  # type: ignore[arg-type]
    assert found.how == "these items" and found.found == 0


def test_without_known_evidence_heads_come_from_needles(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.zeros(2, 10)
    scores[1, 3] = 1
    monkeypatch.setattr(heads, "_forced", planted(0.0))
    monkeypatch.setattr(heads, "_needles", lambda *_: scores)
    cases = [case(n, known=False) for n in range(4)]
    found = heads.locate(None, None, cases, batch_size=4, seed=0)  # type: ignore[arg-type]
    assert (found.how, found.found, found.tried) == ("needles", 4, 0)
    assert [one.unit for one in found.cases] == [0, 1, 2, 3]


def test_a_model_without_retrieval_heads_locates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> None:
        raise FoveateError("None of the items was answered rightly.")

    monkeypatch.setattr(heads, "_forced", planted(0.0))
    monkeypatch.setattr("foveate.find.heads.find_heads", none)
    cases = [case(n, known=False) for n in range(4)]
    found = heads.locate(None, None, cases, batch_size=2, seed=0)  # type: ignore[arg-type]
    assert found.how == "not trusted" and found.cases == cases


def test_nothing_is_asked_where_all_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "_forced", None)  # would raise
    cases = [case(n, known=True) for n in range(3)]
    assert heads.locate(None, None, cases, batch_size=4, seed=0).cases == cases  # type: ignore[arg-type]


def test_reading_heads_are_chosen_on_the_other_items() -> None:
    """A head that shines on one item alone must not be chosen for it by that item."""
    last = [torch.full((2, 10), 0.01) for _ in range(5)]
    last[0][0, 0] = 0.5  # the first item's alone
    for one in last:
        one[1, 5] = 0.1
    chosen, basis = heads.reading(last, [True] * 5)
    assert basis == "passing"
    assert chosen[0].nonzero().tolist() == [[1, 5]]
    assert chosen[1].nonzero().tolist() == [[0, 0]]  # 0.5 / 4 on average of the others
    chosen, basis = heads.reading(last, [True] * 3 + [False] * 2)
    assert basis == "all"
    chosen, _ = heads.reading(last, [True] * 4 + [False])
    assert chosen[4].nonzero().tolist() == [[0, 0]]


def test_reading_heads_of_noise_favour_nobody() -> None:
    """Where failing and passing items are alike, the heads chosen on passing ones see no more."""
    g = torch.Generator().manual_seed(0)
    gaps = []
    for _ in range(200):
        last = [torch.rand(4, 10, generator=g) for _ in range(20)]
        right = [True] * 10 + [False] * 10
        chosen, _ = heads.reading(last, right)
        share = [float(one[mask].mean()) for one, mask in zip(last, chosen, strict=True)]
        gaps.append(sum(share[:10]) / 10 - sum(share[10:]) / 10)
    mean = sum(gaps) / len(gaps)
    assert abs(mean) < 0.05  # heads chosen with their own item too: 0.18
