"""HyperAttention: blocks of sorted tokens exactly, the rest from weighed samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import foveate as fv
from foveate.methods.sparse._sorted import buckets

Make = Callable[..., Any]  # (block, samples, least, seed) -> operators
N, BLOCK, SAMPLES = 96, 12, 16


def baseline(block: int, samples: int, least: int, seed: int = 0) -> list[Any]:
    """Plain attention."""
    return []


def tensors(n: int = N, seed: int = 0, groups: int = 2) -> tuple[Tensor, Tensor]:
    """Queries ``[1, 4, n, 8]`` and keys ``[1, 4 / groups, n, 8]``."""
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(1, 4, n, 8, generator=g, dtype=torch.float64)
    return q, torch.randn(1, 4 // groups, n, 8, generator=g, dtype=torch.float64)


def scores(q: Tensor, k: Tensor) -> Tensor:
    """``[1, H, n, n]``, by the book."""
    return q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT / q.shape[-1] ** 0.5


def weights(q: Tensor, k: Tensor, operators: list[Any], causal: bool = False) -> Tensor:
    """By how much each pair counts: ``P_ij = w_ij exp(s_ij - lse_i)``, read off with ``v = I``."""
    n = k.shape[2]
    v = torch.eye(n, dtype=q.dtype).expand(1, k.shape[1], n, n)
    y = fv.attention(q, k, v, causal=causal, operators=operators)
    return y.out * (y.lse.unsqueeze(-1) - scores(q, k)).exp()


def check(make: Make) -> None:
    """Which pairs count, and by how much; the limits in which nothing is estimated."""
    q, k = tensors()
    v = torch.randn(1, 2, N, 5, generator=torch.Generator().manual_seed(1)).double()
    for causal in (False, True):
        s = scores(q, k)
        if causal:
            s = s.masked_fill(torch.ones(N, N).triu(1).bool(), -torch.inf)
        want = s.softmax(-1) @ v.repeat_interleave(2, 1)
        for block, samples, least in ((N, 1, 1), (BLOCK, N, 1), (BLOCK, 1, N + 1)):
            y = fv.attention(q, k, v, causal=causal, operators=make(block, samples, least))
            assert torch.allclose(y.out, want), (causal, block, samples, least)
            assert torch.allclose(y.lse, s.logsumexp(-1)), (causal, block, samples, least)

    # one square: every row has BLOCK keys in full, and of SAMPLES others those not among them
    w = weights(q, k, make(BLOCK, SAMPLES, 1))
    full, sampled = (w - 1).abs() < 1e-9, (w - N / SAMPLES).abs() < 1e-9
    assert bool((full | sampled | (w.abs() < 1e-9)).all())
    assert bool((full.sum(-1) == BLOCK).all())
    some = sampled.any(2, keepdim=True)  # the sample of a head
    assert bool((some.sum(-1) == SAMPLES).all())
    assert torch.equal(sampled, some & ~full)
    # rows that share their keys are as many as those: blocks
    assert bool(((full.double() @ full.double().mT == BLOCK).sum(-1) == BLOCK).all())

    # causal: two triangles in full and the square between, estimated
    w = weights(q, k, make(BLOCK, SAMPLES, N // 2), causal=True)
    half = N // 2
    triangle = torch.ones(half, half, dtype=q.dtype).tril()
    assert torch.allclose(w[..., :half, :half], triangle.expand(1, 4, -1, -1))
    assert torch.allclose(w[..., half:, half:], triangle.expand(1, 4, -1, -1))
    assert bool((w[..., :half, half:].abs() < 1e-9).all())
    square = w[..., half:, :half]
    assert bool((((square - 1).abs() < 1e-9).sum(-1) == BLOCK).all())

    # on the mean over the samples, what is estimated is the sum of exponentials
    total = torch.stack(
        [
            fv.attention(q, k, v, operators=make(BLOCK, SAMPLES, 1, seed)).lse.exp()
            for seed in range(100)
        ]
    )
    truth = scores(q, k).exp().sum(-1)
    error = total.std(0) / 100**0.5
    assert bool(((total.mean(0) - truth).abs() < 5 * error).all())


def test_it_is_the_papers_estimate() -> None:
    check(
        lambda block, samples, least, seed=0: [
            fv.HyperAttention(block, samples, least=least, seed=seed)
        ]
    )


def test_neighbouring_buckets_differ_in_one_sign_and_near_vectors_share_one() -> None:
    directions = torch.eye(6, dtype=torch.float64)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 6)
    place = buckets(corners, directions)
    assert sorted(place.tolist()) == list(range(64))
    walk = corners[place.argsort()]
    assert bool(((walk[1:] != walk[:-1]).sum(-1) == 1).all())
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(buckets(x, directions), buckets(3 * x, directions))  # angles alone count


def test_large_pairs_are_found() -> None:
    """Each query has one key that points its way: most of these pairs are in the blocks."""
    g = torch.Generator().manual_seed(0)
    k = torch.randn(1, 2, 256, 16, generator=g, dtype=torch.float64)
    q = k + 0.2 * torch.randn(1, 2, 256, 16, generator=g, dtype=torch.float64)
    hyper = fv.HyperAttention(32, 16, least=1, projections=6)
    w = weights(q, k, [hyper])
    found = (w.diagonal(dim1=-2, dim2=-1) - 1).abs() < 1e-9
    assert float(found.double().mean()) > 0.6 > 3 * 32 / 256
