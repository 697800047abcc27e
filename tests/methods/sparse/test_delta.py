"""The delta correction: on tensors with every other term, and on live models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import foveate as fv
from families import build, inputs, logits
from foveate.patterns import Causal, MoBA, SlidingWindow, Strided

IDS = torch.arange(2 * 40).view(2, 40) * 5 % 61 + 3
WINDOW = SlidingWindow(5, sinks=2)


def tensors(Sq: int, Sk: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(2, 4, Sq, 8, generator=g, dtype=torch.float64)
    k, v = torch.randn(2, 2, 2, Sk or Sq, 8, generator=g, dtype=torch.float64).unbind(0)
    return q, k, v


def by_the_book(full: Tensor, sparse: Tensor, every: int, last: int) -> Tensor:
    """Rows ``[..., S, E]``, one after another."""
    S = full.shape[-2]
    end = 0
    while S - (end + every) >= max(last, every):
        end += every
    rows = []
    for i in range(S):
        a = i - i % every
        moved = sparse[..., i, :] + full[..., a, :] - sparse[..., a, :]
        rows.append(full[..., i, :] if i >= end else moved)
    return torch.stack(rows, -2)


@given(
    st.integers(1, 60), st.integers(0, 20), st.integers(1, 70), st.integers(0, 40), st.booleans()
)
@settings(max_examples=40, deadline=None)
def test_any_sizes(Sq: int, past: int, every: int, last: int, causal: bool) -> None:
    q, k, v = tensors(Sq, Sq + past)
    full = fv.attention(q, k, v, causal=causal)
    sparse = fv.attention(q, k, v, causal=causal, pattern=WINDOW)
    correction = fv.DeltaCorrection(every, last=last)
    y = fv.attention(q, k, v, causal=causal, pattern=WINDOW, operators=[correction])
    assert torch.allclose(y.out, by_the_book(full.out, sparse.out, every, last))
    anchors = slice(None, None, every)
    assert torch.allclose(y.out[:, :, anchors], full.out[:, :, anchors])
    assert torch.allclose(y.lse[:, :, anchors], full.lse[:, :, anchors])


REGIONS = {"a": torch.arange(50) % 3 == 0}
TERMS: dict[str, dict[str, Any]] = {
    "a gain": {"gains": {"a": 3.0}, "regions": REGIONS},
    "a gain a row": {"gains": {"a": torch.rand(2, 4, 50).double() + 0.5}, "regions": REGIONS},
    "a gain by mass": {
        "gains": [fv.Gain("a", lambda mass: 1 + mass["a"], {"a": "a"})],
        "regions": REGIONS,
    },
    "a dense bias": {"bias": torch.randn(2, 4, 50, 50).double()},
    "a soft-cap": {"softcap": 2.0},
    "sinks": {"sinks": torch.randn(4).double()},
    "score terms": {
        "score_terms": [(torch.randn(2, 4, 50, 2).double(), torch.randn(1, 4, 50, 2).double())]
    },
    "hidden keys": {"key_bias": torch.where(torch.arange(50) % 7 == 3, -torch.inf, 0.0).double()},
}


@pytest.mark.parametrize("name", TERMS)
def test_it_goes_with_every_term(name: str) -> None:
    q, k, v = tensors(50)
    terms = TERMS[name] | {"causal": True}
    full = fv.attention(q, k, v, **terms).out
    sparse = fv.attention(q, k, v, pattern=WINDOW, **terms).out
    correction = [fv.DeltaCorrection(6, last=9)]
    got = fv.attention(q, k, v, pattern=WINDOW, operators=correction, **terms).out
    assert torch.allclose(got, by_the_book(full, sparse, 6, 9))
    assert not torch.allclose(got, sparse)


def test_measures_are_those_of_the_corrected_rows() -> None:
    q, k, v = tensors(50)
    given: dict[str, Any] = {"causal": True, "regions": REGIONS}
    measures = [fv.mass("a"), fv.distance()]
    correction = [fv.DeltaCorrection(6, last=9)]
    y = fv.attention(q, k, v, pattern=WINDOW, operators=correction, measures=measures, **given)
    eye = torch.eye(50, dtype=torch.float64).expand(2, 2, 50, 50)
    P = fv.attention(q, k, eye, pattern=WINDOW, operators=correction, **given).out
    i = torch.arange(50).double()
    assert torch.allclose(P.sum(-1), torch.ones(()).double())
    assert torch.allclose(y.measures["mass:a"], P[..., REGIONS["a"]].sum(-1))
    assert torch.allclose(y.measures["distance"], (P * (i[:, None] - i)).sum(-1))
    with pytest.raises(fv.FoveateError, match="entropy"):
        fv.attention(q, k, v, pattern=WINDOW, operators=correction, measures=[fv.entropy()])


@pytest.mark.parametrize(
    "sparse",
    [
        {"pattern": MoBA(8, 2)},
        {"pattern": SlidingWindow(4) | Strided(7)},
        {"operators": [fv.HyperAttention(6, 6, least=8)]},
    ],
    ids=["routed", "a union", "an estimate"],
)
def test_whatever_is_sparse_is_corrected(sparse: dict[str, Any]) -> None:
    q, k, v = tensors(50)
    full = fv.attention(q, k, v, causal=True).out
    alone = fv.attention(q, k, v, causal=True, **sparse).out
    operators = [*sparse.get("operators", []), fv.DeltaCorrection(6, last=9)]
    got = fv.attention(q, k, v, causal=True, **sparse | {"operators": operators}).out
    assert torch.allclose(got, by_the_book(full, alone, 6, 9))
    assert not torch.allclose(got, alone)


def test_gradients_flow_through_both_parts() -> None:
    q, k, v = tensors(10)
    q, k, v = (x[:1, :h, :, :3].requires_grad_() for x, h in ((q, 2), (k, 1), (v, 1)))

    def out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        correction = [fv.DeltaCorrection(3, last=3)]
        window = SlidingWindow(3)
        return fv.attention(q, k, v, causal=True, pattern=window, operators=correction).out

    assert torch.autograd.gradcheck(out, (q, k, v), fast_mode=True)


def test_half_precision_is_rounded_once() -> None:
    q, k, v = tensors(300)
    correction = [fv.DeltaCorrection(16)]
    given: dict[str, Any] = {"causal": True, "pattern": WINDOW}
    want = fv.attention(q, k, v, operators=correction, **given).out
    half = [x.to(torch.bfloat16) for x in (q, k, v)]
    exact = [x.double() for x in half]
    error = (
        fv.attention(*half, operators=correction, **given).out
        - fv.attention(*exact, operators=correction, **given).out
    )
    plain = fv.attention(*half, **given).out - fv.attention(*exact, **given).out
    assert float(error.abs().mean()) < 2 * float(plain.abs().mean())
    assert want.isfinite().all()


@torch.no_grad()
def test_a_dense_pattern_has_nothing_to_correct_and_without_one_nothing_happens() -> None:
    q, k, v = tensors(50)
    correction = [fv.DeltaCorrection(6, last=9)]
    dense = fv.attention(q, k, v, causal=True).out
    got = fv.attention(q, k, v, causal=True, pattern=Causal(), operators=correction).out
    assert torch.allclose(got, dense)
    assert torch.equal(fv.attention(q, k, v, causal=True, operators=correction).out, dense)


@torch.no_grad()
def test_the_models_own_window_stays() -> None:
    model = build("mistral")  # sees 6 tokens
    base = logits(model(input_ids=IDS))
    for methods in (
        (SlidingWindow(3), fv.DeltaCorrection(1, last=0)),
        (fv.DeltaCorrection(1, last=0), SlidingWindow(3)),
    ):
        with fv.attach(model, *methods):
            assert torch.allclose(logits(model(input_ids=IDS)), base, atol=1e-5)


@torch.no_grad()
def test_decode_steps_are_full_unless_the_phase_says_otherwise() -> None:
    model = build("llama")
    for phase, decoding in ((None, ()), ("prefill", (WINDOW,))):
        correction = fv.DeltaCorrection(4, last=4, phase=phase)
        with fv.attach(model, WINDOW, correction):
            first = model(input_ids=IDS[:, :30], use_cache=True)
            got = model(input_ids=IDS[:, 30:31], past_key_values=first.past_key_values).logits
        with fv.attach(model, WINDOW, correction):
            first = model(input_ids=IDS[:, :30], use_cache=True)
        with fv.attach(model, *decoding):
            want = model(input_ids=IDS[:, 30:31], past_key_values=first.past_key_values).logits
        assert torch.allclose(got, want, atol=1e-5), phase


@pytest.mark.parametrize("padded", ["left", "right"])
@pytest.mark.parametrize("name", ["qwen3", "mistral"])
@torch.no_grad()
def test_an_item_of_a_padded_batch_gets_what_it_gets_alone(name: str, padded: str) -> None:
    model = build(name)
    given = inputs(name, length=29, padded=padded)
    real = given["attention_mask"][0].bool()
    with fv.attach(model, WINDOW, fv.DeltaCorrection(4, last=4)):
        batch = model(**given).logits[0, real]
        alone = model(input_ids=given["input_ids"][:1, real]).logits[0]
        ids = model.generate(**given, max_new_tokens=3, do_sample=False)
    assert torch.allclose(batch, alone, atol=1e-4)
    assert ids.shape == (2, 32)


@torch.no_grad()
def test_a_prefill_in_chunks_counts_in_each() -> None:
    model = build("llama")
    with fv.attach(model, WINDOW, fv.DeltaCorrection(1, last=0)):
        first = model(input_ids=IDS[:, :17], use_cache=True)
        second = model(input_ids=IDS[:, 17:], past_key_values=first.past_key_values)
    got = torch.cat([first.logits, second.logits], 1)
    assert torch.allclose(got, logits(model(input_ids=IDS)), atol=1e-5)


@torch.no_grad()
def test_it_goes_with_gains_and_measures_on_a_model() -> None:
    model = build("llama")
    region = {"a": torch.arange(40) < 6}
    steer, measure = fv.Emphasize("a", gain=4.0), fv.Measure(fv.mass("a"))
    found = {}
    for name, methods in {
        "window": [WINDOW],
        "delta": [WINDOW, fv.DeltaCorrection(4)],
        "": [],
    }.items():
        with fv.attach(model, steer, *methods, measure, regions=region) as run:
            model(input_ids=IDS)
        found[name] = run.results["mass:a"].prefill[0]
    assert torch.allclose(found["delta"], found[""], atol=1e-5)  # 40 tokens: all rows are full
    assert float((found["window"] - found[""]).abs().max()) > 0.05


def test_the_full_rows_at_the_end_alone() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 60, 8).double().unbind(0)
    window = fv.SlidingWindow(6, sinks=1)
    near = fv.attention(q, k, v, causal=True, pattern=window).out
    full = fv.attention(q, k, v, causal=True).out
    tail = fv.DeltaCorrection(None, last=10)
    got = fv.attention(q, k, v, causal=True, pattern=window, operators=[tail]).out
    assert torch.allclose(got[:, :, :50], near[:, :, :50], atol=1e-12)
    assert torch.allclose(got[:, :, 50:], full[:, :, 50:], atol=1e-12)
    assert not torch.allclose(near[:, :, 50:], full[:, :, 50:], atol=1e-3)
    assert repr(tail) == "DeltaCorrection(every=None, last=10)"


@pytest.mark.parametrize("every", [0, -3, 2.5, True])
def test_numbers_that_are_none(every: Any) -> None:
    with pytest.raises(fv.FoveateError, match=r"DeltaCorrection\(every="):
        fv.DeltaCorrection(every)
    with pytest.raises(fv.FoveateError, match=r"DeltaCorrection\(last="):
        fv.DeltaCorrection(4, last=-1)
