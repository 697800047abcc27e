"""Half precision: never worse than what SDPA gives for the same program as a dense mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import foveate as fv

HALF = [torch.float16, torch.bfloat16]
S = 300


def call(dtype: torch.dtype, Sq: int = S) -> dict:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, n, 32, generator=g).to(dtype) for n in (Sq, S, S))
    return {
        "q": q,
        "k": k,
        "v": v,
        "causal": True,
        "regions": {"a": torch.arange(S) % 5 == 0},
        "gains": {"a": 7.0},
        "key_bias": torch.randn(2, 1, S, generator=g),
    }


def dense_sdpa(c: dict) -> torch.Tensor:
    """The same program as one dense mask, in the dtype of the inputs."""
    Sq = c["q"].shape[2]
    bias = c["key_bias"] + torch.as_tensor(c["gains"]["a"]).log() * c["regions"]["a"]
    later = torch.arange(S)[None] > torch.arange(Sq)[:, None] + S - Sq
    mask = bias[:, :, None].expand(2, 4, Sq, S).masked_fill(later, -torch.inf)
    return F.scaled_dot_product_attention(c["q"], c["k"], c["v"], attn_mask=mask.to(c["q"].dtype))


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return (got.double() - want.double()).pow(2).mean().sqrt().item()


def truth(c: dict, **more) -> fv.Output:
    wide = {n: t.double() if n in "qkv" or n == "key_bias" else t for n, t in c.items()}
    return fv.attention(**wide, **more, backend="reference")


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize(
    ("Sq", "limit"), [(S, 1.1), (S - 80, 1.5), (5, 1.1)], ids=["flash", "merged", "few"]
)
def test_output(dtype: torch.dtype, Sq: int, limit: float) -> None:
    c = call(dtype, Sq)
    want = truth(c).out
    assert error(fv.attention(**c).out, want) <= limit * error(dense_sdpa(c), want)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_gains_that_vary_along_the_queries(dtype: torch.dtype) -> None:
    """Rounded columns would lose far more than the kernel does (log g / scale is large)."""
    c = call(dtype)
    c["gains"] = {"a": torch.logspace(-3, 6, S)[None, None]}
    rows = c["gains"]["a"].log()[..., None] * c["regions"]["a"]
    later = torch.ones(S, S, dtype=torch.bool).triu(1)
    mask = (
        (rows + c["key_bias"][:, :, None])
        .expand(2, 4, S, S)
        .masked_fill(later, -torch.inf)
        .to(dtype)
    )
    peer = F.scaled_dot_product_attention(c["q"], c["k"], c["v"], attn_mask=mask)
    want = truth(c).out
    assert error(fv.attention(**c).out, want) <= 1.1 * error(peer, want)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("Sq", [S, 5])
def test_measures_are_float32_exact(dtype: torch.dtype, Sq: int) -> None:
    measures = [fv.mass("a"), fv.distance(), fv.entropy(), fv.received(), fv.max(), fv.block_map(4)]
    for some in (measures[:2], measures):
        c = call(dtype, Sq)
        got, want = fv.attention(**c, measures=some), truth(c, measures=some)
        for key, value in want.measures.items():
            assert got.measures[key].dtype == torch.float32
            torch.testing.assert_close(got.measures[key].double(), value, atol=2e-4, rtol=2e-5)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_measuring_leaves_the_output_of_half_precision_bitwise(dtype: torch.dtype) -> None:
    c = call(dtype)
    plain = fv.attention(**c).out
    assert torch.equal(fv.attention(**c, measures=[fv.mass("a"), fv.distance()]).out, plain)
    assert torch.equal(fv.attention(**c, measures=fv.entropy()).out, plain)


def test_a_mean_position_near_100_000_is_right_to_a_token() -> None:
    c = {
        n: torch.randn(1, 1, s, 8).bfloat16()
        for n, s in (("q", 20), ("k", 120_000), ("v", 120_000))
    }
    got = fv.attention(**c, causal=True, measures=fv.distance()).measures["distance"]
    want = fv.attention(
        **{n: t.double() for n, t in c.items()},
        causal=True,
        measures=fv.distance(),
        backend="reference",
    ).measures["distance"]
    assert (got.double() - want).abs().max() < 0.5
