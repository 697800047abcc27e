"""HyperAttention on tensors with terms, and on live models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from families import build, inputs
from foveate.patterns import SlidingWindow

IDS = torch.arange(2 * 40).view(2, 40) * 5 % 61 + 3
HYPER = fv.HyperAttention(6, 6, least=8)


def tensors(S: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, S, 8, generator=g, dtype=torch.float64)
    k, v = torch.randn(2, 2, 2, S, 8, generator=g, dtype=torch.float64).unbind(0)
    return q, k, v


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["a gain", "a key bias", "a bias a head", "sinks", "hidden keys"])
def test_terms_of_the_keys_go_along(name: str, causal: bool) -> None:
    q, k, v = tensors()
    at = torch.arange(60)
    terms: dict[str, Any] = {
        "a gain": {"gains": {"a": 3.0}, "regions": {"a": at < 20}},
        "a key bias": {"key_bias": torch.randn(2, 1, 60).double()},
        "a bias a head": {"key_bias": torch.randn(4, 60).double()},
        "sinks": {"sinks": torch.randn(4).double()},
        "hidden keys": {"key_bias": torch.where(at % 5 == 3, -torch.inf, 0.0).double()},
    }[name]
    want = fv.attention(q, k, v, causal=causal, **terms)
    for hyper in (fv.HyperAttention(7, 60, least=4), fv.HyperAttention(60, 3, least=4)):
        got = fv.attention(q, k, v, causal=causal, operators=[hyper], **terms)
        assert torch.allclose(got.out, want.out)
        assert torch.allclose(got.lse, want.lse)
    rough = fv.attention(q, k, v, causal=causal, operators=[HYPER], **terms)
    assert rough.out.isfinite().all() and not torch.allclose(rough.out, want.out, atol=1e-2)


def test_it_is_repeatable_and_the_seed_matters() -> None:
    q, k, v = tensors()
    a, b, c = (
        fv.attention(q, k, v, causal=True, operators=[fv.HyperAttention(6, 6, least=8, seed=s)]).out
        for s in (0, 0, 1)
    )
    assert torch.equal(a, b) and not torch.allclose(a, c)
    alone = fv.attention(q[1:], k[1:], v[1:], causal=True, operators=[HYPER]).out
    assert torch.allclose(a[1:], alone)


def test_measures_follow_the_estimate_and_gradients_flow() -> None:
    q, k, v = tensors()
    region = {"a": torch.arange(60) < 20}
    given: dict[str, Any] = {"causal": True, "regions": region, "operators": [HYPER]}
    eye = torch.eye(60, dtype=torch.float64).expand(2, 2, 60, 60)
    P = fv.attention(q, k, eye, **given).out
    y = fv.attention(q, k, v, measures=[fv.mass("a")], **given)
    assert torch.allclose(P.sum(-1), torch.ones(()).double())
    assert torch.allclose(y.measures["mass:a"], P[..., :20].sum(-1))
    small = [x[:1, :h, :10, :3].requires_grad_() for x, h in ((q, 2), (k, 1), (v, 1))]
    hyper = fv.HyperAttention(2, 2, least=3)

    def out(*qkv: Tensor) -> tuple[Tensor, Tensor]:
        y = fv.attention(*qkv, causal=True, operators=[hyper])
        return y.out, y.lse

    assert torch.autograd.gradcheck(out, small, fast_mode=True)


def test_past_keys_are_a_rectangle() -> None:
    q, k, v = tensors()
    want = fv.attention(q[:, :, 20:], k, v, causal=True)
    got = fv.attention(
        q[:, :, 20:], k, v, causal=True, operators=[fv.HyperAttention(60, 1, least=8)]
    )
    assert torch.allclose(got.out, want.out)
    later = fv.attention(q, k, v, causal=True, q_offset=-5, operators=[HYPER])
    assert bool((later.out[:, :, :5] == 0).all()) and bool(
        (later.lse[:, :, :5] == -torch.inf).all()
    )
    assert later.out.isfinite().all()


@pytest.mark.parametrize("padded", ["left", "right"])
@torch.no_grad()
def test_an_item_of_a_padded_batch_gets_what_it_gets_alone(padded: str) -> None:
    model = build("llama")
    given = inputs("llama", length=29, padded=padded)
    real = given["attention_mask"][0].bool()
    at = (given["attention_mask"].cumsum(-1) - 1).clamp(min=0)  # hashes depend on the rotation
    with fv.attach(model, HYPER) as run:
        batch = model(**given, position_ids=at).logits[0, real]
        alone = model(input_ids=given["input_ids"][:1, real]).logits[0]
        ids = model.generate(**given, max_new_tokens=3, do_sample=False)
    assert torch.allclose(batch, alone, atol=1e-4)
    assert not torch.allclose(batch, model(**given, position_ids=at).logits[0, real], atol=1e-2)
    assert ids.shape == (2, 32) and len(run.coverage.touched) == 2


@torch.no_grad()
def test_decode_steps_and_other_heads_are_exact() -> None:
    model = build("llama")
    first = model(input_ids=IDS[:, :30], use_cache=True)
    want = model(input_ids=IDS[:, 30:31], past_key_values=first.past_key_values).logits
    first = model(input_ids=IDS[:, :30], use_cache=True)
    with fv.attach(model, HYPER):
        got = model(input_ids=IDS[:, 30:31], past_key_values=first.past_key_values).logits
    assert torch.equal(got, want)

    kept: dict[str, Tensor] = {}
    for name, hyper in (
        ("some", [fv.HyperAttention(6, 6, least=8, heads=[1, 2])]),
        ("all", [HYPER]),
        ("none", []),
    ):
        capture = fv.Capture()
        with fv.attach(model, *hyper, capture):
            model(input_ids=IDS)
        kept[name] = capture[0]
    for head, like in enumerate(("none", "all", "all", "none")):
        assert torch.allclose(kept["some"][:, head], kept[like][:, head], atol=1e-6)


@pytest.mark.parametrize(
    ("terms", "word"),
    [
        ({"softcap": 3.0}, "soft-cap"),
        ({"bias": torch.zeros(1, 1, 60, 60).double()}, "dense bias"),
        ({"pattern": SlidingWindow(4)}, "pattern"),
        ({"gains": {"a": torch.rand(1, 1, 60) + 1}}, "vary along the queries"),
        ({"gains": [fv.Gain("a", lambda m: m["a"] + 1, {"a": "a"})]}, "row-adaptive"),
        ({"operators": [fv.DeltaCorrection(4), HYPER]}, "operator before it"),
    ],
)
def test_what_it_cannot_take_is_told(terms: dict[str, Any], word: str) -> None:
    q, k, v = tensors()
    given: dict[str, Any] = {"operators": [HYPER], "regions": {"a": torch.arange(60) < 9}} | terms
    with pytest.raises(fv.FoveateError, match=word):
        fv.attention(q, k, v, causal=True, **given)


@torch.no_grad()
def test_a_models_own_window_is_refused_unless_left_out() -> None:
    model = build("mistral")
    with pytest.raises(fv.FoveateError, match="pattern"), fv.attach(model, HYPER):
        model(input_ids=IDS)


@pytest.mark.parametrize("name", ["block", "samples", "projections", "least"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_numbers_that_are_none(name: str, value: Any) -> None:
    with pytest.raises(fv.FoveateError, match=rf"HyperAttention\({name}="):
        fv.HyperAttention(**{name: value})


def test_more_signs_than_a_bucket_has() -> None:
    with pytest.raises(fv.FoveateError, match="30 at most"):
        fv.HyperAttention(projections=31)


def test_queries_behind_the_last_real_key() -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 63, 8, generator=g).unbind(0)
    hidden = torch.zeros(1, 1, 63).masked_fill(torch.arange(63) >= 60, -torch.inf)
    every = fv.HyperAttention(block=16, samples=64, least=10)
    for key_bias in (hidden, hidden.expand(1, 2, 63) + torch.arange(2.0)[:, None]):
        call: Any = {"causal": True, "key_bias": key_bias}
        got, want = fv.attention(q, k, v, operators=[every], **call), fv.attention(q, k, v, **call)
        assert torch.allclose(got.out, want.out, atol=1e-5)
        assert torch.allclose(got.lse, want.lse, atol=1e-5)
