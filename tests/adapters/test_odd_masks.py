"""Models whose masks are not what their calls go by: each was wrong once, or refused in vain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from benchmarks.tiny.build import build, inputs_of

import foveate as fv
from foveate.check.subject import Subject

ODD = {
    # asks whether there is a mask and hands is_causal on; the description is one where none was
    "MoonshineForConditionalGeneration": "encoder decoder cross",
    # adds the mask to its scores by hand, where there would have been none
    "BigBirdPegasusForConditionalGeneration": "encoder decoder cross",
    # one row of the mask for all queries
    "LightGlueForKeypointMatching": "vision cross",
    "BridgeTowerForMaskedLM": "decoder",
    # a bidirectional mask that is skipped, in modules that are causal without one
    "ColPaliForRetrieval": "encoder",
    # a softmax under another name, and torch's own attention function
    "SEWDModel": "encoder",
    "WavLMModel": "encoder",
    # in decode the mask is made from a linear layer's count
    "MiniMaxForCausalLM": "decoder",
}


@pytest.mark.parametrize("name", ODD)
def test_passthrough_and_a_gain_of_one_are_the_model(name: str) -> None:
    torch.set_num_threads(1)
    model = build(getattr(transformers, name))
    subject = Subject(model, inputs_of(model))
    with fv.attach(model):
        assert subject.equal(subject.run(), subject.base)
    from foveate.check.probes import Gain

    for stack in ODD[name].split():
        with fv.attach(model, Gain(1.0, everywhere=True, stack=stack)) as run:
            got = subject.run()
        assert subject.gap(got, subject.base) < 1e-5
        assert run.coverage.touched


@torch.no_grad()
def test_a_hybrid_decodes_under_a_gain_as_at_once() -> None:
    model: Any = build(transformers.MiniMaxForCausalLM)
    ids = torch.arange(3, 13)[None]
    region = torch.zeros(10, dtype=torch.bool)
    region[2:6] = True
    with fv.attach(model, fv.Emphasize("r", 9.0), regions={"r": region}):
        made = model.generate(
            ids, max_new_tokens=4, do_sample=False, eos_token_id=None, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        got = torch.stack(made.logits, 1)
    with fv.attach(model, fv.Emphasize("r", 9.0), regions={"r": region}):
        want = model(made.sequences[:, :-1]).logits[:, -4:]
    plain = model(made.sequences[:, :-1]).logits[:, -4:]
    assert float((got - want).abs().max() / want.abs().max()) < 1e-5
    assert not torch.allclose(want, plain, rtol=1e-3)


@torch.no_grad()
def test_keys_that_are_not_the_tokens_have_no_regions() -> None:
    """DeepSeek-V4 appends compressed entries to the keys of some layers: a region by position
    would fall on the wrong ones.
    """
    model: Any = build(transformers.DeepseekV4ForCausalLM)
    ids = torch.arange(3, 13)[None].expand(2, -1)
    region = torch.zeros(10, dtype=torch.bool)
    region[1:5] = True
    with fv.attach(model, fv.Emphasize("r", 5.0), regions={"r": region}) as run:
        model.generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert [one.state for one in run.coverage] == ["touched", "passed over"]
    assert "not the tokens alone" in run.coverage[1].why
    assert [call.start for call in run.calls] == [0, 10, 11]
    with fv.attach(model, fv.Measure(fv.entropy())) as run:  # this speaks of no place
        model(ids)
    assert run.results["entropy"].prefill.shape == (2, 2, 4, 10)


@torch.no_grad()
def test_an_encoders_keys_behind_the_decoders_are_refused() -> None:
    model: Any = build(transformers.T5Gemma2ForConditionalGeneration)
    given = {
        "input_ids": torch.arange(3, 14)[None],
        "decoder_input_ids": torch.arange(3, 10)[None],
    }
    region = torch.zeros(7, dtype=torch.bool)
    region[1:4] = True
    with (
        pytest.raises(fv.FoveateError, match=r"acts nowhere: the keys of .* not the tokens alone"),
        fv.attach(model, fv.Emphasize("r", 5.0, stack="decoder"), regions={"r": region}),
    ):
        model(**given)
