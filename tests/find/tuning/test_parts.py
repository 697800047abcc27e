"""Densities, masses, plans and judging: the parts of the tuner, against what they must equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import families
import foveate as fv
import words
from foveate import patterns as p
from foveate.find.tuning import FAMILIES, fitted, judge, retained, share
from foveate.find.tuning.plans import by_mass, choices, protect, shuffled, spent
from foveate.tasks._task import Item

NEAR = p.SlidingWindow(3, sinks=1)


# -- densities -------------------------------------------------------------------------------------
@pytest.mark.parametrize("pattern", [NEAR, p.MultiWindow([2, 5, 9]), p.PowerAttention(4, 2)])
def test_share_is_of_the_causal_triangle(pattern: p.Pattern) -> None:
    seen = (pattern & p.Causal()).mask(40).float()
    assert share(pattern, 40) == pytest.approx(float(seen.mean() * 1600 / 820))
    assert share(p.Causal(), 40) == 1


def test_share_of_many_tokens_counts_some_rows() -> None:
    window = p.SlidingWindow(100, sinks=4)
    exact = (window & p.Causal()).density(2000) * 2000**2 / (2000 * 2001 / 2)
    assert share(window, 2000) == pytest.approx(exact, rel=0.01)


@given(st.sampled_from(sorted(FAMILIES)), st.floats(0.2, 1.0))
@settings(max_examples=15, deadline=None)
def test_fitted_is_the_largest_within(name: str, wanted: float) -> None:
    if share(FAMILIES[name](1), 200) > wanted:
        with pytest.raises(fv.FoveateError, match=r"of the pairs of .* more than the"):
            fitted(FAMILIES[name], wanted, 200)
        return
    found = fitted(FAMILIES[name], wanted, 200)
    assert share(found, 200) <= wanted
    size = next(n for n in range(1, 201) if FAMILIES[name](n) == found)
    if size < 200 and share(FAMILIES[name](size + 1), 200) > share(found, 200):
        assert share(FAMILIES[name](size + 1), 200) > wanted


@pytest.mark.parametrize("wanted", [0, -1, 1.5, True, "much"])
def test_no_density(wanted: Any) -> None:
    with pytest.raises(fv.FoveateError, match="0 < density <= 1"):
        fitted(FAMILIES["window"], wanted, 100)


def test_a_family_that_is_too_dense() -> None:
    with pytest.raises(fv.FoveateError, match=r"of the pairs of .* more than the"):
        fitted(FAMILIES["power"], 0.05, 64)


# -- masses ----------------------------------------------------------------------------------------
def item(n: int, *ids: int, says: int = 9, lead: str | None = None) -> Item:
    info = {} if lead is None else {"lead": lead}
    return Item(str(n), words.text(*ids), words.text(says), info=info)


@pytest.mark.parametrize("phase", ["prefill", None])
def test_retained_is_the_mass_on_what_is_seen(phase: str | None) -> None:
    model, eager = families.build("llama"), families.build("llama", "eager")
    asked = [item(0, *range(5, 24)), item(1, *range(40, 50), says=7)]
    patterns = [NEAR, p.Dilated(4, 3)]
    found = retained(model, words.tokenizer(), asked, patterns, phase=phase)
    wanted: Tensor = torch.zeros(2, 2, 4)
    for one in asked:
        text = one.content if phase else f"{one.content} {one.answer}"
        ids = torch.tensor([words.tokenizer()(text)["input_ids"]])
        maps = torch.stack(eager(ids, output_attentions=True).attentions)[:, 0].detach()
        for n, pattern in enumerate(patterns):
            rows = (maps * pattern.mask(ids.shape[1])).sum(-1)
            mean = rows.mean(-1)
            wanted[n] += mean if phase else (mean + rows[..., -1]) / 2
    assert torch.allclose(found, wanted / 2, atol=1e-5)
    assert (found < 0.999).any()


def test_retained_of_nothing() -> None:
    with pytest.raises(fv.FoveateError, match="one or more patterns"):
        retained(families.build("llama"), words.tokenizer(), [item(0, 5)], [])


# -- plans -----------------------------------------------------------------------------------------
def test_the_heads_that_gain_most_get_more() -> None:
    # patterns at 0.1 and 0.4; head 0 loses most without the larger, head 1 without dense
    masses = torch.tensor([[[0.2, 0.5, 0.9]], [[0.9, 0.55, 0.9]]])
    costs = [0.1, 0.4]
    assert by_mass(masses, costs, 0.1, layers=False).tolist() == [[0, 0, 0]]
    assert by_mass(masses, costs, 0.2, layers=False).tolist() == [[1, 0, 0]]
    assert by_mass(masses, costs, 0.5, layers=False).tolist() == [[1, 2, 0]]
    assert by_mass(masses, costs, 1.0, layers=False).tolist() == [[2, 2, 2]]
    assert by_mass(masses, costs, 0.5, layers=True).tolist() == [[1, 1, 1]]
    with pytest.raises(fv.FoveateError, match="larger budget"):
        by_mass(masses, costs, 0.05, layers=False)
    with pytest.raises(fv.FoveateError, match="2 patterns' masses and 1 costs"):
        by_mass(masses, [0.1], 0.5, layers=False)


@given(st.integers(0, 10_000), st.floats(0.1, 0.95), st.booleans())
@settings(max_examples=60, deadline=None)
def test_never_over_budget_and_near_the_best(seed: int, budget: float, layers: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    masses = torch.rand(3, 2, 2, generator=g).sort(0).values
    costs = [0.05, 0.2, 0.5]
    chosen = by_mass(masses, costs, budget, layers=layers)
    assert spent(chosen, costs) <= budget + 1e-9
    if layers:
        assert (chosen == chosen[:, :1]).all()
        return
    full = torch.cat([masses, torch.ones(1, 2, 2)]).flatten(1)
    price = torch.tensor([*costs, 1.0])
    best = 0.0
    for picks in torch.cartesian_prod(*[torch.arange(4)] * 4):
        if float(price[picks].mean()) <= budget + 1e-9:
            best = max(best, float(full[picks, torch.arange(4)].sum()))
    got = float(full[chosen.flatten(), torch.arange(4)].sum())
    steps = full.diff(dim=0).amax()
    assert got >= best - 2 * float(steps) - 1e-6  # greedy misses a step or so of the best
    assert got >= float(full[0].sum()) - 1e-6


def test_protect_keeps_the_highest_dense() -> None:
    scores = torch.tensor([[0.9, float("nan")], [0.1, 0.5]])
    assert protect(scores, [0.2], 0.6).tolist() == [[1, 0], [0, 1]]
    assert protect(scores, [0.2], 0.2).tolist() == [[0, 0], [0, 0]]
    assert protect(scores, [0.2], 0.99).tolist() == [[1, 0], [1, 1]]


def test_shuffled_keeps_the_patterns_and_moves_them() -> None:
    chosen = torch.arange(12).view(3, 4) % 3
    moved = shuffled(chosen, 1)
    assert moved.shape == (3, 4) and torch.equal(
        moved.flatten().sort()[0], chosen.flatten().sort()[0]
    )
    assert not torch.equal(moved, chosen) and torch.equal(moved, shuffled(chosen, 1))
    assert spent(moved, [0.1, 0.3]) == pytest.approx((0.1 + 0.3 + 1.0) / 3)


def test_choices_name_what_is_sparse() -> None:
    chosen = torch.tensor([[0, 2], [1, 0]])
    assert choices(chosen, ["a", "b"]) == [("a", {0: [0], 1: [1]}), ("b", {1: [0]})]


# -- judging ---------------------------------------------------------------------------------------
def logp_of(model: Any, text: str, said: str) -> tuple[float, bool]:
    tokenizer = words.tokenizer()
    ids = tokenizer(f"{text} {said}")["input_ids"]
    count = len(tokenizer(said)["input_ids"])
    logp = model(torch.tensor([ids])).logits.detach()[0, -count - 1 : -1].log_softmax(-1)
    tail = torch.tensor(ids[-count:])
    return float(logp.gather(1, tail[:, None]).sum()), bool((logp.argmax(1) == tail).all())


def test_judged_as_one_forward_would() -> None:
    model = families.build("llama")
    best = int(model(torch.tensor([[5, 6, 7, 8, 9, 10]])).logits[0, -1].argmax())
    asked = [
        item(0, 5, 6, 7, 8, 9, 10, says=best),
        item(1, *range(30, 45), says=11),
        item(2, *range(30, 45), says=11, lead=words.text(20, 21)),
        Item("3", words.text(5, 6, 7), words.text(8, 9, 10)),
    ]
    found = judge(model, words.tokenizer(), asked)
    texts = [one.content + (f" {one.info['lead']}" if "lead" in one.info else "") for one in asked]
    for one, text, got in zip(asked, texts, found, strict=True):
        logp, right = logp_of(model, str(text), one.answer)
        assert got.logp == pytest.approx(logp, abs=1e-4) and got.right == right
        assert got.seconds > 0
    assert found[0].right


def test_the_answer_is_dense_or_not() -> None:
    model, asked = families.build("llama"), [item(0, *range(5, 40), says=11, lead=words.text(9, 8))]
    (both,) = judge(model, words.tokenizer(), asked, [NEAR], phase=None)
    (prefill,) = judge(model, words.tokenizer(), asked, [NEAR], phase="prefill")
    with fv.attach(model, NEAR):
        logp, _ = logp_of(model, f"{asked[0].content} {words.text(9, 8)}", asked[0].answer)
    assert both.logp == pytest.approx(logp, abs=1e-4)
    assert abs(prefill.logp - both.logp) > 1e-2


def test_nothing_to_judge() -> None:
    with pytest.raises(fv.FoveateError, match="no answer"):
        judge(families.build("llama"), words.tokenizer(), [Item("x", "w5 w6", " ")])
