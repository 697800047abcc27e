"""Patterns on live models: prefill, cached decoding, padding, heads, together with methods."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate as fv
from families import build, inputs, logits
from foveate.patterns import Dilated, MultiWindow, Neighborhood, SlidingWindow

IDS = torch.arange(2 * 24).view(2, 24) * 5 % 61 + 3
PATTERN = SlidingWindow(5, sinks=2) | Dilated(3, 6)


def dense(model: Any, ids: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """The model under a prepared mask."""
    causal = torch.ones(seen.shape[-2:], dtype=torch.bool).tril()
    mask = (seen & causal).reshape(1, -1, *causal.shape)
    return logits(model(input_ids=ids, attention_mask=mask.expand(len(ids), -1, -1, -1)))


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3"])
@torch.no_grad()
def test_a_pattern_is_its_mask(name: str) -> None:
    model = build(name)
    want = dense(model, IDS, PATTERN.mask(24))
    base = logits(model(input_ids=IDS))
    with fv.attach(model, PATTERN) as run:
        got = logits(model(input_ids=IDS))
    assert torch.allclose(got, want, atol=1e-5)
    assert not torch.allclose(got, base, atol=1e-3)
    assert len(run.coverage.touched) == 2
    assert torch.equal(logits(model(input_ids=IDS)), base)


@torch.no_grad()
def test_cached_decoding_equals_one_prefill() -> None:
    model = build("llama")
    with fv.attach(model, PATTERN):
        whole = logits(model(input_ids=IDS))
        past, got = None, []
        for start, stop in ((0, 7), (7, 15), *((i, i + 1) for i in range(15, 24))):
            out = model(input_ids=IDS[:, start:stop], past_key_values=past, use_cache=True)
            past = out.past_key_values
            got.append(out.logits)
    assert torch.allclose(torch.cat(got, 1), whole, atol=1e-5)


@torch.no_grad()
def test_sinks_are_the_texts_first_tokens_not_the_paddings() -> None:
    model = build("llama")
    short = IDS[:1, :13]
    padded = torch.cat([torch.zeros(1, 11, dtype=torch.long), short], 1)
    ids = torch.cat([IDS[:1], padded])
    mask = torch.ones_like(ids)
    mask[1, :11] = 0
    with fv.attach(model, SlidingWindow(4, sinks=3)):
        alone = logits(model(input_ids=short))
        both = logits(model(input_ids=ids, attention_mask=mask))
        steps = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=5, do_sample=False
        )
        single = model.generate(input_ids=short, max_new_tokens=5, do_sample=False)
    assert torch.allclose(both[1, 11:], alone[0], atol=1e-5)
    assert torch.equal(steps[1, 24:], single[0, 13:])


@torch.no_grad()
def test_some_heads_and_layers() -> None:
    model = build("llama")
    seen = torch.ones(4, 24, 24, dtype=torch.bool)
    seen[1] = PATTERN.mask(24)
    want = dense(model, IDS, seen)
    with fv.attach(model, fv.Select(PATTERN, heads=[1])):
        assert torch.allclose(logits(model(input_ids=IDS)), want, atol=1e-5)
    with fv.attach(model, fv.Select(PATTERN, layers=[0], heads=[1])) as run:
        assert not torch.allclose(logits(model(input_ids=IDS)), want, atol=1e-4)
    assert len(run.coverage.touched) == 1
    windows = MultiWindow([3, 6, 12, 24])
    with fv.attach(model, windows):
        got = logits(model(input_ids=IDS))
    assert torch.allclose(got, dense(model, IDS, windows.mask(24)), atol=1e-5)
    with pytest.raises(fv.FoveateError, match=r"tells 3 heads apart and .* has 4"):
        with fv.attach(model, MultiWindow([3, 6, 12])):
            model(input_ids=IDS)


@torch.no_grad()
def test_with_gains_and_measures() -> None:
    model = build("llama")
    regions = {"early": torch.arange(24) < 4}
    measure = fv.Measure(fv.mass("early"), fv.entropy())
    with fv.attach(
        model, SlidingWindow(6), fv.Emphasize("early", gain=4.0), measure, regions=regions
    ) as run:
        model(input_ids=IDS)
    mass = run.results["mass:early"].prefill
    assert not mass[..., 10:].any()  # out of the window
    assert bool((mass[..., :4] > 0.999).all())
    with fv.attach(model, SlidingWindow(6) & SlidingWindow(4)):
        one = logits(model(input_ids=IDS))
    with fv.attach(model, SlidingWindow(6), SlidingWindow(4)):
        assert torch.allclose(logits(model(input_ids=IDS)), one, atol=1e-6)


@torch.no_grad()
def test_a_models_own_window_stays() -> None:
    model = build("mistral")  # a window of 6 of its own
    given = inputs("mistral")
    want = logits(model(**given))
    with fv.attach(model, SlidingWindow(1000)):
        assert torch.allclose(logits(model(**given)), want, atol=1e-5)


@torch.no_grad()
def test_a_grid_of_fewer_tokens_than_the_call_is_refused() -> None:
    model = build("llama")
    with pytest.raises(fv.FoveateError, match="16 tokens and the call 24"):
        with fv.attach(model, Neighborhood((4, 4), 3)):
            model(input_ids=IDS)
    with pytest.warns(UserWarning, match="lies on a grid and .* causal decoder") as found:
        with fv.attach(model, Neighborhood((5, 5), 3)):
            model(input_ids=IDS)
            model(input_ids=IDS[:, :5])
    assert len(found) == 1
    q = torch.randn(1, 2, 24, 8)
    with pytest.raises(fv.FoveateError, match="16 tokens and the call 24"):
        fv.attention(q, q, q, pattern=Neighborhood((4, 4), 3))
    with pytest.raises(fv.FoveateError, match="4 heads apart and the call has 2"):
        fv.attention(q, q, q, pattern=MultiWindow([2, 2, 4, 4]))
