"""Grid patterns against their definitions, written out with loops."""

from __future__ import annotations

import itertools

import pytest
import torch

from foveate.patterns import CrossShaped, Halo, Neighborhood, Windows


def axis(side: int, w: int, s: int, d: int, causal: bool) -> list[set[int]]:
    """For each index the indices that it sees; every interleaved grid is by itself."""
    seen: list[set[int]] = [set() for _ in range(side)]
    for phase in range(d):
        members = list(range(phase, side, d))
        n = len(members)
        for place, index in enumerate(members):
            group = [p for p in range(n) if p // s == place // s]
            if causal:
                last = place // s * s + s - 1
                window = [p for p in range(n) if min(last, n - 1) - w < p <= place]
            else:
                middle = min(place // s * s + s // 2, n - 1)
                assert middle in group or middle == n - 1
                first = middle - w // 2
                while first < 0:  # pushed inward
                    first += 1
                while first + w > n:
                    first -= 1
                window = list(range(first, first + w))
            seen[index] = {members[p] for p in window}
    return seen


SIZES = (
    (1, 1, 1), (3, 1, 1), (2, 1, 1), (4, 2, 1), (3, 3, 1), (2, 1, 2), (2, 2, 2), (5, 3, 1)
)  # fmt: skip
CASES = [
    (grid, w, s, d, causal)
    for grid in ((7,), (5, 6))
    for w, s, d in SIZES
    for causal in (False, True)
]  # fmt: skip


@pytest.mark.parametrize(("grid", "w", "s", "d", "causal"), CASES)
def test_neighborhoods_at_every_border(
    grid: tuple[int, ...], w: int, s: int, d: int, causal: bool
) -> None:
    mask = Neighborhood(grid, w, stride=s, dilation=d, causal=causal).mask(torch.Size(grid).numel())
    along = [axis(side, w, s, d, causal) for side in grid]
    for q, i in enumerate(itertools.product(*map(range, grid))):
        for k, j in enumerate(itertools.product(*map(range, grid))):
            want = all(b in near[a] for near, a, b in zip(along, i, j, strict=True))
            assert bool(mask[q, k]) == want, (i, j)


def test_special_cases_of_neighborhoods() -> None:
    every = torch.ones(48, 48, dtype=torch.bool)
    assert torch.equal(Neighborhood((6, 8), (6, 8)).mask(48), every)  # the whole grid
    blocks = Neighborhood((6, 8), 2, stride=2).mask(48)
    assert torch.equal(blocks, Windows((6, 8), 2).mask(48))  # stride = window: blocks
    for w in (1, 2, 3, 5):  # each token sees as many
        assert bool((Neighborhood((6, 8), w).mask(48).sum(-1) == w * w).all())
    causal = Neighborhood((48,), 5, causal=True).mask(48)
    i, j = torch.arange(48)[:, None], torch.arange(48)
    assert torch.equal(causal, (j <= i) & (i - j < 5))
    # dilated: each of the interleaved grids by itself
    dilated = Neighborhood((6, 8), 3, dilation=2).mask(48).view(6, 8, 6, 8)
    small = Neighborhood((3, 4), 3).mask(12).view(3, 4, 3, 4)
    for a, b in itertools.product(range(2), repeat=2):
        assert torch.equal(dilated[a::2, b::2, a::2, b::2], small)
        assert not dilated[a::2, b::2, 1 - a :: 2].any()


def test_halo() -> None:
    mask = Halo((4, 6), 2, 1).mask(24).view(4, 6, 4, 6)
    for y, x, v, u in itertools.product(range(4), range(6), range(4), range(6)):
        top, left = y // 2 * 2, x // 2 * 2
        assert bool(mask[y, x, v, u]) == (top - 1 <= v < top + 3 and left - 1 <= u < left + 3)
    assert torch.equal(Halo((4, 6), 2, 0).mask(24), Windows((4, 6), 2).mask(24))
    assert bool(Halo((4, 6), (4, 6), 0).mask(24).all())


def test_swins_shifted_windows() -> None:
    """The cyclic shift with its mask, as in Swin: roll, cut, number the pieces, roll back."""
    H, W, w, s = 8, 8, 4, 2
    pieces = torch.zeros(H, W, dtype=torch.long)
    count = 0
    for rows in (slice(0, -w), slice(-w, -s), slice(-s, None)):
        for columns in (slice(0, -w), slice(-w, -s), slice(-s, None)):
            pieces[rows, columns] = count
            count += 1
    window = (torch.arange(H)[:, None] // w) * (W // w) + torch.arange(W) // w
    rolled = torch.stack([window, pieces], -1)  # of the rolled image
    back = torch.roll(rolled, (s, s), (0, 1)).flatten(0, 1)
    want = (back[:, None] == back[None]).all(-1)
    assert torch.equal(Windows((H, W), w, shift=s).mask(H * W), want)


def test_cross_shaped() -> None:
    mask = CrossShaped((4, 6), 2, heads=2).mask(24).view(2, 4, 6, 4, 6)
    for y, x, v, u in itertools.product(range(4), range(6), range(4), range(6)):
        assert bool(mask[0, y, x, v, u]) == (y // 2 == v // 2)
        assert bool(mask[1, y, x, v, u]) == (x // 2 == u // 2)
