"""The small model around attention layers."""

from __future__ import annotations

import torch
from torch import nn

from foveate.layers import TinyModel


def test_a_token_knows_itself_and_two_before_it_unless_a_layer_shows_more() -> None:
    torch.manual_seed(0)
    model = TinyModel(11, 8, [nn.Identity(), nn.Identity()])
    tokens = torch.randint(11, (1, 9))
    base = model(tokens)
    for place in range(9):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % 11
        moved = ((model(changed) - base).abs().amax(-1)[0] > 1e-6).nonzero()[:, 0].tolist()
        assert moved == list(range(place, min(9, place + 3)))


def test_on_a_grid_it_knows_its_neighbours_and_places_make_tokens_differ() -> None:
    torch.manual_seed(0)
    model = TinyModel(5, 8, [nn.Identity()], grid=(4, 5))
    tokens = torch.zeros(1, 20, dtype=torch.long)
    changed = tokens.clone()
    changed[0, 7] = 1  # row 1, column 2
    moved = ((model(changed) - model(tokens)).abs().amax(-1)[0] > 1e-6).nonzero()[:, 0].tolist()
    assert moved == [1, 2, 3, 6, 7, 8, 11, 12, 13]
    placed = TinyModel(5, 8, [nn.Identity()], length=20)
    assert not torch.allclose(placed(tokens)[0, 5], placed(tokens)[0, 9], atol=1e-4)
