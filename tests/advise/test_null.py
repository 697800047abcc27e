"""Where no candidate is better, a gain is claimed no more often than the level says."""

from __future__ import annotations

import numpy as np
import pytest

from foveate.statistics import wilson
from recorded import NOTHING, advised, candidate

POOL = [candidate(f"c{i}", ("prompt", "method")[i % 2], 1 + (i % 3 == 2)) for i in range(12)]
SAMPLES = 80


@pytest.mark.parametrize(("n", "answers"), [(50, 10**6), (50, 130), (110, 300)])
def test_claims_without_a_gain_keep_the_level(n: int, answers: int) -> None:
    claims = 0
    for seed in range(SAMPLES):
        rng = np.random.default_rng(seed)
        hard = rng.beta(0.5, 0.9, n)  # items differ in how often they are answered
        names = [NOTHING.name, *(one.name for one in POOL)]
        rows = {name: rng.random(n) < hard for name in names}
        claims += advised(rows, POOL, seed=seed, answers=answers).claimed
    # would a level of 5 % be refused by what was seen?
    assert wilson(claims, SAMPLES, 0.99)[0] < 0.05, claims


def test_the_same_machinery_claims_what_is_there() -> None:
    claims = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        hard = rng.beta(0.5, 0.9, 50) * 0.6
        rows = {"nothing": rng.random(50) < hard} | {c.name: rng.random(50) < hard for c in POOL}
        rows["c6"] = rng.random(50) < 0.8
        claims += advised(rows, POOL, seed=seed, answers=200).recommended == "c6"
    assert claims >= 11
