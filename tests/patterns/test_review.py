"""Patterns where they meet padding, caches and each other: what an outer look at them found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import foveate as fv
from foveate.engine.backends import cut, gathered
from foveate.errors import FoveateError
from foveate.patterns import (
    Causal,
    CrossShaped,
    Dilated,
    Documents,
    Halo,
    MultiWindow,
    Neighborhood,
    Pattern,
    PrefixLM,
    SlidingWindow,
    Strided,
    Windows,
)
from foveate.patterns._algebra import Moved, OnHeads


def _leaf(r: random.Random) -> Pattern:
    grid = r.choice([(4, 6), (5, 3)])
    window = r.randint(1, 3)
    return r.choice(
        [
            lambda: Causal(),
            lambda: SlidingWindow(r.randint(1, 12), r.randint(0, 5), r.random() < 0.6),
            lambda: Dilated(r.randint(1, 5), r.randint(1, 5), r.random() < 0.6),
            lambda: Strided(r.randint(1, 6), r.choice([None, 1, 4]), r.random() < 0.6),
            lambda: Documents([r.randint(1, 9) for _ in range(r.randint(1, 4))]),
            lambda: PrefixLM(r.randint(1, 9)),
            lambda: MultiWindow([r.randint(1, 9) for _ in range(4)]),
            lambda: Neighborhood(grid, window, r.randint(1, window), causal=r.random() < 0.5),
            lambda: Halo((4, 6), 2, r.randint(0, 2)),
            lambda: Windows((4, 6), 2, r.randint(0, 1)),
            lambda: CrossShaped((4, 6), 2, heads=4),
        ]
    )()


def _any(r: random.Random, deep: int = 2) -> Pattern:
    how = r.randrange(6) if deep else 5
    if how == 0:
        return _any(r, deep - 1) & _any(r, deep - 1)
    if how == 1:
        return _any(r, deep - 1) | _any(r, deep - 1)
    if how == 2:
        return ~_any(r, deep - 1)
    if how == 3:
        return OnHeads(_any(r, deep - 1), tuple(r.sample(range(4), 2)), 4)
    return _leaf(r)


def _drawn(count: int) -> Iterator[tuple[random.Random, Pattern]]:
    r = random.Random(7)
    for _ in range(count):
        yield r, _any(r)


def test_outside_the_ranges_nothing_is_seen_wherever_a_row_begins() -> None:
    for r, pattern in _drawn(600):
        rows = torch.tensor([-r.randint(0, 12) for _ in range(3)])
        moved: Any = Moved(pattern, r.choice([rows, rows, r.randint(-7, 5)]))
        queries, keys, offset = r.randint(1, 30), r.randint(1, 30), r.randint(-3, 12)
        start = r.randrange(queries)
        stop = r.randint(start + 1, queries)
        k = torch.arange(keys)
        seen = moved.tile(torch.arange(start, stop) + offset, k)
        seen = seen.expand(*seen.shape[:-2], stop - start, keys).clone()
        by = moved.by if isinstance(moved.by, int) else moved.by[:, None, None, None]
        seen &= k + by >= 0  # what is before the first token is padding
        low, high = moved.key_range(start + offset, stop + offset, keys)
        assert 0 <= low and high <= keys
        assert not seen[..., :low].any() and not seen[..., high:].any(), (pattern, moved.by)
        for low, high in moved.key_ranges(start + offset, stop + offset, keys):
            seen[..., low:high] = False
        assert not seen.any(), (pattern, moved.by)


def test_patterns_that_differ_in_their_heads_are_not_equal() -> None:
    two, four = CrossShaped((16, 16), 2, heads=2), CrossShaped((16, 16), 2, heads=4)
    assert two != four
    for pattern, heads in ((two, 2), (four, 4)):
        found = gathered.cut(pattern, False, 0, 256, 256)
        assert found is not None  # rows and columns, half of the heads each
        assert [len(part.heads or ()) for part in found.parts] == [heads // 2] * 2


def test_a_pattern_that_was_changed_is_cut_anew() -> None:
    class Mine(Pattern):
        def __init__(self, back: int) -> None:
            self.back = back

        def sees(self, q: Any, k: Any, head: Any) -> Any:
            return (q - k >= 0) & (q - k < self.back)

    class More(SlidingWindow):
        """A frozen pattern's subclass with something of its own."""

        def sees(self, q: Any, k: Any, head: Any) -> Any:
            return super().sees(q, k, head) & (q - k < self.back)

    mine, more = Mine(300), More(300)
    q = torch.randn(1, 1, 300, 8)
    for pattern in (mine, mine & Causal(), more):
        for back in (300, 4):
            mine.back = back
            object.__setattr__(more, "back", back)
            got = fv.attention(q, q, q, pattern=pattern, backend="sdpa").out
            want = fv.attention(q, q, q, pattern=pattern, backend="reference").out
            assert torch.allclose(got, want, atol=1e-5)


def test_cuts_of_passing_patterns_are_not_kept() -> None:
    before = cut._cached.cache_info().currsize
    for _ in range(3):
        gathered.cut(Moved(SlidingWindow(8), torch.tensor([0, -3])), True, 0, 256, 256)
    assert cut._cached.cache_info().currsize == before


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_patterns_with_gains_and_measures_are_the_references(
    causal: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    r = random.Random(11)
    for _ in range(8):
        pattern = _any(r)
        queries, keys = r.choice([1, 5, 24, 150]), r.choice([24, 160])
        heads = pattern.heads or 4
        q = torch.randn(2, heads, queries, 16, dtype=dtype)
        k, v = (torch.randn(2, heads // 2, keys, 16, dtype=dtype) for _ in range(2))
        hidden = torch.zeros(2, 1, keys)
        hidden[0, :, : r.randint(0, 5)] = -torch.inf
        region = torch.rand(2, keys) < 0.3
        asked: dict[str, Any] = {
            "pattern": pattern, "causal": causal, "q_offset": r.randint(0, 8),
            "key_bias": hidden, "regions": {"r": region}, "gains": {"r": 3.0},
            "measures": (fv.mass("r"), fv.entropy(), fv.received()),
            "softcap": r.choice([None, 5.0]),
        }  # fmt: skip
        try:
            want = fv.attention(
                q.double(), k.double(), v.double(), **asked | {"key_bias": hidden.double()},
                backend="reference",
            )  # fmt: skip
        except FoveateError:  # hides everything
            continue
        got = fv.attention(q, k, v, **asked)
        near = {"atol": 1e-4} if dtype == torch.float32 else {"atol": 6e-2, "rtol": 3e-2}
        assert torch.allclose(got.out.double(), want.out, **near), asked
        for key, value in want.measures.items():
            assert torch.allclose(got.measures[key].double(), value, **near), (key, asked)
