"""The multi-window layer: the pattern, gradients, the paper's parameters, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate as fv
from foveate.layers import MultiWindowAttention
from foveate.patterns import MultiWindow


def test_without_biases_it_is_attention_under_the_pattern() -> None:
    layer = MultiWindowAttention(32, 24, heads=4, relative=False)
    pattern = MultiWindow.of(24, 4)
    assert tuple(w or 24 for w in layer.windows) == pattern.windows and not layer.tables
    x = torch.randn(2, 24, 32, generator=torch.Generator().manual_seed(0))
    q, k, v = layer.qkv(x).view(2, 24, 3, 4, 8).permute(2, 0, 3, 1, 4)
    out = fv.attention(q, k, v, pattern=pattern).out
    want = layer.proj(out.transpose(1, 2).reshape(2, 24, 32))
    assert torch.allclose(layer(x), want, atol=1e-6)


def test_gradients_are_those_of_finite_differences() -> None:
    layer = MultiWindowAttention(6, [2, 3, 0]).double()
    x = torch.randn(1, 6, 6, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def run(x: Any, *values: Any) -> Any:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()), fast_mode=True)


def test_the_papers_default_layer() -> None:
    layer = MultiWindowAttention(384, 250)
    assert layer.windows == (2, 5, 10, 25, 50, 125, 0, 0)
    tables = sum(table.numel() for table in layer.tables.values())
    assert tables == sum(2 * w - 1 for w in (2, 5, 10, 25, 50, 125))
    assert "windows=(2, 5, 10" in repr(layer)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: MultiWindowAttention(30, [2, 4]).forward(torch.zeros(1, 6, 30)), "pad to 8"),
        (lambda: MultiWindowAttention(30, [2, 4, 8, 0]), r"dim=30.*4 heads"),
        (lambda: MultiWindowAttention(0, [2]), "dim=0"),
        (lambda: MultiWindowAttention(8, []), "a window for every head"),
        (lambda: MultiWindowAttention(8, [2, -1]), "whole numbers"),
        (lambda: MultiWindowAttention(8, [2, 1.5]), "whole numbers"),  # type: ignore[list-item]
        (lambda: MultiWindowAttention(8, [2, 4], heads=3), "2 windows were given for heads=3"),
        (lambda: MultiWindowAttention(8, 1), "tokens=1"),
    ],
)
def test_bad_input(make: Any, sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        make()
