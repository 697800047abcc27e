"""Head profiling: every search against steering by hand, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate as fv
from families import build
from foveate.errors import FoveateError
from foveate.find._model import ModelId
from foveate.find.profiling import common_heads, own_words, profile_heads
from foveate.find.scores import HeadScores
from foveate.methods.pasta import PASTA
from foveate.tasks import Item, answer, score_answers
from words import ITEMS, tokenizer

ALL = [(layer, head) for layer in range(2) for head in range(4)]


def profile(**changes: Any) -> HeadScores:
    given = {"region": "context", "max_new_tokens": 3, **changes}
    return profile_heads(build("llama"), tokenizer(), ITEMS, **given)


def by_hand(*methods: Any) -> float:
    model, words = build("llama"), tokenizer()
    said = answer(model, words, ITEMS, max_new_tokens=3)
    targets = [own_words(item, one) for item, one in zip(ITEMS, said, strict=True)]
    return float(score_answers(model, words, ITEMS, methods, answers=targets).mean())


def test_exhaustive_is_every_head_steered_alone() -> None:
    scores, base = profile(search="exhaustive", alpha=0.05), by_hand()
    for layer, head in ALL:
        gain = by_hand(PASTA("context", 0.05, heads={layer: [head]})) - base
        assert scores[layer, head] == pytest.approx(gain, abs=1e-4)
    assert scores.settings["search"] == "exhaustive" and scores.settings["alpha"] == 0.05
    assert scores.kind == "steering" and scores.settings["items"] == 2


def test_coarse_to_fine_keeps_the_best_layers() -> None:
    seen: list[tuple[int, int]] = []
    scores = profile(alpha=0.05, layers=1, progress=lambda done, all: seen.append((done, all)))
    whole = [by_hand(PASTA("context", 0.05, layers=[layer])) for layer in range(2)]
    best = whole.index(max(whole))
    assert scores.values[1 - best].isnan().all()
    assert torch.equal(scores.values[best], profile(search="exhaustive", alpha=0.05).values[best])
    assert seen == [(i, 6) for i in range(1, 7)]  # 2 layers, then 4 heads of one


def test_the_gradient_is_that_of_a_small_gain() -> None:
    scores, step = profile(search="gradient", batch_size=1), 0.05
    for layer, head in ALL:
        up, down = (
            by_hand(fv.Emphasize("context", 2.718281828**e, heads={layer: [head]}))
            for e in (step, -step)
        )
        assert scores[layer, head] == pytest.approx((up - down) / (2 * step), abs=2e-3)
    assert float(scores.values.abs().max()) > 5e-3
    assert all(p.grad is None for p in build("llama").parameters())


def test_accuracy_counts_right_replies() -> None:
    scores = profile(search="exhaustive", metric="accuracy")
    assert set(scores.values.flatten().tolist()) <= {-1.0, -0.5, 0.0, 0.5, 1.0}


def test_the_answer_in_the_models_own_words() -> None:
    item = Item("one", "…", "1877", wrong=("1821", "1902"))
    assert own_words(item, "It was built in 1821.") == "It was built in 1877"
    assert own_words(item, "In 1877, not in 1821.") == "In 1877"
    assert own_words(item, "I do not know 18210.") == "1877"


def test_heads_common_to_all_tasks() -> None:
    who = ModelId("tiny", "LlamaForCausalLM", "0" * 16)
    one = HeadScores("steering", torch.tensor([[9.0, 8.0, 7.0], [0.0, 1.0, 6.0]]), who)
    two = HeadScores("steering", torch.tensor([[5.0, 0.0, 9.0], [8.0, 7.0, 1.0]]), who)
    assert common_heads([one, two], 3) == [(0, 2)]
    assert common_heads([one, two], 4) == [(0, 2), (0, 0)]  # mean ranks 1 and 1.5
    assert common_heads([one], 2) == [(0, 0), (0, 1)]
    other = HeadScores("steering", torch.zeros(2, 2), who)
    for profiles in ([], [one, other]):
        with pytest.raises(FoveateError, match="profiles of one model"):
            common_heads(profiles, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric": "f1"}, "metric='f1'"),
        ({"search": "random"}, "search='random'"),
        ({"search": "gradient", "metric": "accuracy"}, "has no gradient"),
        ({"region": "evidence"}, "mark 'evidence'; 'long' does not"),
        ({"layers": 0}, "layers=0"),
        ({"layers": 1.5}, "layers=1.5"),
        ({"alpha": 0.0}, "alpha"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(FoveateError, match=words):
        profile(**changes)


def test_models_and_items_that_are_none() -> None:
    with pytest.raises(FoveateError, match="none were given"):
        profile_heads(build("llama"), tokenizer(), [])
    with pytest.raises(FoveateError, match="causal language model"):
        profile_heads(build("bert"), tokenizer(), ITEMS, region="context")
