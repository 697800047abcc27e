"""Measure: what is refused, and what its keys are."""

from __future__ import annotations

import pytest
import torch

import foveate as fv
from families import build, inputs


def test_refused() -> None:
    with pytest.raises(fv.FoveateError, match="nothing to measure"):
        fv.Measure()
    with pytest.raises(fv.FoveateError, match=r"call it: fv\.entropy\(\)"):
        fv.Measure(fv.entropy)  # type: ignore[arg-type]
    with pytest.raises(fv.FoveateError, match="'entropy' was given"):
        fv.Measure("entropy")  # type: ignore[arg-type]
    with pytest.raises(fv.FoveateError, match="the key 'entropy'"):
        fv.Measure(fv.entropy(), fv.entropy(at="before"))
    with pytest.raises(fv.FoveateError, match=r"the key 'top\.values'"):
        fv.Measure(fv.top(2), fv.top(3))


@torch.no_grad()
def test_keys() -> None:
    model = build("llama")
    reads = (
        fv.mass("r"),
        fv.mass("r", as_="own", at="before"),
        fv.entropy(),
        fv.top(2, as_="best"),
    )
    reads += (fv.distance(), fv.distance(signed=True), fv.received(), fv.block_map(4), fv.max())
    with fv.attach(model, fv.Measure(*reads), regions={"r": torch.arange(11) < 2}) as run:
        model(**inputs("llama"))
    assert list(run.results) == [
        *("mass:r", "own", "entropy", "best.values", "best.indices", "distance"),
        *("distance_signed", "received", "block_map", "max"),
    ]
    assert run.results["block_map"].prefill.shape == (2, 2, 4, 4, 4)
    assert run.results["received"].prefill.shape == (2, 2, 4, 11)
    assert run.results["best.indices"].prefill.shape == (2, 2, 4, 11, 2)
