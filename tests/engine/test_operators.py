"""Operators: what computes a call instead of one softmax."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate as fv
from foveate.engine.planner import plan
from foveate.patterns import SlidingWindow

S = 40


class Mixed:
    """The mean of the call as it is and of the call without its pattern."""

    def run(self, program: Any, q: Any, k: Any, v: Any) -> Any:
        assert program.reads == () and program.head_scale is None
        shapes = fv.Shapes.of(q, k, v)
        some = plan(program, shapes).run(q, k, v)
        whole = plan(program.evolve(pattern=None), shapes).run(q, k, v)
        return (some.out + whole.out) / 2, some.lse

    def __repr__(self) -> str:
        return "Mixed()"


def calls() -> Any:
    torch.manual_seed(0)
    return torch.randn(2, 4, S, 16), torch.randn(2, 2, S, 16), torch.randn(2, 2, S, 16)


def test_it_computes_the_call_and_linear_measures_are_of_what_it_computed() -> None:
    q, k, v = calls()
    region = torch.arange(S) % 2 == 0
    options: dict[str, Any] = {"causal": True, "regions": {"r": region}, "measures": [fv.mass("r")]}
    near = fv.attention(q, k, v, pattern=SlidingWindow(5), **options)
    whole = fv.attention(q, k, v, **options)
    got = fv.attention(q, k, v, pattern=SlidingWindow(5), operators=[Mixed()], **options)
    assert torch.allclose(got.out, (near.out + whole.out) / 2, atol=1e-5)
    want = (near.measures["mass:r"] + whole.measures["mass:r"]) / 2
    assert torch.allclose(got.measures["mass:r"], want, atol=1e-5)
    twice = fv.attention(q, k, v, pattern=SlidingWindow(5), operators=[Mixed(), Mixed()], **options)
    assert torch.allclose(twice.out, near.out / 4 + whole.out * 3 / 4, atol=1e-5)
    half = [x.bfloat16() for x in (q, k, v)]
    low = fv.attention(*half, pattern=SlidingWindow(5), operators=[Mixed()], **options)
    assert low.out.dtype == torch.bfloat16
    assert torch.allclose(low.measures["mass:r"], want, atol=2e-2)


def test_what_it_cannot_is_refused() -> None:
    q, k, v = calls()
    for measure in (fv.entropy(), fv.rows([0]), fv.received()):
        with pytest.raises(fv.FoveateError, match="cannot be measured beside Mixed"):
            fv.attention(q, k, v, operators=[Mixed()], measures=[measure])
    with pytest.raises(fv.FoveateError, match="run\\(program"):
        fv.attention(q, k, v, operators=[Mixed])  # type: ignore[list-item]
    with pytest.raises(fv.FoveateError, match="backend="):
        fv.attention(q, k, v, operators=[Mixed()], backend="reference")
    program = fv.Program(operators=(Mixed(),))
    assert "Mixed()" in fv.plan(program, fv.Shapes.of(q, k, v)).explain()
