"""Every plan against the float64 reference."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foveate as fv

KINDS = (
    "mass",
    "entropy",
    "distance",
    "distance_signed",
    "received",
    "block_map",
    "rows",
    "top",
    "max",
)


class Stride:
    """A pattern of no practical use: every ``n``-th key and the last few."""

    def __init__(self, n: int) -> None:
        self.n = n

    def tile(self, q_pos: torch.Tensor, k_pos: torch.Tensor) -> torch.Tensor:
        return (k_pos % self.n == 0) | ((q_pos[:, None] - k_pos).abs() < 3)

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        return 0, keys


class Window(Stride):
    def tile(self, q_pos: torch.Tensor, k_pos: torch.Tensor) -> torch.Tensor:
        return (q_pos[:, None] - k_pos).abs() < self.n

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        return max(0, q_start - self.n + 1), min(keys, q_stop + self.n)


@st.composite
def calls(draw: st.DrawFn, flash: bool = False) -> dict:
    """One call: shapes, geometry and any mixture of terms, regions, gains and measures.

    ``flash``: only what the flash kernel takes (no dense term, measures linear in P).
    """
    B = draw(st.integers(1, 2))
    Hkv = draw(st.integers(1, 2))
    Hq = Hkv * draw(st.integers(1, 3))
    Sq = draw(st.sampled_from([17, 33, 70] if flash else [1, 2, 7, 16, 17, 33, 70]))
    Sk = draw(st.sampled_from([1, 3, 16, 40, 71]))
    D, Dv = draw(st.sampled_from([(4, 4), (8, 4), (4, 8)]))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    call: dict = {
        "q": normal(B, Hq, Sq, D),
        "k": normal(B, Hkv, Sk, D),
        "v": normal(B, Hkv, Sk, Dv),
    }
    call["causal"] = draw(st.booleans())
    call["q_offset"] = draw(st.none() | st.integers(-Sq + 1, Sk + 2))
    if call["causal"] and call["q_offset"] is None and Sk - Sq + Sq <= 0:
        call["q_offset"] = 0
    if draw(st.booleans()):
        bias = normal(draw(st.sampled_from([1, B])), draw(st.sampled_from([1, Hq])), Sk)
        if draw(st.booleans()):
            bias[torch.rand(bias.shape, generator=g) < 0.3] = -torch.inf
            bias[..., -1] = 0.0
        call["key_bias"] = bias
    if not flash and draw(st.integers(0, 3)) == 0:
        call["bias"] = normal(draw(st.sampled_from([1, B])), draw(st.sampled_from([1, Hq])), Sq, Sk)
        if draw(st.booleans()):
            call["bias"] = call["bias"] > -1
            call["bias"][..., 0] = True
    if not flash and draw(st.integers(0, 3)) == 0:
        call["softcap"] = 1.5
    if draw(st.integers(0, 3)) == 0:
        call["sinks"] = normal(Hq)
    if draw(st.integers(0, 3)) == 0:
        h, r = draw(st.sampled_from([1, Hq])), draw(st.integers(1, 3))
        call["score_terms"] = [(normal(B, h, Sq, r), normal(1, h, Sk, r))]
    if not flash and draw(st.integers(0, 3)) == 0:
        call["pattern"] = draw(st.sampled_from([Stride(3), Window(5), Window(40)]))
    call["regions"] = {
        "a": torch.rand(Sk, generator=g) < 0.4,
        "b": torch.rand(B, Sk, generator=g) < 0.4,
    }
    gains = {}
    for name in draw(st.sets(st.sampled_from(["a", "b"]))):
        shape = draw(st.sampled_from([(), (1,), (Hq, 1), (B, Hq, Sq), (Sq,), (B, 1, 1)]))
        gains[name] = draw(
            st.sampled_from(
                [3.0, 0.25, torch.rand(shape, generator=g, dtype=torch.float64) * 4 + 0.05]
            )
        )
    call["gains"] = gains
    linear = ("mass", "distance_signed", "block_map", "rows") + ("distance",) * call["causal"]
    kinds = draw(st.sets(st.sampled_from(linear if flash else KINDS)))
    at = draw(st.sampled_from(["after", "before"]))
    n = min(Sq, Sk, 5)
    made = {
        "mass": fv.mass("a", at=at),
        "entropy": fv.entropy(),
        "distance": fv.distance(at=at),
        "distance_signed": fv.distance(signed=True),
        "received": fv.received(at=at),
        "block_map": fv.block_map(n),
        "rows": fv.rows([0, -1, Sq // 2]),
        "top": fv.top(min(3, Sk)),
        "max": fv.max(at=at),
    }
    call["measures"] = [made[kind] for kind in sorted(kinds)]
    return call


def assert_same(got: fv.Output, want: fv.Output, tol: float) -> None:
    torch.testing.assert_close(got.out.double(), want.out.double(), atol=tol, rtol=tol)
    torch.testing.assert_close(got.lse.double(), want.lse, atol=tol, rtol=tol)
    assert got.measures.keys() == want.measures.keys()
    for key, value in want.measures.items():
        if key == "top.indices":
            continue  # ties may differ; the values are compared
        torch.testing.assert_close(
            got.measures[key].double(),
            value.double(),
            atol=tol * 10,
            rtol=tol,
            msg=lambda m, k=key: f"{k}: {m}",
        )


def convert(call: dict, dtype: torch.dtype) -> dict:
    def one(x: object) -> object:
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            return x.to(dtype)
        if isinstance(x, dict):
            return {k: one(v) for k, v in x.items()}
        if isinstance(x, list | tuple):
            return type(x)(one(v) for v in x)
        return x

    return {k: one(v) for k, v in call.items()}


def visible(call: dict) -> bool:
    """Whether every batch item sees something (the operator refuses a call otherwise)."""
    try:
        fv.attention(**call, backend="reference")
    except fv.FoveateError:
        return False
    return True


@settings(max_examples=250, deadline=None)
@given(calls())
def test_float64_equals_the_reference(call: dict) -> None:
    if not visible(call):
        return
    assert_same(fv.attention(**call), fv.attention(**call, backend="reference"), 1e-9)


@settings(max_examples=200, deadline=None)
@given(calls(flash=True))
def test_flash_plans_equal_the_reference(call: dict) -> None:
    if not visible(call):
        return
    assert_same(fv.attention(**call), fv.attention(**call, backend="reference"), 1e-9)


@settings(max_examples=100, deadline=None)
@given(calls() | calls(flash=True))
def test_float32_is_close_to_the_reference(call: dict) -> None:
    if not visible(call):
        return
    narrow = convert(call, torch.float32)
    assert_same(
        fv.attention(**narrow),
        fv.attention(**convert(narrow, torch.float64), backend="reference"),
        2e-5,
    )
