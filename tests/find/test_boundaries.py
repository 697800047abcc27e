"""The boundary predictor's labels and its training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate as fv
from families import build
from foveate.find.boundaries import attention_shifts, fit_boundaries


def test_shifts_are_sums_of_attention_on_either_side() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(2, 30, 30, generator=generator, dtype=torch.float64)
    p = p.masked_fill(torch.ones(30, 30).triu(1).bool(), -float("inf")).softmax(-1)
    shifts = attention_shifts(p)
    for b in range(2):
        for j in range(30):
            if 3 <= j < 30 - 5:
                left = float(p[b, j + 5 :, j - 3 : j + 1].sum()) + 1e-6
                right = float(p[b, j + 5 :, j + 1 : j + 5].sum()) + 1e-6
                assert float(shifts[b, j]) == pytest.approx(max(left, right) / min(left, right))
            else:
                assert float(shifts[b, j]) == 0
    assert not attention_shifts(p[:, :8, :8]).any()


class Words:
    """A tokenizer of a tiny model: one token a letter."""

    chat_template = None
    padding_side = "right"

    def __call__(self, text: Any, **_: Any) -> dict[str, Any]:
        ids = torch.tensor([[5 + ord(c) % 50 for c in text]])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_it_learns_and_leaves_model_and_generator_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Given:
        def __init__(self, tokenizer: Any, text: str) -> None:
            self.inputs = tokenizer(text)

    monkeypatch.setattr("foveate.find.boundaries.Prompt", Given)
    monkeypatch.setattr(
        "foveate.find.boundaries.attach", lambda model, *m, prompt: fv.attach(model, *m)
    )
    model = build("llama")
    before = {name: p.clone() for name, p in model.named_parameters()}
    state, seen = torch.random.get_rng_state(), []
    texts = ["the quick brown fox jumps over the lazy dog ", "a b c d e f g " * 3]
    fits = [
        fit_boundaries(
            model, Words(), texts, layers=[0, 1], epochs=n, progress=lambda *d: seen.append(d)
        )
        for n in (1, 2, 2)
    ]
    assert seen[:2] == [(1, 2), (2, 2)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    k = torch.randn(1, 2, 60, fits[0].channels // 2)
    a, b, c = (fit(k) for fit in fits)
    assert torch.equal(b, c) and not torch.equal(a, b)
    assert not any(p.requires_grad for p in fits[0].parameters())


def test_no_text_is_refused() -> None:
    for none in ([], "one text"):
        with pytest.raises(fv.FoveateError, match="a list of texts"):
            fit_boundaries(None, None, none)
