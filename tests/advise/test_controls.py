"""Collateral damage: measured on what is of no concern to a policy, and told where it is none."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import foveate as fv
from foveate.advise.controls import Controls, controls, plain_texts
from foveate.tasks import IOI, Distractors


@pytest.fixture(scope="module")
def found(smollm2: tuple[Any, Any]) -> Controls:
    """Controls of a tiny random model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(smollm2[1]), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, pad_token_id=2, eos_token_id=2,
        initializer_range=0.3,
    )  # fmt: skip
    tasks = (IOI(n=2), Distractors(n=2, passages=2))
    return Controls(LlamaForCausalLM(config).eval(), smollm2[1], tasks)


def test_the_texts_are_small_and_of_four_kinds():
    texts = plain_texts()
    assert list(texts) == ["narrative", "exposition", "code", "dialogue"]
    assert sum(len(text.encode()) for text in texts.values()) < 10_000
    assert all(len(text) > 1000 for text in texts.values())


def test_nothing_changes_nothing(found):
    said = found.measure(fv.Policy())
    assert said["perplexity"] == said["perplexity_base"] > 1
    assert said["unrelated_right"] == said["unrelated_base"] and said["n"] == 4
    assert said["mended"] == said["broken"] == 0


def test_perplexity_against_the_models_own_loss(found):
    loss = count = 0.0
    for text in plain_texts().values():
        ids = found.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            loss += float(found.model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert found.measure(fv.Policy())["perplexity"] == pytest.approx(
        math.exp(loss / count), rel=1e-4
    )


def test_what_acts_everywhere_changes_plain_text(found):
    said = found.measure(fv.Policy([fv.ZeroTuning(0.2)], name="first"))
    assert said["perplexity"] != said["perplexity_base"] and said["notes"] == []
    window = found.measure(fv.Policy([fv.SlidingWindow(4)], name="window"))
    assert window["perplexity"] != said["perplexity_base"]


def test_regions_that_are_not_there_do_nothing_and_say_so(found):
    said = found.measure(fv.Policy([fv.Emphasize("closest passage", 5.0)], name="close"))
    assert said["perplexity"] == said["perplexity_base"]
    assert said["notes"] == [
        "Plain text has no 'closest passage': what speaks of it does nothing there.",
        "It does nothing to ioi, which have nothing it needs.",
    ]
    mine = found.measure(fv.Policy([fv.Emphasize("my own", 5.0)], name="mine"))
    assert "nothing to the unrelated questions" in mine["notes"][-1]
    assert mine["unrelated_right"] == mine["unrelated_base"]


def test_half_of_a_policy_may_act(found):
    both = [fv.Emphasize("closest passage", 5.0), fv.ZeroTuning(0.2)]
    said = found.measure(fv.Policy(both, name="both"))
    assert said["perplexity"] != said["perplexity_base"] and len(said["notes"]) == 1


def test_rewrites_and_what_asks_by_itself_leave_plain_text(found):
    for policy in (
        fv.Policy([], ["closest passage last"], name="last"),
        fv.Policy([fv.decoding.ChunkedPrefill(16)], name="pieces"),
        fv.Policy([fv.AutoPASTA(None, by="likelihood")], name="auto"),
    ):
        said = found.measure(policy)
        assert said["perplexity"] == said["perplexity_base"] and said["notes"]
    assert "ioi" in said["notes"][-1]  # which AutoPASTA cannot be asked


def test_right_answers_are_counted(found, monkeypatch):
    policy = fv.Policy([fv.ZeroTuning(0.9)], name="oracle")
    monkeypatch.setattr(
        fv.Policy, "generate", lambda self, model, tokenizer, items, n: [i.answer for i in items]
    )
    said = Controls(found.model, found.tokenizer, found.tasks).measure(policy)
    assert said["unrelated_right"] == said["unrelated_base"] == 4


def test_controls_are_made_for_a_model(smollm2):
    assert [len(task.items(smollm2[1])) for task in controls(*smollm2).tasks] == [6, 6, 6]
