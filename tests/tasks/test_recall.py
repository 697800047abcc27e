"""Worlds to train on: what they ask has one answer in the sequence, and a small model learns it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import foveate as fv
from foveate.layers import TinyModel
from foveate.tasks import MQAR, CopyTokens, GroupRecall, MatchingShapes, accuracy, fit


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=20, deadline=None)
@given(pairs=st.integers(1, 12), room=st.integers(0, 20), power=st.sampled_from([0.01, 0.5, 1.0]))
def test_every_key_is_asked_once_and_its_value_is_the_answer(
    pairs: int, room: int, power: float
) -> None:
    task = MQAR(length=4 * pairs + 2 * room, pairs=pairs, vocab=40, power=power)
    tokens, targets = task.batch(5, seeded(pairs))
    assert tokens.shape == targets.shape == (5, task.length)
    for row, wanted in zip(tokens.tolist(), targets.tolist(), strict=True):
        known = dict(zip(row[0 : 2 * pairs : 2], row[1 : 2 * pairs : 2], strict=True))
        assert len(known) == pairs and all(0 < key < 20 <= value for key, value in known.items())
        asked = [i for i, target in enumerate(wanted) if target != -100]
        assert sorted(row[i] for i in asked) == sorted(known) and min(asked) >= 2 * pairs
        assert all(wanted[i] == known[row[i]] for i in asked)


def test_a_small_power_makes_gaps_short() -> None:
    def gap(power: float) -> float:
        targets = MQAR(128, 4, 40, power).batch(50, seeded(0))[1]
        return (targets != -100).nonzero()[:, 1].double().mean().item()

    assert gap(0.01) + 10 < gap(1.0)


def test_copies_and_what_is_random_is_new_in_every_batch() -> None:
    task, generator = CopyTokens(length=9, vocab=7), seeded(0)
    tokens, targets = task.batch(4, generator)
    assert torch.equal(targets[:, 9:], tokens[:, :9]) and (targets[:, :9] == -100).all()
    assert torch.equal(tokens[:, 10:], tokens[:, :8]) and (tokens[:, 9] == 0).all()
    assert not torch.equal(task.batch(4, generator)[0], tokens)
    assert torch.equal(task.batch(4, seeded(0))[0], tokens)


def test_a_groups_value_is_said_before_it_is_asked_for() -> None:
    tokens, targets = GroupRecall(length=48, groups=6, values=3).batch(10, seeded(0))
    for row, wanted in zip(tokens.tolist(), targets.tolist(), strict=True):
        said = {token // 4: token % 4 for token in row[:24]}
        assert len(said) == 6 and min(said.values()) > 0 and set(wanted[:24]) == {-100}
        assert all(said[token // 4] == token % 4 for token in row[:24])
        assert sorted(row[24:]) == sorted(4 * group for group in list(range(6)) * 4)
        assert [said[token // 4] for token in row[24:]] == wanted[24:]


def test_every_shape_stands_in_both_halves_in_its_colour_and_in_grey() -> None:
    task = MatchingShapes(side=12, cell=2, shapes=6, kinds=10, colours=3)
    tokens, targets = task.batch(20, seeded(0))
    corners = tokens.view(20, 6, 2, 6, 2)
    assert (corners == corners[:, :, :1, :, :1]).all()  # a cell holds one shape
    for row, wanted in zip(
        corners[:, :, 0, :, 0], targets.view(20, 12, 12)[:, ::2, ::2], strict=True
    ):
        upper, lower = row[:3][row[:3] > 0] - 1, row[3:][row[3:] > 0] - 1
        colour = {int(token) // 4: int(token) % 4 for token in upper}
        assert len(colour) == 6 and min(colour.values()) > 0
        assert sorted(int(token) for token in lower) == sorted(4 * kind for kind in colour)
        assert (wanted[:3] == -100).all() and ((wanted[3:] >= 0) == (row[3:] > 0)).all()
        assert [colour[int(token) // 4] for token in lower] == wanted[3:][row[3:] > 0].tolist()


class Known(nn.Module):
    """Answers a copy by looking ``back`` tokens back: no training needed."""

    def __init__(self, back: int) -> None:
        super().__init__()
        self.back, self.scale = back, nn.Parameter(torch.ones(()))

    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.one_hot(tokens.roll(self.back, 1), 7) * self.scale


def test_accuracy_is_the_share_of_what_was_asked() -> None:
    task = CopyTokens(length=6, vocab=7)
    right = Known(6)
    assert accuracy(right, task, n=5, batch=2) == [1.0] * 5 and right.training
    shares = accuracy(Known(5), task, n=64)
    assert len(shares) == 64 and sum(shares) / 64 < 0.4
    assert not Known(6).eval().training


def test_fit_learns_and_takes_what_is_added_to_the_loss() -> None:
    torch.manual_seed(0)
    model = TinyModel(7, 16, [nn.Identity()], length=12)
    told: list[int] = []
    # what comes two tokens later is what stands there: the short convolution sees it
    done = fit(model, _Near(), steps=60, batch=16, lr=1e-2, progress=lambda n, _: told.append(n))
    assert done.losses[-1] < 0.2 < done.losses[0] and told == list(range(1, 61))
    assert sum(accuracy(model, _Near(), n=20)) / 20 > 0.95
    extra = nn.Parameter(torch.tensor(3.0))
    model.register_parameter("extra", extra)
    fit(model, _Near(), steps=20, more=lambda: extra.square(), lr=0.1)
    assert extra.abs() < 3


class _Near:
    """The token two places before."""

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        tokens = torch.randint(7, (n, 12), generator=generator)
        targets = tokens.roll(2, 1)
        targets[:, :2] = -100
        return tokens, targets


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MQAR(length=31), "even"),
        (lambda: MQAR(length=32, pairs=9), "quarter"),
        (lambda: MQAR(length=64, pairs=16, vocab=32), "half of vocab"),
        (lambda: MQAR(power=0.0), "power=0.0"),
        (lambda: MQAR(pairs=0), "pairs"),
        (lambda: CopyTokens(vocab=2), "at least 3"),
        (lambda: CopyTokens(length=0), "length"),
        (lambda: GroupRecall(length=100, groups=16), "twice the groups"),
        (lambda: MatchingShapes(side=6, cell=2), "twice the cell"),
        (lambda: MatchingShapes(shapes=9, kinds=16), "8 cells of a half"),
        (lambda: MatchingShapes(shapes=5, kinds=4), "kinds=4"),
        (lambda: TinyModel(7, 8, []), "no attention"),
        (lambda: fit(nn.Identity(), CopyTokens(), steps=0), "steps=0"),
        (lambda: fit(nn.Identity(), fv.tasks.Needle, steps=1), "class Needle .*batches of tokens"),
        (lambda: accuracy(nn.Identity(), object()), "object was given.*batches of tokens"),
    ],
)
def test_bad_input(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(fv.FoveateError, match=words):
        make()
