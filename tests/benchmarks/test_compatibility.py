"""The page of what goes together is that of the results, and the results are of all there is."""

from __future__ import annotations

import json

from benchmarks import compatibility
from foveate.methods.stable import STABLE
from matrix import PAIRS, PLACES, place


def test_the_page_is_that_of_the_results() -> None:
    result = json.loads(compatibility.RESULTS.read_text())
    assert compatibility.PAGE.read_text() == compatibility.page(result)
    assert set(result["places"]) == {
        name if alone(name) else f"{name}.{stack}" for name, stack in PLACES
    }
    for title, found in result["places"].items():
        assert found["asked"] in (len(PAIRS), 3 * len(PAIRS)), title
        assert not found["wrong"], title
        named = {name for row in (*found["refused"], *found["alone"]) for name in row["methods"]}
        assert named <= set(STABLE)


def alone(name: str) -> bool:
    return sum(family == name for family, _ in PLACES) == 1


def test_one_place_is_asked_again(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """What is written down is what is asked: some pairs of one place."""
    m = compatibility._matrix()
    some = [("Emphasize", "Hide"), ("DeltaCorrection", "ACT"), ("Tuned", "Capture")]
    monkeypatch.setattr(m, "PAIRS", some)
    found = compatibility.ask("bert", "encoder")
    assert found["asked"] == 9 and not found["wrong"]
    assert {tuple(row["methods"]) for row in found["refused"]} == {("DeltaCorrection", "ACT")}
    assert {tuple(row["methods"]) for row in found["alone"]} == {("Tuned",)}
    assert found["equal"] == 3
    assert repr(place("bert", "encoder")) == "bert"
