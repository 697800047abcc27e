"""HeadHunter: the greedy choice, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from denoisers import stable_diffusion
from foveate.find import head_hunter

ASKED = ["red circle", "blue square", "red square"]
HOW: dict[str, Any] = {
    "num_inference_steps": 1,
    "guidance_scale": 0.0,
    "height": 16,
    "width": 16,
    "output_type": "pt",
}
GUIDE = {"scale": 3.0}
STACK = "unet.up.1.self"  # two layers of two heads


@pytest.fixture(scope="module")
def pipe() -> Any:
    return stable_diffusion()


def drawn(pipe: Any, *methods: Any) -> Tensor:
    noise = [torch.Generator().manual_seed(5 + i) for i in range(len(ASKED))]
    with fv.attach(pipe, *methods):
        return pipe(ASKED, generator=noise, **HOW).images


def near(target: Tensor) -> Any:
    """Minus the distance to pictures that were drawn with certain heads."""

    def objective(texts: Sequence[str], pictures: Sequence[Tensor]) -> list[float]:
        place = [ASKED.index(text) for text in texts]
        return [-float((p - target[i]).norm()) for p, i in zip(pictures, place, strict=True)]

    return objective


def test_it_finds_the_heads_that_the_objective_was_made_with(pipe: Any) -> None:
    hidden = [(1, 0), (0, 1)]
    objective = near(drawn(pipe, fv.PAG(**GUIDE, heads=hidden, stack=STACK)))
    hunt = head_hunter(
        pipe, ASKED, objective, rounds=3, per_round=1, stack=STACK, guide=GUIDE, seed=5, **HOW
    )
    assert set(hunt.heads[:2]) == set(hidden)
    assert set(hunt.best) == set(hidden) and hunt.curve[2] == pytest.approx(0, abs=1e-3)
    assert hunt.curve[0] < hunt.curve[1] < hunt.curve[2] > hunt.curve[3]
    # by hand: each head alone, then beside the first
    base = objective(ASKED, drawn(pipe))
    assert hunt.curve[0] == pytest.approx(sum(base) / 3, rel=1e-4)
    for layer, head in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        alone = objective(ASKED, drawn(pipe, fv.PAG(**GUIDE, heads=[(layer, head)], stack=STACK)))
        assert hunt.rounds[0][layer, head] == pytest.approx(sum(alone) / 3, rel=1e-4)
        assert hunt.scores[layer, head] == pytest.approx(sum(alone) / 3, rel=1e-4)
    assert hunt.heads[0] == hunt.scores.top(1)[0] and hunt.heads[0] not in hunt.rounds[1]
    guide = hunt.method(hunt.best, strength=0.5)
    assert guide.strength == 0.5 and guide.scale == 3.0 and guide.scope.stack == STACK
    assert torch.allclose(
        drawn(pipe, hunt.method(hunt.best)),
        drawn(pipe, fv.PAG(**GUIDE, heads=hidden, stack=STACK)),
        atol=1e-5,
    )


def test_several_a_round_are_the_best_of_that_round_whatever_the_batch(pipe: Any) -> None:
    objective = near(drawn(pipe, fv.PAG(**GUIDE, heads=[(1, 1)], stack=STACK)))
    hunts = [
        head_hunter(
            pipe, ASKED, objective, rounds=1, per_round=2, among=[(0, 0), (1, 1), (1, 0)],
            stack=STACK, guide=GUIDE, seed=5, batch=batch, **HOW,
        )
        for batch in (1, 8)
    ]  # fmt: skip
    assert hunts[0].heads == hunts[1].heads == hunts[0].scores.top(2)
    assert hunts[0].heads[0] == (1, 1) and torch.isnan(hunts[0].scores.values[0, 1])
    assert len(hunts[0].curve) == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompts": []}, "at least one"),
        ({"prompts": "red circle"}, "list of prompts"),
        ({"rounds": 0}, "at least one of each"),
        ({"rounds": 3, "per_round": 2}, "out of 4"),
        ({"among": [(7, 0)]}, "among= names"),
        ({"stack": None}, "does not say which stack"),
        ({"stack": "self"}, "names several"),
        ({"stack": "cross"}, "no query can see itself"),
        ({"objective": lambda texts, pictures: [1.0]}, "one finite number a picture"),
        ({"objective": lambda texts, pictures: [float("nan")] * 3}, "one finite number"),
    ],
)
def test_bad_input(pipe: Any, changes: dict[str, Any], sentence: str) -> None:
    given: dict[str, Any] = {
        "prompts": ASKED,
        "objective": lambda texts, pictures: [0.0] * len(texts),
        "rounds": 1,
        "per_round": 1,
        "stack": STACK,
        **HOW,
        **changes,
    }
    with pytest.raises(fv.FoveateError, match=sentence):
        head_hunter(pipe, given.pop("prompts"), given.pop("objective"), **given)


def test_only_pipelines_draw() -> None:
    with pytest.raises(fv.FoveateError, match="pipeline of diffusers"):
        head_hunter(torch.nn.Linear(2, 2), ASKED, lambda texts, pictures: [])
