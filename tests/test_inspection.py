"""fv.inspect: one forward, everything measured, nothing changed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import foveate as fv
from families import build, inputs


def prompt(name: str) -> Any:
    mark = torch.zeros(2, 11, dtype=torch.bool)
    mark[:, 2:5] = True
    empty = torch.zeros(2, 11, dtype=torch.bool)
    given = inputs(name)
    given.pop("decoder_input_ids", None)
    return SimpleNamespace(inputs=given, regions={"r": mark, "system": empty, "generated": empty})


def test_a_decoder() -> None:
    model, one = build("llama"), prompt("llama")
    kept = []
    model.register_forward_pre_hook(
        lambda m, a, k: kept.append(k["logits_to_keep"]), with_kwargs=True
    )
    run = fv.inspect(model, one)
    assert list(run.results) == ["mass:r", "entropy", "distance", "received", "rows", "block_map"]
    assert run.results["mass:r"].prefill.shape == (2, 2, 4, 11)
    assert not run.results["entropy"].prefill.requires_grad
    assert kept == [1] and len(run.calls) == 1 and run.prompt is one


def test_choices() -> None:
    more = {"s": torch.arange(11) < 3}
    run = fv.inspect(build("llama"), prompt("llama"), layers=1, regions=more, logits_to_keep=0)
    assert "mass:s" in run.results and run.results["mass:s"].layers == [1]
    run = fv.inspect(build("llama"), prompt("llama"), [fv.max(), fv.mass("system")])
    assert list(run.results) == ["max", "mass:system"]


def test_an_encoder_decoder_is_seen_whole() -> None:
    ids = inputs("t5")["decoder_input_ids"]
    run = fv.inspect(build("t5"), prompt("t5"), decoder_input_ids=ids)
    assert run.results["mass:r"].stacks == ["encoder", "cross"]
    assert run.results["entropy"].stacks == ["encoder", "decoder", "cross"]


def test_a_model_without_logits_to_keep() -> None:
    run = fv.inspect(build("bert"), prompt("bert"))
    assert run.results["mass:r"].stacks == ["encoder"]


def test_refused() -> None:
    with pytest.raises(fv.FoveateError, match="names layer 9"):
        fv.inspect(build("llama"), prompt("llama"), layers=9)
    with pytest.raises(fv.FoveateError, match=r"takes an fv\.Prompt"):
        fv.inspect(build("llama"), "a text")
