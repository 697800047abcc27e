"""FlexAttention: its logic against the reference, and where the planner chooses it.

On a CPU it runs uncompiled; the compiled kernels are tried without their ``lse`` (slow tests). What
a GPU would be given is planned on shapes alone.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foveate as fv
from foveate.engine.backends import blocks, flex
from foveate.engine.planner import Plan, plan
from foveate.engine.program import Gain, Program
from foveate.engine.shapes import Shapes

CUDA = torch.device("cuda")


class Window:
    """The last ``n`` keys; tiles only."""

    def __init__(self, n: int) -> None:
        self.n = n

    def tile(self, q_pos: torch.Tensor, k_pos: torch.Tensor) -> torch.Tensor:
        back = q_pos[:, None] - k_pos
        return (back >= 0) & (back < self.n)

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        return min(max(0, q_start - self.n + 1), keys), min(keys, max(q_stop, 0))


class OwnWindow(Window):
    """The same with a function of its own."""

    def visible(
        self, b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor
    ) -> torch.Tensor:
        return (i - j >= 0) & (i - j < self.n)


class PerHead(Window):
    """A window of each batch item's and head's own: ``[B, Hq, m, n]``."""

    def tile(self, q_pos: torch.Tensor, k_pos: torch.Tensor) -> torch.Tensor:
        back = q_pos[:, None] - k_pos
        return (back >= 0) & (back < torch.tensor([[3, 9], [20, 40]])[..., None, None])

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        return 0, keys


@st.composite
def calls(draw: st.DrawFn) -> tuple[Program, tuple[torch.Tensor, ...]]:
    """A program of any mixture of what FlexAttention takes, and its tensors."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    def some(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=g) < 0.4

    B, Hkv = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    Hq = Hkv * draw(st.integers(1, 3))
    Sq, Sk = draw(st.sampled_from([1, 7, 16, 33])), draw(st.sampled_from([1, 3, 16, 40]))
    D, Dv = draw(st.sampled_from([(4, 4), (8, 4), (4, 8)]))
    tensors = normal(B, Hq, Sq, D), normal(B, Hkv, Sk, D), normal(B, Hkv, Sk, Dv)
    b, h = draw(st.sampled_from([1, B])), draw(st.sampled_from([1, Hq]))
    fields: dict = {"scale": draw(st.sampled_from([None, 0.3, -0.5]))}
    fields["causal"] = draw(st.booleans())
    fields["q_offset"] = draw(st.none() | st.integers(-Sq + 1, Sk + 2))
    if draw(st.booleans()):
        bias = normal(b, h, Sk)
        if draw(st.booleans()):  # padding
            bias[some(b, h, Sk)] = draw(st.sampled_from([-torch.inf, -1e31]))
        fields["key_bias"] = bias
    kind = draw(st.sampled_from(["none", "none", "float", "hides", "bool"]))
    if kind != "none":
        dense = normal(b, h, Sq, Sk)
        if kind == "hides":
            dense[some(b, h, Sq, Sk)] = torch.finfo(torch.float64).min
        fields["bias"] = dense > -0.5 if kind == "bool" else dense
    if draw(st.booleans()):
        fields["softcap"] = 1.5
    if draw(st.booleans()):
        fields["sinks"] = normal(Hq)
        fields["sinks"][0] = draw(st.sampled_from([-torch.inf, 0.0]))
    if draw(st.booleans()):
        r = draw(st.integers(1, 3))
        fields["score_terms"] = draw(
            st.sampled_from(
                [
                    ((normal(B, h, Sq, r), normal(1, h, Sk, r)),),
                    ((normal(Sq, r), normal(Sk, r)), (normal(Sq, 1), normal(1, 1))),
                ]
            )
        )
    if draw(st.booleans()):
        fields["pattern"] = draw(st.sampled_from([Window(5), OwnWindow(5), Window(40)]))
    fields["regions"] = {"a": some(Sk), "b": some(B, Sk), "heads": some(b, Hq, Sk)}
    values = [3.0, 0.1, normal(Hq, 1).exp(), normal(B, Hq, Sq).exp(), normal(Sq).exp()]
    fields["gains"] = tuple(
        Gain(name, draw(st.sampled_from(values)))
        for name in draw(st.lists(st.sampled_from(["a", "b", "heads"]), max_size=3))
    )
    if draw(st.booleans()):
        fields["head_scale"] = normal(Hq, 1)
    if draw(st.booleans()):
        fields["queries"] = some(B, Sq)
    n = min(Sq, Sk, 4)
    every = [
        *(fv.mass("a"), fv.mass("heads", as_="mh"), fv.entropy(), fv.distance()),
        *(fv.distance(signed=True), fv.received(), fv.block_map(n), fv.rows([0]), fv.top(1)),
        *(fv.max(), fv.mass("b", at="before"), fv.max(at="before", as_="m0")),
        fv.entropy(at="before", as_="e0"),
    ]
    fields["reads"] = tuple(draw(st.lists(st.sampled_from(every), unique=True)))
    return Program(**fields), tensors


def agree(program: Program, tensors: tuple[torch.Tensor, ...], tol: float) -> None:
    shapes = Shapes.of(*tensors)  # type: ignore[arg-type]
    made = plan(program, shapes, "flex")
    assert made.output == "flex"
    got, want = made.run(*tensors), plan(program, shapes, "reference").run(*tensors)
    close = {"atol": tol, "rtol": tol}
    torch.testing.assert_close(got.out.double(), want.out.double(), **close)
    torch.testing.assert_close(got.lse.double(), want.lse, **close)
    assert got.measures.keys() == want.measures.keys()
    for key, value in want.measures.items():
        if key != "top.indices":  # ties may differ
            found = got.measures[key].double()
            torch.testing.assert_close(found, value.double(), atol=10 * tol, rtol=tol)


@settings(max_examples=120, deadline=None)
@given(calls())
def test_every_mixture_equals_the_reference(call: tuple) -> None:
    agree(*call, 1e-9)


def single(t: object) -> object:
    if isinstance(t, torch.Tensor) and t.is_floating_point():
        return t.float()
    return t


@settings(max_examples=40, deadline=None)
@given(calls())
def test_float32_is_close_to_the_reference(call: tuple) -> None:
    program, tensors = call
    program = program.evolve(
        key_bias=single(program.key_bias),
        score_terms=tuple((single(a), single(b)) for a, b in program.score_terms),
        bias=single(program.bias),
    )
    agree(program, tuple(t.float() for t in tensors), 2e-5)


def test_a_row_that_sees_nothing_is_zero_and_minus_infinity() -> None:
    q, k, v = (torch.randn(2, 2, 20, 8) for _ in range(3))
    padded = torch.zeros(2, 1, 20)
    padded[0, :, :6] = -torch.inf
    program = Program(causal=True, key_bias=padded, reads=(fv.entropy(), fv.distance()))
    got = plan(program, Shapes.of(q, k, v), "flex").run(q, k, v)
    assert (got.lse[0, :, :6] == -torch.inf).all() and got.lse[0, :, 6:].isfinite().all()
    assert (got.out[0, :, :6] == 0).all() and got.out.isfinite().all()
    assert (got.measures["entropy"][0, :, :6] == 0).all()
    assert (got.measures["distance"][0, :, :6] == 0).all()


# -- blocks ----------------------------------------------------------------------------------------
@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(blocks, "BLOCK", 8)
    monkeypatch.setattr(flex, "BLOCK", 8)
    return 8


def visible(program: Program, shapes: Shapes) -> torch.Tensor:
    """Who sees whom, from the definition: ``[B, Hq, Sq, Sk]``."""
    q_offset = shapes.Sk - shapes.Sq if program.q_offset is None else program.q_offset
    i, j = torch.arange(shapes.Sq) + q_offset, torch.arange(shapes.Sk)
    seen = torch.ones(shapes.B, shapes.Hq, shapes.Sq, shapes.Sk, dtype=torch.bool)
    if program.causal:
        seen = seen & (j <= i[:, None])
    if program.pattern is not None:
        seen = seen & program.pattern.tile(i, j)
    if program.bias is not None:
        seen = seen & (program.bias if program.bias.dtype == torch.bool else program.bias > -1e30)
    if program.key_bias is not None:
        seen = seen & (program.key_bias > -torch.inf)[:, :, None]
    return seen


HIDES = torch.zeros(2, 1, 50).masked_fill(torch.arange(50) < 19, -torch.inf)
RAGGED = torch.rand(2, 2, 45, 50, generator=torch.Generator().manual_seed(0)) < 0.05
MASKS = {
    "causal": Program(causal=True),
    "causal, chunked": Program(causal=True, q_offset=3),
    "causal, before the keys": Program(causal=True, q_offset=-9),
    "padding": Program(key_bias=HIDES),
    "padding and causal": Program(causal=True, key_bias=HIDES),
    "window": Program(pattern=Window(11)),
    "a window of its own function": Program(pattern=OwnWindow(11), causal=True, q_offset=0),
    "a window of each head": Program(pattern=PerHead(0), key_bias=HIDES),
    "bool": Program(bias=RAGGED),
    "bool and causal": Program(bias=~RAGGED, causal=True),
    "float": Program(bias=torch.zeros(2, 2, 45, 50).masked_fill(~RAGGED, -torch.inf), causal=True),
    "all": Program(bias=~RAGGED, causal=True, pattern=PerHead(0), key_bias=HIDES),
}


@pytest.mark.parametrize("program", MASKS.values(), ids=MASKS)
def test_blocks_skip_nothing_that_is_seen(program: Program, small_blocks: int) -> None:
    """What is seen lies in a block that is computed; whole blocks hide nothing; pairs are exact."""
    g = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 2, s, 8, generator=g, dtype=torch.float64) for s in (45, 50, 50))
    shapes = Shapes.of(q, k, v)
    call = plan(program, shapes, "flex")._flex
    assert call.mask is not None
    want = torch.nn.functional.pad(visible(program, shapes), (0, -50 % 8, 0, -45 % 8))
    want = want.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8))
    any_seen, all_seen = want.any(-1).any(-2), want.all(-1).all(-2)
    assert call.mask.some.shape[2:] == call.mask.whole.shape[2:] == any_seen.shape[2:]
    assert not (any_seen & ~call.mask.some).any()
    if program.bias is None or program.bias.dtype == torch.bool:  # else the scores hide the rest
        assert not (call.mask.whole & ~all_seen).any()
    if program.bias is None:
        assert call.mask.some.sum() < any_seen.numel()  # something is skipped
    agree(program, (q, k, v), 1e-9)


def test_a_block_mask_says_the_same_as_torchs_own(small_blocks: int) -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    shapes = Shapes(1, 2, 2, 48, 64, 8, 8, torch.float32, torch.device("cpu"))
    ours = plan(Program(causal=True), shapes, "flex")._flex.block_mask
    theirs = create_block_mask(
        lambda b, h, i, j: j <= i + 16, None, None, 48, 64, device="cpu", BLOCK_SIZE=8
    )
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    assert torch.equal(ours.kv_num_blocks, theirs.kv_num_blocks)
    assert torch.equal(ours.full_kv_num_blocks, theirs.full_kv_num_blocks)
    assert torch.equal(ours.q_num_blocks, theirs.q_num_blocks)


def test_blocks_are_made_once_a_plan() -> None:
    q, k, v = (torch.randn(1, 2, 20, 8) for _ in range(3))
    made = plan(Program(causal=True, pattern=Window(3)), Shapes.of(q, k, v), "flex")
    made.run(q, k, v)
    before = made._flex.block_mask
    made.run(q, k, v)
    assert made._flex.block_mask is before


def test_a_call_that_hides_nothing_needs_no_mask() -> None:
    shapes = Shapes(1, 2, 2, 20, 20, 8, 8, torch.float32, torch.device("cpu"))
    call = plan(Program(key_bias=torch.randn(20)), shapes, "flex")._flex
    assert call.block_mask is None
    assert plan(Program(), shapes, "flex")._flex.score[0] is None


# -- precision -------------------------------------------------------------------------------------
def test_statistics_of_half_precision_are_taken_in_float32() -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 4, 60, 16, generator=g).bfloat16() for _ in range(3))
    regions = {"a": torch.arange(60) % 7 == 0}
    reads = (fv.mass("a"), fv.entropy(), fv.distance())
    program = Program(causal=True, softcap=None, regions=regions, reads=reads).with_gain("a", 2.0)
    made = plan(program, Shapes.of(q, k, v), "flex")
    assert (made.output, made.reads, made.one_pass) == ("flex", "columns", False)
    got, want = made.run(q, k, v), plan(program, Shapes.of(q, k, v), "reference").run(q, k, v)
    assert got.out.dtype == torch.bfloat16 and got.measures["entropy"].dtype == torch.float32
    for key, value in want.measures.items():
        torch.testing.assert_close(got.measures[key].double(), value, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(got.out, want.out, atol=2e-2, rtol=2e-2)


def test_values_share_a_call_where_the_kernel_rounds_up_anyway() -> None:
    together = flex._together
    assert together({"out": 64, "columns": 9}) == [["out"], ["columns"]]
    assert together({"out": 80, "columns": 9, "keys": 80}) == [["out", "columns"], ["keys"]]
    assert together({"columns": 9, "keys": 64, "terms": 2}) == [["columns", "terms"], ["keys"]]


# -- what it refuses -------------------------------------------------------------------------------
def shapes_on(device: str, dtype: torch.dtype = torch.bfloat16, Sq: int = 8192) -> Shapes:
    return Shapes(1, 8, 2, Sq, 8192, 64, 64, dtype, torch.device(device))


def test_explicit_flex_never_falls_back() -> None:
    A = {"a": torch.zeros(8192, dtype=torch.bool)}
    adaptive = Program(regions=A, gains=(Gain("a", lambda m: m["x"], {"x": "a"}),))
    terms = ((torch.zeros(1, flex.RANK + 1), torch.zeros(1, flex.RANK + 1)),)
    learns = Program(key_bias=torch.zeros(8192, requires_grad=True))
    for program, shapes, reason in (
        (adaptive, shapes_on("cuda"), "row-adaptive"),
        (Program(score_terms=terms), shapes_on("cuda"), "at most 32"),
        (Program(), shapes_on("mps"), "only, not on mps"),
        (Program(), shapes_on("cuda", torch.float64), r"no fused kernel for torch\.float64"),
        (learns, shapes_on("cpu", torch.float32), "no backward on a CPU"),
    ):
        with pytest.raises(fv.FoveateError, match=reason):
            plan(program, shapes, "flex")
        if shapes.device.type != "mps":
            assert plan(program, shapes).output != "flex"  # unasked, something else runs it


def test_a_gradient_on_a_cpu_is_refused_when_it_is_wanted() -> None:
    q, k, v = (torch.randn(1, 2, 20, 8, requires_grad=True) for _ in range(3))
    with pytest.raises(fv.FoveateError, match="no backward on a CPU"):
        fv.attention(q, k, v, backend="flex")
    with torch.no_grad():
        got = fv.attention(q, k, v, backend="flex")
        torch.testing.assert_close(got.out, fv.attention(q, k, v).out)


# -- where it is chosen ----------------------------------------------------------------------------
PROGRAMS = {
    "a gain that varies along the queries": Program(
        causal=True, regions={"a": torch.zeros(8192, dtype=torch.bool)}
    ).with_gain("a", torch.ones(8192)),
    "a soft-cap": Program(causal=True, softcap=30.0),
    "a pattern": Program(pattern=Window(512)),
    "a dense bias": Program(bias=torch.zeros(1, 1, 8192, 8192, dtype=torch.bool).fill_(True)),
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_gpu_runs_it_where_a_cpu_takes_tiles_or_columns(program: Program) -> None:
    made = fv.plan(program, shapes_on("cuda"))
    assert made.output == "flex" and "FlexAttention, compiled" in made.explain()
    assert plan(program, shapes_on("cpu", torch.float32)).output in ("tiles", "flash")


def on_gpu(program: Program, **kw: object) -> Plan:
    return fv.plan(program, shapes_on("cuda", **kw))  # type: ignore[arg-type]


def test_what_a_gpu_is_not_given() -> None:
    capped = Program(causal=True, softcap=30.0)
    assert on_gpu(capped, Sq=1).output == "tiles"  # decode: one tile, nothing to compile
    assert on_gpu(capped, dtype=torch.float64).output == "tiles"


def test_measures_that_are_not_linear_are_left_to_tiles() -> None:
    capped = Program(causal=True, softcap=30.0, reads=(fv.distance(), fv.top(3), fv.entropy()))
    made = on_gpu(capped)
    assert (made.output, made.reads) == ("flex", "columns")
    assert [r.kind for r in made.program.reads] == ["distance"]
    (beside,) = made.more
    assert beside.reads == "tiles"
    said = made.explain()
    assert "distance: by value columns in one more pass, float32" in said
    assert "top.values, top.indices, entropy: one more pass (tiles)" in said
    assert "the soft-cap: in the kernel" in said


def test_the_plan_counts_only_blocks_within_reach() -> None:
    wide, narrow = (on_gpu(Program(pattern=Window(n))) for n in (8192, 256))
    count = [flex.pairs(p.terms, p.shapes) for p in (wide, narrow)]
    assert count[1] < count[0] / 8
    assert "its tiles are looked up" in narrow.explain()
    own = on_gpu(Program(pattern=OwnWindow(256)))
    assert "its own function is compiled in" in own.explain()


def test_a_plan_for_a_device_that_is_not_here_does_not_run() -> None:
    made = on_gpu(Program(causal=True, softcap=30.0))
    q, k = torch.zeros(1, 8, 8192, 64).bfloat16(), torch.zeros(1, 2, 8192, 64).bfloat16()
    with pytest.raises(fv.FoveateError, match="cuda"):
        made.run(q, k, k)


def test_never_unasked_on_a_cpu() -> None:
    for program in PROGRAMS.values():
        for dtype in (torch.float32, torch.bfloat16):
            assert plan(program, shapes_on("cpu", dtype)).output != "flex"


# -- compiled --------------------------------------------------------------------------------------
def compiled_case(Sq: int, pattern: object = None, bias: bool = False) -> tuple:
    g = torch.Generator().manual_seed(Sq)
    q, k, v = (torch.randn(2, h, Sq, 32, generator=g) for h in (6, 3, 3))
    padded = torch.randn(2, 1, Sq, generator=g)
    padded[1, :, :5] = -torch.inf
    program = Program(
        causal=True,
        softcap=2.0,
        key_bias=padded,
        pattern=pattern,  # type: ignore[arg-type]
        bias=torch.randn(1, 1, Sq, Sq, generator=g) if bias else None,
        regions={"a": torch.rand(Sq, generator=g) < 0.3},
    ).with_gain("a", torch.rand(1, 6, Sq, generator=g) + 0.5)
    shapes = Shapes.of(q, k, v)
    want = plan(program, shapes, "reference").run(q, k, v)
    return plan(program, shapes, "flex")._flex, (q, k, v), want


@pytest.mark.slow
def test_lengths_share_a_kernel() -> None:
    """The first length is compiled as it is, the second for any; no further one is."""
    torch._dynamo.reset()
    count = [0]

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        count[0] += 1
        return graph.forward

    run = torch.compile(flex._flex, backend=backend, fullgraph=True)
    for length in (200, 300, 333, 450, 700):
        call, (q, k, v), want = compiled_case(length, Window(length // 3))
        with torch.no_grad():
            out, lse = run(q, k, v, call.score[0], call.block_mask, call.terms.scale)
        torch.testing.assert_close(out, want.out, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(lse.double(), want.lse, atol=1e-5, rtol=1e-5)
    assert count[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"pattern": Window(40)}, {"bias": True}], ids=str)
def test_the_compiled_kernel_of_a_cpu(options: dict) -> None:
    """It gives no lse, but it walks the blocks as the GPU's does."""
    from torch.nn.attention.flex_attention import flex_attention

    call, (q, k, v), want = compiled_case(300, **options)
    run = torch.compile(flex_attention, fullgraph=True, dynamic=False)
    with torch.no_grad():
        out = run(
            *(q, k, v, call.score[0], call.block_mask, call.terms.scale),
            enable_gqa=True,
        )
    torch.testing.assert_close(out, want.out, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    call, tensors, want = compiled_case(300, Window(40))
    to = lambda t: t.to(CUDA) if isinstance(t, torch.Tensor) else t
    program = call.program
    program = program.evolve(
        key_bias=to(program.key_bias),
        regions={name: to(region) for name, region in program.regions.items()},
        gains=tuple(Gain(gain.region, to(gain.value)) for gain in program.gains),
    )
    q, k, v = (to(t).requires_grad_() for t in tensors)
    made = plan(program, Shapes.of(q, k, v))
    assert made.output == "flex"
    got = made.run(q, k, v)
    torch.testing.assert_close(got.out.cpu(), want.out, atol=1e-3, rtol=1e-3)
    (got.out.sum() + got.lse[got.lse > -torch.inf].sum()).backward()
    assert q.grad is not None and q.grad.isfinite().all()
