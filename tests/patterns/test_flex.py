"""Patterns handed to torch's FlexAttention: the mask function and the block mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import foveate as fv
from foveate.patterns import (
    Causal,
    CrossShaped,
    Dilated,
    Documents,
    Halo,
    MultiWindow,
    Neighborhood,
    Pattern,
    PrefixLM,
    SlidingWindow,
    Strided,
    Windows,
)

GRID = (16, 20)
S = 320  # two blocks and a half
EVERY: list[Pattern] = [
    Causal(),
    SlidingWindow(40, sinks=3),
    SlidingWindow(40, sinks=2, causal=False),
    Dilated(4, 30),
    Strided(60, local=20),
    Documents([100, 30, 150]),
    PrefixLM(140),
    MultiWindow([2, 64, 160, 320]),
    Neighborhood(GRID, (5, 3), stride=(2, 1)),
    Neighborhood(GRID, (2, 4), dilation=2, causal=(True, False)),
    Halo(GRID, 4, 1),
    Windows(GRID, 4, shift=2),
    CrossShaped(GRID, 2, heads=4),
    (Causal() & ~SlidingWindow(9)) | Documents([100, 220]),
    MultiWindow([2, 64, 160, 320]) & Dilated(100, 2, causal=False),
]


def dense(mask_mod: Any, heads: int | None, Sq: int, Sk: int) -> torch.Tensor:
    h, i, j = torch.arange(heads or 1)[:, None, None], torch.arange(Sq)[:, None], torch.arange(Sk)
    found = mask_mod(torch.tensor(0), h, i, j).expand(heads or 1, Sq, Sk)
    return found if heads else found[0]


@pytest.mark.parametrize("pattern", EVERY, ids=repr)
def test_the_mask_function_is_the_dense_mask(pattern: Pattern) -> None:
    assert torch.equal(dense(pattern.mask_mod(), pattern.heads, S, S), pattern.mask(S))
    later = dense(pattern.mask_mod(q_offset=120), pattern.heads, 200, S)
    assert torch.equal(later, pattern.mask(200, S))


@pytest.mark.parametrize("pattern", EVERY, ids=repr)
def test_torch_makes_the_same_blocks_of_it(pattern: Pattern) -> None:
    theirs = create_block_mask(pattern.mask_mod(), None, pattern.heads, S, S, device="cpu")
    assert torch.equal(pattern.block_mask(S).to_dense(), theirs.to_dense())


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("pattern", EVERY, ids=repr)
def test_flex_attention_under_the_block_mask_is_masked_attention(pattern: Pattern) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 4, S, 16) for _ in range(3))
    q = q[:, :, 64:]
    seen = pattern.mask(S - 64, S)
    with torch.compiler.set_stance("force_eager"), torch.no_grad():
        got = flex_attention(q, k, v, block_mask=pattern.block_mask(S - 64, S))
    want = (q.double() @ k.double().mT / 4).masked_fill(~seen, -torch.inf).softmax(-1)
    assert torch.allclose(got.double(), want.nan_to_num() @ v.double(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", EVERY, ids=repr)
def test_it_compiles_on_a_cpu(pattern: Pattern) -> None:
    torch.manual_seed(0)
    torch.compiler.reset()
    q, k, v = (torch.randn(1, 4, S, 16) for _ in range(3))
    with torch.no_grad():
        got = torch.compile(flex_attention)(q, k, v, block_mask=pattern.block_mask(S))
    scores = (q.double() @ k.double().mT / 4).masked_fill(~pattern.mask(S), -torch.inf)
    want = scores.softmax(-1).nan_to_num() @ v.double()
    assert torch.allclose(got.double(), want, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: p.mask_mod(q_offset=0.5), "q_offset=0.5.*whole number"),
        (lambda p: p.block_mask(0), "Sq=0"),
        (lambda p: p.block_mask(8, 8.0), "Sk=8.0"),
        (lambda p: p.block_mask(8, device="gpu"), "'gpu'.*'cuda'"),
    ],
)
def test_bad_input(make: Any, sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        make(SlidingWindow(4))
