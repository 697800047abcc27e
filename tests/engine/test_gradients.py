"""Gradients, in float64, through every path: flash, merged, few queries, tiles."""

from __future__ import annotations

import functools

import pytest
import torch

import foveate as fv
from foveate.engine.planner import Shapes, plan

# One random direction of the Jacobian instead of all of them: as discriminating, far quicker.
gradcheck = functools.partial(torch.autograd.gradcheck, fast_mode=True)
SQ = 18  # above the few-query limit, so that the flash pieces are taken


def tensors(Sq: int = SQ, Sk: int = SQ, Hq: int = 2, Hkv: int = 1) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = [(1, Hq, Sq, 3), (1, Hkv, Sk, 3), (1, Hkv, Sk, 3)]
    return [torch.randn(s, generator=g, dtype=torch.float64, requires_grad=True) for s in shapes]


def region(Sk: int) -> dict[str, torch.Tensor]:
    return {"a": torch.arange(Sk) % 3 == 0}


GEOMETRY = {
    "one piece": dict(Sq=SQ, Sk=SQ, causal=True),
    "merged: past and diagonal": dict(Sq=SQ, Sk=SQ + 5, causal=True),
    "rows that see nothing": dict(Sq=SQ, Sk=SQ - 3, causal=True),
    "bidirectional": dict(Sq=SQ, Sk=7, causal=False),
    "few queries": dict(Sq=3, Sk=9, causal=True),
}


@pytest.mark.parametrize("geometry", GEOMETRY.values(), ids=GEOMETRY.keys())
def test_out_and_lse(geometry: dict) -> None:
    Sq, Sk, causal = geometry["Sq"], geometry["Sk"], geometry["causal"]
    skip = max(0, Sq - Sk) if causal else 0

    def f(q, k, v):
        y = fv.attention(q, k, v, causal=causal)
        return y.out, y.lse[..., skip:]  # -inf has no finite difference

    assert gradcheck(f, tensors(Sq, Sk))


def test_a_naive_lse_would_be_wrong() -> None:
    """The flash operator alone gives ``lse`` no gradient; ours must differ from that."""
    q, k, v = tensors()
    (g,) = torch.autograd.grad(fv.attention(q, k, v, causal=True).lse.sum(), q)
    assert g.abs().max() > 0.01


@pytest.mark.parametrize("at", ["after", "before"])
def test_masses_and_distance_are_flash_columns_and_differentiate(at: str) -> None:
    measures = [fv.mass("a", at=at), fv.distance(), fv.block_map(3)]
    program = fv.Program(causal=True, regions=region(SQ)).with_gain("a", 3.0)
    q, k, v = tensors()
    assert plan(program.with_reads(*measures), Shapes.of(q, k, v)).output == "flash"

    def f(q, k, v):
        y = fv.attention(
            q, k, v, causal=True, regions=region(SQ), gains={"a": 3.0}, measures=measures
        )
        return tuple(y.measures.values())

    assert gradcheck(f, (q, k, v))


@pytest.mark.parametrize(
    "measure",
    [fv.entropy(), fv.received(), fv.rows([1, -1]), fv.top(2), fv.max(), fv.distance()],
    ids=lambda m: m.key,
)
def test_measures_from_tiles_differentiate(measure) -> None:
    def f(q, k, v):
        got = fv.attention(q, k, v, causal=measure.key != "distance", measures=measure).measures
        return tuple(t for t in got.values() if t.is_floating_point())

    assert gradcheck(f, tensors())


def test_the_one_measure_without_a_gradient_raises() -> None:
    y = fv.attention(*tensors(), measures=fv.top(2))
    with pytest.raises(RuntimeError, match="does not require grad"):
        y.measures["top.indices"].sum().backward()


@pytest.mark.parametrize("Sk", [SQ, SQ + 4], ids=["one piece", "merged"])
@pytest.mark.parametrize("shape", [(), (2, 1), (1, 2, SQ)], ids=["number", "per head", "per row"])
def test_gains(shape: tuple, Sk: int) -> None:
    q, k, v = tensors(SQ, Sk)
    gain = (
        torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    ).requires_grad_()

    def f(gain, q, k, v):
        y = fv.attention(
            q, k, v, causal=True, regions=region(Sk), gains={"a": gain}, measures=fv.mass("a")
        )
        return y.out, y.lse, y.measures["mass:a"]

    assert gradcheck(f, (gain, q, k, v))


def test_score_terms_key_bias_sinks_and_bias() -> None:
    q, k, v = tensors()
    g = torch.Generator().manual_seed(2)
    phi, psi = (
        torch.randn(1, 1, SQ, 2, generator=g, dtype=torch.float64, requires_grad=True)
        for _ in range(2)
    )
    key_bias = torch.randn(1, 2, SQ, generator=g, dtype=torch.float64).index_fill(
        2, torch.tensor([4]), -torch.inf
    )
    key_bias.requires_grad_()
    sinks = torch.randn(2, generator=g, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(1, 1, SQ, SQ, generator=g, dtype=torch.float64, requires_grad=True)

    def f(q, k, v, phi, psi, sinks):
        y = fv.attention(
            q, k, v, causal=True, score_terms=[(phi, psi)], sinks=sinks, measures=fv.distance()
        )
        return y.out, y.lse, y.measures["distance"]

    assert gradcheck(f, (q, k, v, phi, psi, sinks))
    # A hidden key cannot be moved by a finite difference; its gradient must be exactly 0.
    y = fv.attention(q, k, v, causal=True, key_bias=key_bias)
    want = fv.attention(q, k, v, causal=True, key_bias=key_bias, backend="reference")
    weight = torch.randn(y.out.shape, generator=g, dtype=torch.float64)
    got, ref = (torch.autograd.grad((t.out * weight).sum(), key_bias)[0] for t in (y, want))
    assert got[0, :, 4].abs().max() == 0
    keep = torch.arange(SQ) != 4
    torch.testing.assert_close(got[..., keep], ref[..., keep].nan_to_num())
    assert gradcheck(lambda q, bias: fv.attention(q, k, v, bias=bias, softcap=2.0).out, (q, bias))


def test_merge_differentiates_through_both_partials_and_gains() -> None:
    q, k, v = tensors(SQ, 20)

    def f(q, k, v, gain):
        parts = [
            fv.Partial(y.out, y.lse)
            for y in (fv.attention(q, k[:, :, s], v[:, :, s]) for s in (slice(0, 8), slice(8, 20)))
        ]
        merged = fv.merge(*parts, gains=[1.0, gain])
        return merged.out, merged.lse

    gain = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(f, (q, k, v, gain))


def test_second_use_of_a_plan_gives_fresh_gradients() -> None:
    q, k, v = tensors()
    made = plan(fv.Program(causal=True), Shapes.of(q, k, v))
    first = torch.autograd.grad(made.run(q, k, v).out.sum(), q)[0]
    torch.testing.assert_close(torch.autograd.grad(made.run(q, k, v).out.sum(), q)[0], first)
