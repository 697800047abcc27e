"""Rectified SpaAttn on joint attention of denoisers, with terms, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from denoisers import TEXT, denoiser, given
from families import build
from foveate.patterns import SlidingWindow

RECTIFIED = fv.RectifiedSpaAttn(0.3, 0.2, block=4)


def tensors(S: int = 50, groups: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, S, 8, generator=g, dtype=torch.float64)
    k, v = torch.randn(2, 2, 4 // groups, S, 8, generator=g, dtype=torch.float64).unbind(0)
    return q, k, v


@pytest.mark.parametrize(("name", "first"), [("flux", True), ("sd3", False)])
@torch.no_grad()
def test_joint_attention_isolates_the_text(name: str, first: bool) -> None:
    model, inputs = denoiser(name), given(name, side=16)
    parts = {part: fv.Capture(part, layers=[0], stack="joint") for part in ("q", "k", "v", "out")}
    rectified = fv.RectifiedSpaAttn(0.3, 0.2, block=4, stack="joint")
    with fv.attach(model, rectified, *parts.values()):
        got = model(**inputs).sample
    q, k, v, out = (capture[0] for capture in parts.values())
    at = torch.arange(q.shape[2])
    text = at < TEXT if first else at >= q.shape[2] - TEXT
    want = fv.attention(q, k, v, regions={"text": text}, operators=[RECTIFIED]).out
    assert torch.allclose(out, want, atol=1e-5)
    assert torch.allclose(out[:, :, text], fv.attention(q, k, v).out[:, :, text], atol=1e-5)
    base = model(**inputs).sample
    assert not torch.allclose(got, base, atol=1e-3)
    for dense in (
        fv.RectifiedSpaAttn(1.0, block=4, stack="all"),
        fv.RectifiedSpaAttn(0.2, block=1, stack="joint"),
    ):
        with fv.attach(model, dense):
            assert torch.allclose(model(**inputs).sample, base, atol=1e-4)


@torch.no_grad()
def test_without_text_all_tokens_are_pooled() -> None:
    model, inputs = denoiser("wan"), given("wan")
    base = model(**inputs).sample
    with fv.attach(
        model,
        fv.RectifiedSpaAttn(0.2, block=1, stack="self"),
    ) as run:
        assert torch.allclose(model(**inputs).sample, base, atol=1e-4)
    assert run.coverage.touched
    with fv.attach(model, fv.RectifiedSpaAttn(0.3, 0.2, block=4, stack="self")):
        assert not torch.allclose(model(**inputs).sample, base, atol=1e-3)


@pytest.mark.parametrize("name", ["a gain", "a bias a head", "hidden keys", "sinks"])
def test_terms_of_the_keys_weigh(name: str) -> None:
    q, k, v = tensors(groups=2)
    at = torch.arange(50)
    terms: dict[str, Any] = {
        "a gain": {"gains": {"a": 3.0}},
        "a bias a head": {"key_bias": torch.randn(4, 50).double()},
        "hidden keys": {"key_bias": torch.where(at % 5 == 3, -torch.inf, 0.0).double()},
        "sinks": {"sinks": torch.randn(4).double()},
    }[name]
    terms["regions"] = {"text": at < 6, "a": at < 20}
    want = fv.attention(q, k, v, **terms)
    for exact in (fv.RectifiedSpaAttn(1.0, block=7), fv.RectifiedSpaAttn(0.1, 0.1, block=1)):
        got = fv.attention(q, k, v, operators=[exact], **terms)
        assert torch.allclose(got.out, want.out) and torch.allclose(got.lse, want.lse)
    rough = fv.attention(q, k, v, operators=[RECTIFIED], **terms)
    assert rough.out.isfinite().all() and not torch.allclose(rough.out, want.out, atol=1e-2)


def test_hidden_blocks_count_for_nothing() -> None:
    """Padding behind the text is as if it were not there."""
    q, k, v = tensors()
    shown = torch.arange(50) < 38
    text = torch.arange(50) >= 32
    bias = torch.where(shown, 0.0, -torch.inf).double()
    padded = fv.attention(q, k, v, key_bias=bias, regions={"text": text}, operators=[RECTIFIED]).out
    some = q[:, :, :38], k[:, :, :38], v[:, :, :38]
    alone = fv.attention(*some, regions={"text": text[:38]}, operators=[RECTIFIED]).out
    assert torch.allclose(padded[:, :, :38], alone)
    none = fv.attention(q, k, v, key_bias=bias, operators=[fv.RectifiedSpaAttn(0.3, block=6)])
    assert none.out.isfinite().all()


def test_measures_follow_the_estimate_and_gradients_flow() -> None:
    q, k, v = tensors()
    regions = {"text": torch.arange(50) < 6, "a": torch.arange(50) < 20}
    given: dict[str, Any] = {"regions": regions, "operators": [RECTIFIED]}
    eye = torch.eye(50, dtype=torch.float64).expand(2, 4, 50, 50)
    P = fv.attention(q, k, eye, **given).out
    y = fv.attention(q, k, v, measures=[fv.mass("a")], **given)
    assert torch.allclose(P.sum(-1), torch.ones(()).double())
    assert torch.allclose(y.measures["mass:a"], P[..., :20].sum(-1))
    small = [x[:1, :2, :9, :3].requires_grad_() for x in (q, k, v)]
    text = {"text": torch.arange(9) < 2}
    rectified = fv.RectifiedSpaAttn(0.3, 0.1, block=2)

    def out(*qkv: Tensor) -> Tensor:
        return fv.attention(*qkv, regions=text, operators=[rectified]).out

    assert torch.autograd.gradcheck(out, small, fast_mode=True)


@torch.no_grad()
def test_other_heads_and_text_alone_run_in_full() -> None:
    model, inputs = denoiser("flux"), given("flux", side=16)
    kept = []
    one = fv.RectifiedSpaAttn(0.3, 0.2, block=4, heads=[1], stack="joint")
    for rectified in ([one], [fv.Measure(fv.mass("text"), stack="joint")]):
        capture = fv.Capture(stack="joint")
        with fv.attach(model, *rectified, capture):
            model(**inputs)
        kept.append(capture[0])
    assert torch.allclose(kept[0][:, 0], kept[1][:, 0], atol=1e-5)
    assert not torch.allclose(kept[0][:, 1], kept[1][:, 1], atol=1e-2)
    q, k, v = tensors()
    everything = {"text": torch.ones(50, dtype=torch.bool)}
    got = fv.attention(q, k, v, regions=everything, operators=[RECTIFIED]).out
    assert torch.allclose(got, fv.attention(q, k, v).out)


@pytest.mark.parametrize(
    ("terms", "word"),
    [
        ({"causal": True}, "causal"),
        ({"softcap": 3.0}, "soft-cap"),
        ({"bias": torch.zeros(1, 1, 50, 50).double()}, "dense bias"),
        ({"pattern": SlidingWindow(4, causal=False)}, "pattern"),
        ({"regions": {"text": torch.arange(100).view(2, 50) < 60}}, "same for the whole batch"),
    ],
)
def test_what_it_cannot_take_is_told(terms: dict[str, Any], word: str) -> None:
    q, k, v = tensors()
    with pytest.raises(fv.FoveateError, match=word):
        fv.attention(q, k, v, operators=[RECTIFIED], **terms)


def test_a_language_model_is_refused() -> None:
    model = build("llama")
    with pytest.raises(fv.FoveateError, match="causal"), fv.attach(model, RECTIFIED):
        model(input_ids=torch.arange(3, 23)[None])


@pytest.mark.parametrize("value", [-0.1, 1.1, "half", True, float("nan")])
def test_shares_that_are_none(value: Any) -> None:
    with pytest.raises(fv.FoveateError, match=r"RectifiedSpaAttn\(density="):
        fv.RectifiedSpaAttn(value)
    with pytest.raises(fv.FoveateError, match=r"RectifiedSpaAttn\(mass="):
        fv.RectifiedSpaAttn(0.5, value)


def test_blocks_and_texts_that_are_none() -> None:
    with pytest.raises(fv.FoveateError, match=r"RectifiedSpaAttn\(block=0\)"):
        fv.RectifiedSpaAttn(block=0)
    with pytest.raises(fv.FoveateError, match="name of a region"):
        fv.RectifiedSpaAttn(text=3)  # type: ignore[arg-type]
