"""Emphasize: gains of every form against the formula, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from families import build, inputs, logits

R = {"r": torch.arange(11) < 4}


@torch.no_grad()
def masses(*methods: Any, regions: Any = R, name: str = "llama") -> tuple[Tensor, Tensor]:
    """``(before, after)`` of the region's mass at every call, ``[L, B, H, Sq]``."""
    reads = (fv.mass("r", at="before", as_="before"), fv.mass("r", as_="after"))
    model = build(name)
    with fv.attach(model, *methods, fv.Measure(*reads), regions=regions) as run:
        model(**inputs(name))
    return run.results["before"].prefill, run.results["after"].prefill


def moved(p: Tensor, gain: Any) -> Tensor:
    g = torch.as_tensor(gain)
    return g * p / (1 + (g - 1) * p)


@pytest.mark.parametrize("gain", [0.02, 0.5, 5, 5.0, math.e**3, 1e6])
def test_a_number(gain: float) -> None:
    before, after = masses(fv.Emphasize("r", gain))
    # a mass near 1 is known to float32's last digit, which a small gain magnifies
    assert torch.allclose(after, moved(before, gain), atol=1e-5 + 2e-7 / gain)


HEADS = torch.tensor([1.0, 2.0, 4.0, 0.5])
FORMS: dict[str, Any] = {
    "list": [1.0, 2.0, 4.0, 0.5],
    "tensor": HEADS,
    "double": HEADS.double(),
    "row": HEADS[None],
    "column": torch.tensor([[2.0], [3.0]]),
    "batch": torch.stack([HEADS, HEADS + 1]),
    "scalar": torch.tensor(3.0),
}


@pytest.mark.parametrize("form", FORMS)
def test_gains_per_head_and_row(form: str) -> None:
    before, after = masses(fv.Emphasize("r", FORMS[form]))
    gain = torch.as_tensor(FORMS[form]).float()
    gain = gain.reshape((1,) * (2 - gain.dim()) + tuple(gain.shape))[..., None]
    assert torch.allclose(after, moved(before, gain), atol=1e-5)


def test_gains_per_layer() -> None:
    before, after = masses(fv.Emphasize("r", {0: 3.0, -1: [1.0, 1.0, 9.0, 1.0]}))
    assert torch.allclose(after[0], moved(before[0], 3.0), atol=1e-5)
    last = torch.tensor([1.0, 1.0, 9.0, 1.0])[:, None]
    assert torch.allclose(after[1], moved(before[1], last), atol=1e-5)
    before, after = masses(fv.Emphasize("r", {1: 3.0}))
    assert torch.allclose(after[0], before[0], atol=1e-6)


def test_some_heads_of_some_layers() -> None:
    before, after = masses(fv.Emphasize("r", 6.0, heads={1: [0, 3]}))
    assert torch.allclose(after[0], before[0], atol=1e-6)
    gain = torch.tensor([6.0, 1.0, 1.0, 6.0])[:, None]
    assert torch.allclose(after[1], moved(before[1], gain), atol=1e-5)
    before, after = masses(fv.Emphasize("r", FORMS["list"], heads=[1, 2]))
    gain = torch.tensor([1.0, 2.0, 4.0, 1.0])[:, None]
    assert torch.allclose(after, moved(before, gain), atol=1e-5)


def test_two_on_one_region_multiply() -> None:
    before, after = masses(fv.Emphasize("r", 2.0), fv.Emphasize("r", 3.5))
    assert torch.allclose(after, moved(before, 7.0), atol=1e-5)


def test_rows_of_a_batch_have_their_own_regions() -> None:
    rows = torch.zeros(2, 11, dtype=torch.bool)
    rows[0, :3], rows[1, 5:6] = True, True
    before, after = masses(fv.Emphasize("r", 4.0), regions={"r": rows})
    assert torch.allclose(after, moved(before, 4.0), atol=1e-5)


def test_gains_of_a_batch_follow_the_beams() -> None:
    model, given = build("llama"), inputs("llama")
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "num_beams": 2}
    gain = torch.tensor([[2.0], [8.0]])
    with fv.attach(model, fv.Emphasize("r", gain), regions=R):
        both = model.generate(**given, **options)
    for row, value in enumerate((2.0, 8.0)):
        with fv.attach(model, fv.Emphasize("r", value), regions=R):
            alone = model.generate(given["input_ids"][row : row + 1], **options)
        assert torch.equal(both[row], alone[0])


@torch.no_grad()
def test_a_gain_of_one_leaves_the_models_own_kernel() -> None:
    model, given = build("llama"), inputs("llama")
    with fv.attach(model, fv.Emphasize("r", 1.0), regions=R) as run:
        assert torch.equal(logits(model(**given)), logits(build("llama")(**given)))
    assert run.calls[0].edited == 0


@pytest.mark.parametrize(
    "gain",
    [0, -1.0, float("nan"), float("inf"), "much", None, True, 1j, [], [1.0, 0.0], {}]
    + [{0: -2.0}, torch.tensor([1.0, float("nan")]), torch.ones(2, 2, 2), torch.zeros(4)],
)
def test_gains_that_are_none(gain: Any) -> None:
    with pytest.raises(fv.FoveateError, match="gain"):
        fv.Emphasize("r", gain)


def test_regions_that_are_none() -> None:
    for region in ("", None, 3):
        with pytest.raises(fv.FoveateError, match="takes the name of a region"):
            fv.Emphasize(region, 2.0)  # type: ignore[arg-type]


def test_how_it_is_written() -> None:
    assert repr(fv.Emphasize("r", gain=5.0)) == "Emphasize('r', gain=5.0)"
    text = "Emphasize('r', gain=0.5, layers=[1], phase='decode')"
    assert repr(fv.Emphasize("r", 0.5, layers=[1], phase="decode")) == text
