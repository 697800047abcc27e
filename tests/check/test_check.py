"""The check: what passes on models that are known, and that every test of it can fail."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from families import build, inputs
from foveate.check import Report, check
from foveate.check import gains as gains_room
from foveate.check import sequences as sequences_room
from foveate.check.report import FAILED, NOT_APPLICABLE, PASSED, REFUSED, Outcome
from foveate.check.state import changed, snapshot
from foveate.check.subject import Subject, difference
from foveate.errors import FoveateError
from foveate.methods.emphasis import Emphasize


def states(report: Report) -> dict[tuple[str, str | None], str]:
    return {(one.test, one.stack): one.state for one in report.outcomes}


def outcome(report: Report, test: str) -> Outcome:
    return next(one for one in report.outcomes if one.test == test)


@pytest.mark.parametrize(
    ("name", "stacks", "absent"),
    [
        ("llama", ["decoder"], {}),
        ("bart", ["encoder", "decoder", "cross"], {"padding left": "answers otherwise"}),
        ("gpt_oss", ["decoder"], {"gain on all keys": "learned sink"}),
        ("vit", ["vision"], {"padding left": "no text", "padding right": "no text",
                             "cache": "does not generate"}),
    ],
)  # fmt: skip
def test_known_families_pass(name: str, stacks: list[str], absent: dict[str, str]) -> None:
    report = check(build(name))
    assert report.ok and report.failures == []
    assert [one.stack for one in report.stacks] == stacks
    assert {one.layers for one in report.stacks} == {2}
    assert {one.heads for one in report.stacks} == {4}
    assert {one.reach for one in report.stacks} == {"interface"}
    for one in report.outcomes:
        if one.test in absent:
            assert one.state == NOT_APPLICABLE and absent[one.test] in one.why
        else:
            assert one.state == PASSED and one.why == ""
    whole = {"passthrough", "restore", "padding left", "padding right", "cache"}
    assert {one.test for one in report.outcomes if one.stack is None} == whole
    assert set(gains_room.TESTS) == {one.test for one in report.outcomes} - whole


def test_the_report_shows_itself() -> None:
    report = check(build("llama"))
    assert report.works("decoder") == list(gains_room.TESTS)
    plain = report.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["ok"] and plain["stacks"][0]["works"] == list(gains_room.TESTS)
    for text in (repr(report), report._repr_html_()):
        for words in ("LlamaForCausalLM", "model.layers.0.self_attn", "interface", "10 passed"):
            assert words in text
    bad = replace(report, outcomes=(Outcome("gain", "<b>", FAILED, "off by <1>"),))
    assert "&lt;b&gt;" in bad._repr_html_() and not bad.ok


def test_the_model_is_left_as_it_was() -> None:
    model = build("llama").train()
    model.model.layers[0].eval()
    before = snapshot(model)
    assert check(model).ok
    assert changed(before, snapshot(model)) == set()


def test_given_inputs_are_used_and_half_precision_is_allowed_for() -> None:
    given = inputs("llama", batch=1, length=5)
    report = check(build("llama").to(torch.bfloat16), given)
    assert report.ok
    assert outcome(report, "gain 1").error is not None


# -- every test can fail ---------------------------------------------------------------------------
class Shy(nn.Module):
    """A model that behaves otherwise while somebody hooks it."""

    def __init__(self, model: Any, what: str) -> None:
        super().__init__()
        self.model, self.what, self.config = model, what, model.config
        self.count = 0

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids).logits
        if self._forward_hooks:
            if self.what == "outputs":
                return logits + 1e-7
            if self.what == "state":
                self.seen = object()
        if self.what == "random":
            self.count += 1
            return logits + self.count
        return logits


def test_outputs_that_change_under_attach_are_found() -> None:
    report = check(Shy(build("llama"), "outputs"), {"input_ids": torch.arange(3, 13)[None]})
    assert not report.ok
    assert outcome(report, "passthrough").state == FAILED
    assert "under attach" in outcome(report, "passthrough").why
    assert outcome(report, "restore").state == PASSED


def test_what_is_left_behind_is_found() -> None:
    report = check(Shy(build("llama"), "state"), {"input_ids": torch.arange(3, 13)[None]})
    one = outcome(report, "restore")
    assert one.state == FAILED and ".seen" in one.why and "after the block" in one.why


def test_a_model_that_is_never_the_same_cannot_be_compared() -> None:
    report = check(Shy(build("llama"), "random"), {"input_ids": torch.arange(3, 13)[None]})
    one = outcome(report, "passthrough")
    assert one.state == NOT_APPLICABLE and "differ under one seed" in one.why


def test_a_gain_that_does_not_cancel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Partial(gains_room.Gain):
        def __init__(self, gain: float, *, everywhere: bool, **scope: Any) -> None:
            super().__init__(2.0, everywhere=False, **scope)

    monkeypatch.setattr(gains_room, "Gain", Partial)
    report = check(build("llama"))
    for test in ("gain 1", "gain on all keys", "gain"):
        assert outcome(report, test).state == FAILED
        assert (outcome(report, test).error or 0) > 1e-3


@pytest.mark.parametrize(
    ("test", "field"), [("masses", "whole"), ("maps", "part"), ("maps", "max")]
)
def test_masses_that_are_wrong_are_found(
    test: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Subject.look

    def look(self: Subject, *args: Any, **kwargs: Any) -> Any:
        return {
            name: [replace(one, **{field: getattr(one, field) * 1.001}) for one in calls]
            for name, calls in honest(self, *args, **kwargs).items()
        }

    monkeypatch.setattr(Subject, "look", look)
    report = check(build("llama"))
    assert outcome(report, test).state == FAILED
    assert (outcome(report, test).error or 0) > 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_region_that_slips_under_padding_is_found(
    side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = sequences_room._Texts.__init__

    def slipped(self: Any, *args: Any) -> None:
        honest(self, *args)
        both, alone = self.regions
        self.regions = both.roll(1, dims=1), alone

    monkeypatch.setattr(sequences_room._Texts, "__init__", slipped)
    one = outcome(check(build("llama")), f"padding {side}")
    assert one.state == FAILED and "differs from the single text" in one.why


def test_a_gain_lost_in_decode_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences_room, "Emphasize", partial(Emphasize, phase="prefill"))
    one = outcome(check(build("llama")), "cache")
    assert one.state == FAILED and "from a cache" in one.why


# -- what cannot be checked ------------------------------------------------------------------------
def test_a_model_without_attention_says_so() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4, pad_token_id=0
    )
    report = check(MambaForCausalLM(config))
    assert not report.ok and report.stacks == () and "Nothing in it attends" in report.note
    assert "nothing to test" in repr(report)


def test_a_refusal_is_a_refusal_with_its_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(subject: Subject, stack: str) -> float:
        raise FoveateError("Not here: leave it out.")

    monkeypatch.setitem(gains_room.TESTS, "gain", refuse)
    report = check(build("llama"))
    one = outcome(report, "gain")
    assert (one.state, one.why) == (REFUSED, "Not here: leave it out.")
    assert not report.ok and report.failures == [one]
    assert "refused: Not here" in repr(report)


@pytest.mark.parametrize(
    ("model", "given", "words"),
    [
        ("llama", None, "check takes a model"),
        (nn.Linear(2, 2), [1], "a dict; list was given"),
        (nn.Linear(2, 2), None, "No inputs could be made up for Linear"),
    ],
)
def test_bad_input(model: Any, given: Any, words: str) -> None:
    with pytest.raises(FoveateError, match="(?s)" + words):
        check(model, given)


def test_every_output_but_a_cache_is_compared() -> None:
    model = build("vit")
    found = Subject(model, inputs("vit")).run()
    assert [name for name, _ in found] == ["last_hidden_state", "pooler_output"]
    cached = Subject(build("llama"), inputs("llama")).run()
    assert [name for name, _ in cached] == ["logits"]


# -- the parts -------------------------------------------------------------------------------------
def test_difference() -> None:
    a = torch.tensor([1.0, 2.0, float("nan")])
    assert difference(a, a.clone()) == 0.0
    assert difference(a + torch.tensor([0.0, 0.2, 0.0]), a) == pytest.approx(0.1)
    assert difference(torch.zeros(2), torch.zeros(3)) == float("inf")
    assert difference(torch.tensor([float("nan")]), torch.tensor([1.0])) == float("inf")
    assert difference(torch.tensor([1, 2]), torch.tensor([1, 3])) == 1.0


@pytest.mark.parametrize("what", ["weight", "hook", "config", "child", "function"])
def test_a_snapshot_sees_every_change(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    before = snapshot(model)
    assert changed(before, snapshot(model)) == set()
    if what == "weight":
        with torch.no_grad():
            model.lm_head.weight[3, 3] += 1e-7 * (1 + model.lm_head.weight[3, 3].abs())
    elif what == "hook":
        model.model.layers[0].register_forward_hook(lambda *a: None)
    elif what == "config":
        model.config._attn_implementation_internal = "eager"
    elif what == "child":
        model.model.norm = nn.Identity()
    else:
        monkeypatch.setattr(torch.nn.functional, "softmax", lambda *a, **k: None)
    assert changed(before, snapshot(model))


def test_torchs_fused_encoder_is_left_aside_on_both_sides() -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 2).eval()
    fused = torch.backends.mha.get_fastpath_enabled()
    assert check(model, {"src": torch.randn(2, 5, 16)}).ok
    assert torch.backends.mha.get_fastpath_enabled() == fused


def test_a_model_that_answers_differently_when_asked_twice_shows_nothing() -> None:
    class Counting(torch.nn.TransformerEncoder):
        calls = 0

        def forward(self, src: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            self.calls += 1
            return super().forward(src) + self.calls

    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    report = check(Counting(layer, 1).eval(), {"src": torch.randn(2, 5, 16)})
    assert not report.ok
