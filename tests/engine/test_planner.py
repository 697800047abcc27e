"""What is chosen, and that ``explain`` says so."""

from __future__ import annotations

import pytest
import torch

import foveate as fv
from foveate.engine.backends import tiles
from foveate.engine.planner import Plan, plan


def planned(
    program: fv.Program,
    Sq: int = 400,
    Sk: int = 400,
    dtype: torch.dtype = torch.float32,
    Dv: int = 8,
) -> Plan:
    return plan(program, fv.Shapes(1, 4, 2, Sq, Sk, 8, Dv, dtype, torch.device("cpu")))


A = {"a": torch.zeros(400, dtype=torch.bool)}


@pytest.mark.parametrize(
    ("program", "output", "says"),
    [
        (
            fv.Program(causal=True, regions=A).with_gain("a", 2.0),
            "flash",
            "broadcast mask, no extra pass",
        ),
        (
            fv.Program(causal=True, regions=A).with_gain("a", torch.ones(400)),
            "flash",
            "rank 1: columns of Q and K",
        ),
        (
            fv.Program(causal=True, q_offset=7),
            "flash",
            r"2 pieces \(400×7, 400×393 causal\), merged",
        ),
        (fv.Program(sinks=torch.zeros(4)), "flash", "one more partial"),
        (fv.Program(softcap=3.0), "tiles", "soft-cap"),
        (fv.Program(bias=torch.zeros(1, 1, 400, 400)), "tiles", "dense bias"),
        (fv.Program(regions=A, reads=(fv.mass("a"),)), "flash", "value columns in the same pass"),
        (fv.Program(reads=(fv.entropy(),)), "tiles", "not linear in P"),
        (fv.Program(reads=(fv.rows([1]),)), "flash", "those rows recomputed"),
        (
            fv.Program(regions=A, reads=(fv.mass("a", at="before"),)).with_gain("a", 2.0),
            "flash",
            "before the gains: mass:a: one more pass",
        ),
        (fv.Program(head_scale=torch.ones(4, 1)), "flash", "free"),
    ],
)
def test_choice(program: fv.Program, output: str, says: str) -> None:
    import re

    made = planned(program)
    assert made.output == output
    assert re.search(says, made.explain())
    assert re.search(r"FLOP in \d pass", made.explain())


def test_few_queries_copy_no_key() -> None:
    made = planned(fv.Program(causal=True, regions=A).with_gain("a", 2.0), Sq=1)
    assert made.output == "few" and "no key copied" in made.explain()


def test_half_precision_keeps_its_output_kernel_when_measured() -> None:
    made = planned(fv.Program(causal=True, reads=(fv.entropy(),)), dtype=torch.bfloat16)
    assert (made.output, made.reads, made.one_pass) == ("flash", "tiles", False)
    assert "one more pass, float32" in made.explain()


def test_a_tile_never_holds_the_matrix() -> None:
    h = fv.Shapes(1, 9, 9, 8192, 8192, 64, 64, torch.float32, torch.device("cpu"))
    made = plan(fv.Program(causal=True, reads=(fv.entropy(),)), h)
    for a, b, lo, hi in tiles.row_blocks(made.terms, h):
        assert 9 * (b - a) * (hi - lo) <= max(tiles.TILE, 9 * 16 * 8192)


def test_an_empty_program_copies_nothing() -> None:
    """The kernel gets the very tensors of the caller."""
    seen = []
    q, k, v = (torch.randn(1, 2, 40, 8) for _ in range(3))
    from foveate.engine.backends import dense

    real = dense.flash
    try:
        dense.flash = lambda *t, **o: (seen.extend(x.data_ptr() for x in t), real(*t, **o))[1]
        fv.attention(q, k, v, causal=True)
    finally:
        dense.flash = real
    assert seen == [q.data_ptr(), k.data_ptr(), v.data_ptr()]


def test_head_scale_multiplies_the_output_and_nothing_else() -> None:
    q, k, v = (torch.randn(1, 2, 20, 8) for _ in range(3))
    h = fv.Shapes.of(q, k, v)
    plain = plan(fv.Program(causal=True), h).run(q, k, v)
    scaled = plan(fv.Program(causal=True, head_scale=torch.tensor([[0.0], [2.0]])), h).run(q, k, v)
    torch.testing.assert_close(scaled.out, plain.out * torch.tensor([0.0, 2.0]).view(1, 2, 1, 1))
    assert torch.equal(scaled.lse, plain.lse)


def test_a_plan_refuses_other_shapes() -> None:
    q = torch.randn(1, 2, 40, 8)
    made = plan(fv.Program(causal=True), fv.Shapes.of(q, q, q))
    with pytest.raises(fv.FoveateError, match=r"Sq=40.*Sq=20"):
        made.run(q[:, :, :20], q, q)


def test_a_plan_follows_a_gain_that_learns() -> None:
    q, k, v = (torch.randn(1, 2, 40, 8) for _ in range(3))
    gain = torch.tensor(2.0, requires_grad=True)
    program = fv.Program(regions={"a": torch.arange(40) < 5}).with_gain("a", gain)
    with torch.no_grad():
        made = plan(program, fv.Shapes.of(q, k, v))
    for _ in range(2):  # a graph of its own for every run
        made.run(q, k, v).out.sum().backward()
    assert gain.grad is not None and gain.grad != 0
    before = made.run(q, k, v).out
    with torch.no_grad():
        gain.mul_(10)
    assert (made.run(q, k, v).out - before).abs().max() > 1e-3


def test_the_public_plan_checks_its_program() -> None:
    h = fv.Shapes(1, 2, 2, 5, 5, 8, 8, torch.float32, torch.device("cpu"))
    with pytest.raises(fv.FoveateError, match="'zz'"):
        fv.plan(fv.Program().with_gain("zz", 2.0), h)
    with pytest.raises(fv.FoveateError, match=r"Shapes\.of"):
        fv.plan(fv.Program(), (1, 2))
    assert "flash" in fv.plan(fv.Program(), h).explain()


def test_few_queries_with_values_of_another_size_copy_no_cache() -> None:
    assert planned(fv.Program(causal=True), Sq=1, Dv=4).output == "tiles"


def test_tiles_of_few_queries_and_many_heads_stay_bounded() -> None:
    h = fv.Shapes(8, 32, 8, 16, 8192, 64, 64, torch.float32, torch.device("cpu"))
    made = plan(fv.Program(causal=True, reads=(fv.entropy(),)), h)
    for a, b, lo, hi in tiles.row_blocks(made.terms, h):
        assert 8 * 32 * (b - a) * (hi - lo) <= 4 * tiles.TILE
