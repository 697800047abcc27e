"""Flash Window Attention: exact for every chunk of features, nothing of windows x L x L kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from foveate.layers import flash_window_attention

Attend = Callable[..., Tensor]


def baseline() -> Attend:
    """Attention in windows that knows no position bias and no shift."""

    def attend(
        q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, *, chunk: int | None = None
    ) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v) + 0 * bias.sum()

    return attend


def formula(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """``softmax(q k^T / sqrt(D) + bias + mask) v``, all of it written out."""
    scores = q @ k.mT * q.shape[-1] ** -0.5 + bias
    hidden = ~mask.repeat(len(q) // len(mask), 1, 1).unsqueeze(1)
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v  # type: ignore[no-any-return]


def kept(run: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass, each storage counted once."""
    found: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    return sum(found.values())


def inputs(N: int, H: int, L: int, D: int, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v, bias and a mask of four windows in turn."""
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(N, H, L, D, dtype=dtype, generator=random) for _ in range(3))
    mask = (torch.rand(4, L, L, generator=random) < 0.6) | torch.eye(L, dtype=torch.bool)
    return [q, k, v, torch.randn(H, L, L, dtype=dtype, generator=random), mask]


def check(make: Callable[[], Attend]) -> None:
    """Output and gradients are the formula's in float64; what is kept has no L x L a window."""
    attend = make()
    for dtype, atol in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        *given, mask = inputs(8, 3, 16, 20, dtype)
        exact = [x.double().requires_grad_() for x in given]
        want = formula(*exact, mask)
        back = torch.randn(want.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
        want_grads = torch.autograd.grad(want, exact, back.double())
        for chunk in (None, 1, 7, 16, 20, 64):
            ours = [x.clone().requires_grad_() for x in given]
            got = attend(*ours, mask, chunk=chunk)
            grads = torch.autograd.grad(got, ours, back)
            assert torch.allclose(got.double(), want, atol=atol), chunk
            for name, a, b in zip(("q", "k", "v", "bias"), grads, want_grads, strict=True):
                assert torch.allclose(a.double(), b, atol=10 * atol), (chunk, name)
    *given, mask = inputs(64, 3, 49, 32, torch.float32)
    ours = [x.requires_grad_() for x in given]
    arguments = sum(x.nbytes for x in (*ours, mask))
    assert kept(lambda: attend(*ours, mask)) <= arguments


def test_it_is_exact_and_keeps_nothing_but_its_arguments() -> None:
    check(lambda: flash_window_attention)


def test_the_count_of_bytes_tells_the_formula_from_it() -> None:
    def make() -> Attend:
        return lambda q, k, v, bias, mask, chunk=None: formula(q, k, v, bias, mask)

    with pytest.raises(AssertionError):
        check(make)
