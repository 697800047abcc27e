"""Asking: greedy, batched as well as one by one, and steered where it is said."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foveate.errors import FoveateError
from foveate.prompt import Prompt
from foveate.tasks.answering import generate, replies, steer_cases
from foveate.tasks.facts import cases


@pytest.fixture(scope="module")
def tiny(smollm2: tuple[Any, Any]) -> tuple[Any, Any]:
    """A random model that understands the embedded one's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(smollm2[1]), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=2, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), smollm2[1]


def test_generate(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    prompt = Prompt(tokenizer, "One two three")
    assert generate(model, prompt, 5).shape == (1, 5)
    model.generation_config.temperature = 0.7  # a checkpoint's sampling default changes nothing
    model.generation_config.do_sample = True
    assert torch.equal(generate(model, prompt, 5), generate(model, prompt, 5))


def test_a_batch_answers_as_each_alone(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    texts = ["One two three", "A longer line of text than the other one"]
    alone = [replies(model, Prompt(tokenizer, text), 6)[0] for text in texts]
    assert replies(model, Prompt(tokenizer, texts, padding_side="left"), 6) == alone


def test_steer_cases(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    seen: list[int] = []
    made = cases(3)
    outcomes = steer_cases(
        model, tokenizer, made, gain=1e4, batch_size=2, max_new_tokens=4, progress=seen.append
    )
    assert [one.case for one in outcomes] == made and sum(seen) == 9
    same = steer_cases(model, tokenizer, made, gain=1.0, max_new_tokens=4)
    assert all(one.plain == one.evidence == one.decoy for one in same)
    assert [one.plain for one in same] == [one.plain for one in outcomes]
    assert any(one.plain != one.evidence for one in outcomes)


def test_bad_input(tiny: tuple[Any, Any]) -> None:
    with pytest.raises(FoveateError, match="no cases"):
        steer_cases(*tiny, [])
    with pytest.raises(FoveateError, match="batch_size"):
        steer_cases(*tiny, cases(1), batch_size=0)
    with pytest.raises(FoveateError, match="gain"):
        steer_cases(*tiny, cases(1), gain=-1.0)


@pytest.mark.slow
def test_the_embedded_model_reads_what_it_is_turned_to(smollm2: tuple[Any, Any]) -> None:
    """The demo's table: 17, 30 and 26 of 36 when it was written."""
    outcomes = steer_cases(*smollm2, cases(36))
    assert sum(one.case.right(one.plain) for one in outcomes) <= 22
    assert sum(one.case.right(one.evidence) for one in outcomes) >= 27
    assert sum(one.case.follows(one.plain) for one in outcomes) <= 8
    assert sum(one.case.follows(one.decoy) for one in outcomes) >= 22
