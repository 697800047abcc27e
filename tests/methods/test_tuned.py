"""Patterns head by head on a live model, kept as text."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import families
import foveate as fv
from foveate import patterns as p
from foveate.find.tuning.families import share
from foveate.methods.tuned import Tuned

NEAR, FAR = p.SlidingWindow(3, sinks=1), p.Strided(4, local=2)
CHOICES: Any = [(NEAR, {0: [0, 3], 1: [0, 1, 2, 3]}), (FAR, {0: [1]})]  # head 0.2 sees everything


@pytest.fixture
def llama() -> Any:
    return families.build("llama")


def run(model: Any, *methods: Any, length: int = 17) -> Tensor:
    with torch.no_grad(), fv.attach(model, *methods):
        return model(**families.inputs("llama", length=length)).logits


def test_each_head_looks_through_its_own(llama: Any) -> None:
    tuned = Tuned(CHOICES, llama, (2, 4))
    apart = [
        fv.Select(NEAR, heads={0: [0, 3], 1: [0, 1, 2, 3]}),
        fv.Select(FAR, heads={0: [1]}),
    ]
    plain = run(llama)
    assert torch.allclose(run(llama, tuned), run(llama, *apart), atol=1e-5)
    assert not torch.allclose(run(llama, tuned), plain, atol=1e-2)
    swapped = Tuned([(NEAR, {0: [0, 2], 1: [0, 1, 2, 3]}), (FAR, {0: [1]})], llama, (2, 4))
    assert not torch.allclose(run(llama, tuned), run(llama, swapped), atol=1e-2)


def test_heads_that_no_choice_names_are_dense(llama: Any) -> None:
    assert torch.equal(run(llama, Tuned([], llama, (2, 4))), run(llama))
    last = Tuned([(NEAR, {1: [2]})], llama, (2, 4))
    with fv.attach(llama, last, fv.Measure(fv.distance())) as there:
        llama(**families.inputs("llama", length=17))
    with fv.attach(llama, fv.Measure(fv.distance())) as plain:
        llama(**families.inputs("llama", length=17))
    far, dense = (one.results["distance"].prefill for one in (there, plain))
    assert torch.allclose(far[0], dense[0], atol=1e-4)
    assert torch.allclose(far[1, :, [0, 1, 3]], dense[1, :, [0, 1, 3]], atol=1e-4)
    assert (far[1, :, 2, -1] < dense[1, :, 2, -1]).all()


def test_decoding_is_dense_unless_both_are_asked_for(llama: Any) -> None:
    ids = families.inputs("llama", length=17)["input_ids"]

    def decoded(phase: str | None) -> Tensor:
        tuned = Tuned([(NEAR, {0: range(4), 1: range(4)})], llama, (2, 4), phase=phase)
        with torch.no_grad(), fv.attach(llama, tuned):
            cache = llama(ids[:, :-1]).past_key_values
            return llama(ids[:, -1:], past_key_values=cache).logits

    assert not torch.allclose(decoded("prefill"), decoded(None), atol=1e-2)
    whole = run(llama, NEAR)[:, -1:]
    assert torch.allclose(decoded(None), whole, atol=1e-4)


def test_saved_and_loaded(llama: Any, tmp_path: Path) -> None:
    tuned = Tuned(CHOICES, llama, (2, 4), found={"holds": True, "budget": 0.5})
    path = tuned.save(tmp_path / "tuned.json")
    again = fv.Tuned.load(path)
    assert again.choices == tuned.choices and again.found == tuned.found and again.holds is True
    assert again.scope.phase == "prefill" and again.same(llama)
    assert torch.equal(run(llama, again), run(llama, tuned))
    data = json.loads(path.read_text())
    assert data["choices"][1] == {
        "pattern": {"class": "Strided", "stride": 4, "local": 2, "causal": True},
        "heads": {"0": [1]},
    }
    assert data["model"]["architecture"] == "LlamaForCausalLM"
    assert tuned.pattern_of(0, 1) == FAR and tuned.pattern_of(0, 2) is None
    assert "3 of 8" not in repr(tuned) and "7 of 8 heads" in repr(tuned)


def test_another_model_is_refused_and_left_as_it_was(llama: Any) -> None:
    tuned = Tuned(CHOICES, llama, (2, 4))
    other = families.build("gpt2")
    given = families.inputs("gpt2", length=9)
    before = other(**given).logits
    with pytest.raises(fv.FoveateError, match=r"LlamaForCausalLM of 2 layers of 4 heads; this is"):
        with fv.attach(other, tuned):
            pass
    assert torch.equal(other(**given).logits, before)
    deeper = Tuned([(NEAR, {2: [0]})], llama, (3, 4))
    with pytest.raises(fv.FoveateError, match="of 3 layers"), fv.attach(llama, deeper):
        pass


def test_other_weights_pass_and_are_told(llama: Any) -> None:
    tuned = Tuned(CHOICES, llama, (2, 4))
    with torch.no_grad():
        llama.lm_head.weight.mul_(2)
    assert tuned.check_model(llama) is tuned and not tuned.same(llama)


@pytest.mark.parametrize(
    "choices",
    [
        [(NEAR, {0: [0]}), (FAR, {0: [0]})],
        [(NEAR, {})],
        [(NEAR, {0: [4]})],
        [(NEAR, {2: [0]})],
        [("SlidingWindow", {0: [0]})],
    ],
)
def test_refused_choices(llama: Any, choices: Any) -> None:
    with pytest.raises(fv.FoveateError, match="heads of its own"):
        Tuned(choices, llama, (2, 4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "else"}, "it is no 'foveate tuned patterns"),
        ({"choices": [{"pattern": {"class": "Mystery"}, "heads": {"0": [0]}}]}, "no pattern 'My"),
        ({"layers": None}, "cannot be read"),
        ({"choices": [{"heads": {"0": [0]}}]}, "it has no 'pattern'"),
    ],
)
def test_bad_files(llama: Any, tmp_path: Path, change: Any, words: str) -> None:
    path = Tuned(CHOICES, llama, (2, 4)).save(tmp_path / "tuned.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(fv.FoveateError, match=words):
        Tuned.load(path)


def test_what_is_no_file_of_ours(tmp_path: Path) -> None:
    with pytest.raises(fv.FoveateError, match="no such file"):
        Tuned.load(tmp_path / "none.json")
    for content in (b"window 64", b"\xff\xfe", b""):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(fv.FoveateError, match="is not JSON"):
            Tuned.load(tmp_path / "x.json")


@pytest.mark.parametrize("given", ["tuned.json", Path("tuned.json")])
def test_attached_by_its_file(llama: Any, given: Any) -> None:
    with pytest.raises(fv.FoveateError, match=r'fv\.Tuned\.load\("tuned\.json"\)'):
        fv.attach(llama, given)


def test_attached_as_a_class(llama: Any) -> None:
    with pytest.raises(fv.FoveateError, match=r'class Tuned; .*fv\.Tuned\.load\("…"\)'):
        fv.attach(llama, fv.Tuned)


def test_density_is_the_mean_over_layers_and_heads(llama: Any) -> None:
    tuned = Tuned(CHOICES, llama, (2, 4))
    for tokens in (1, 17, 200):
        near, far = (share(one, tokens) for one in (NEAR, FAR))
        assert tuned.density(tokens) == pytest.approx((6 * near + far + 1) / 8)
    assert tuned.density(17) > tuned.density(200)
    assert Tuned([], llama, (2, 4)).density(50) == 1
    windows = p.MultiWindow([2, 4, 8, 16])
    apart = Tuned([(windows, {0: [0, 1, 2, 3], 1: [1]})], llama, (2, 4))
    each = [share(windows.on(0, head), 30) for head in range(4)]
    assert apart.density(30) == pytest.approx((sum(each) + each[1] + 3) / 8)


@pytest.mark.parametrize("tokens", [0, -1, 2.5, True, "many"])
def test_density_of_no_tokens(llama: Any, tokens: Any) -> None:
    with pytest.raises(fv.FoveateError, match="from 1"):
        Tuned(CHOICES, llama, (2, 4)).density(tokens)


def test_a_longer_prompt_is_told_once(llama: Any) -> None:
    tuned = Tuned(CHOICES, llama, (2, 4), found={"tokens": 10})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(llama, tuned, length=15)
        run(llama, Tuned(CHOICES, llama, (2, 4)), length=40)  # not known at how many
    with pytest.warns(UserWarning, match=r"tuned at 10 tokens .*has 17, .*density\(17\)") as told:
        run(llama, tuned, length=17)
        run(llama, tuned, length=18)
    assert len(told) == 1


def test_printed(llama: Any) -> None:
    said = str(Tuned(CHOICES, llama, (2, 4)))
    assert f"{NEAR!r}: 6 heads in 2 layers" in said and f"{FAR!r}: 1 heads in 1 layers" in said
