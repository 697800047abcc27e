"""The facts the engine stands on, each as a property."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foveate as fv
from foveate.engine.backends import dense
from foveate.engine.backends.flash import flash

F64 = torch.float64


def normal(seed: int, *shape: int, dtype: torch.dtype = F64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def part(q, k, v, keys) -> fv.Partial:
    y = fv.attention(q, k[:, :, keys], v[:, :, keys])
    return fv.Partial(y.out, y.lse)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 1000),
    st.lists(st.integers(0, 2), min_size=9, max_size=9),
    st.permutations(range(3)),
)
def test_disjoint_sets_merge_exactly_in_any_order_and_grouping(seed, owner, order) -> None:
    q, k, v = normal(seed, 1, 2, 20, 4), normal(seed + 1, 1, 2, 9, 4), normal(seed + 2, 1, 2, 9, 4)
    owner = torch.tensor(owner)
    empty = fv.Partial(
        torch.zeros(1, 2, 20, 4, dtype=F64), torch.full((1, 2, 20), -torch.inf, dtype=F64)
    )
    parts = [part(q, k, v, owner == n) if (owner == n).any() else empty for n in range(3)]
    whole = fv.attention(q, k, v)
    a, b, c = (parts[n] for n in order)
    for merged in (
        fv.merge(a, b, c),
        fv.merge(fv.merge(a, b), c),
        fv.merge(a, fv.merge(b, c)),
        fv.merge(empty, a, b, c),
    ):
        torch.testing.assert_close(merged.out, whole.out)
        torch.testing.assert_close(merged.lse, whole.lse)


def test_rows_visible_nowhere_merge_to_the_identity() -> None:
    empty = fv.Partial(torch.zeros(1, 1, 2, 3), torch.full((1, 1, 2), -torch.inf))
    merged = fv.merge(empty, empty)
    assert merged.out.eq(0).all() and merged.lse.eq(-torch.inf).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.booleans())
def test_a_gain_moves_mass_by_the_closed_formula(seed, gain, causal) -> None:
    q, k, v = (normal(seed + n, 1, 2, 33, 4) for n in range(3))
    regions = {"a": normal(seed + 3, 33) > 0}
    options = dict(causal=causal, regions=regions, measures=fv.mass("a"))
    p = fv.attention(q, k, v, **options).measures["mass:a"]
    got = fv.attention(q, k, v, **options, gains={"a": gain}).measures["mass:a"]
    torch.testing.assert_close(got, gain * p / (1 + (gain - 1) * p))


def test_overlapping_gains_multiply() -> None:
    q, k, v = (normal(n, 1, 2, 20, 4) for n in range(3))
    a, b = torch.arange(20) < 12, torch.arange(20) >= 8
    got = fv.attention(q, k, v, regions={"a": a, "b": b}, gains={"a": 3.0, "b": 0.5})
    bias = (3.0 * a + 1.0 * ~a).log() + (0.5 * b + 1.0 * ~b).log()
    torch.testing.assert_close(got.out, fv.attention(q, k, v, key_bias=bias.double()).out)


def test_a_gain_on_a_set_is_a_shift_of_its_partial() -> None:
    q, k, v = (normal(n, 1, 2, 20, 4) for n in range(3))
    inside = torch.arange(20) < 7
    rows = normal(5, 1, 2, 20).exp()
    got = fv.merge(part(q, k, v, inside), part(q, k, v, ~inside), gains=[rows, 1.0])
    want = fv.attention(q, k, v, regions={"a": inside}, gains={"a": rows})
    torch.testing.assert_close(got.out, want.out)
    torch.testing.assert_close(got.lse, want.lse)


def test_a_learned_sink_is_one_more_partial() -> None:
    q, k, v = (normal(n, 1, 2, 20, 4) for n in range(3))
    sinks = normal(7, 2)
    y = fv.attention(q, k, v)
    sink = fv.Partial(torch.zeros_like(y.out), sinks[None, :, None].expand(1, 2, 20))
    got, want = fv.merge(fv.Partial(y.out, y.lse), sink), fv.attention(q, k, v, sinks=sinks)
    torch.testing.assert_close(got.out, want.out)
    torch.testing.assert_close(got.lse, want.lse)


@pytest.mark.parametrize("causal", [True, False])
def test_received_is_a_logsumexp_of_the_transposed_problem(causal: bool) -> None:
    q, k, v = (normal(n, 1, 3, 40, 8, dtype=torch.float32) for n in range(3))
    y = fv.attention(q, k, v, causal=causal, measures=fv.received())
    back = [t.flip(2) for t in (k, q)]  # a causal triangle stays one after both are reversed
    _, lse = flash(
        back[0], back[1], back[1], mask=(-y.lse).flip(2)[:, :, None], causal=causal, scale=8**-0.5
    )
    torch.testing.assert_close(y.measures["received"], lse.exp().flip(2), atol=1e-5, rtol=1e-5)


def test_linear_statistics_ride_along_as_value_columns() -> None:
    q, k, v = (normal(n, 1, 2, 20, 4) for n in range(3))
    inside = torch.arange(20) % 2 == 0
    column = inside.double()[None, None, :, None].expand(1, 2, 20, 1)
    y = fv.attention(q, k, torch.cat([v, column], -1), causal=True)
    mass = fv.attention(
        q, k, v, causal=True, regions={"a": inside}, measures=fv.mass("a")
    ).measures["mass:a"]
    torch.testing.assert_close(y.out[..., -1], mass)


def test_received_sums_to_the_rows_that_see_something() -> None:
    q, k, v = normal(0, 1, 2, 30, 4), normal(1, 1, 2, 20, 4), normal(2, 1, 2, 20, 4)
    got = fv.attention(q, k, v, causal=True, q_offset=-4, measures=fv.received()).measures[
        "received"
    ]
    torch.testing.assert_close(got.sum(-1), torch.full((1, 2), 26.0, dtype=F64))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(-45, 45))
def test_pieces_cover_the_visible_pairs_once(Sq: int, Sk: int, q_offset: int) -> None:
    seen = torch.zeros(Sq, Sk, dtype=torch.int)
    for p in dense.pieces(Sq, Sk, True, q_offset):
        tile = torch.ones(p.q_stop - p.q_start, p.k_stop - p.k_start, dtype=torch.int)
        tile = tile.tril() if p.causal else tile
        assert p.pairs == tile.sum()
        seen[p.q_start : p.q_stop, p.k_start : p.k_stop] += tile
    i, j = torch.arange(Sq)[:, None], torch.arange(Sk)[None]
    assert torch.equal(seen, (j <= i + q_offset).int())


def test_the_whole_equals_any_chunking_of_the_queries() -> None:
    q, k, v = (normal(n, 1, 2, 60, 4) for n in range(3))
    whole = fv.attention(q, k, v, causal=True, measures=fv.distance())
    for a, b in itertools.pairwise([0, 17, 18, 40, 60]):
        y = fv.attention(
            q[:, :, a:b], k[:, :, :b], v[:, :, :b], causal=True, measures=fv.distance()
        )
        torch.testing.assert_close(y.out, whole.out[:, :, a:b])
        torch.testing.assert_close(y.measures["distance"], whole.measures["distance"][:, :, a:b])


def test_cached_keys_beyond_the_last_query_are_not_seen() -> None:
    """A static cache: Sq=9, Sk=12, q_offset=0; what stands in the unfilled part must not matter."""
    for Sq in (9, 19):
        q, k, v = normal(0, 1, 2, Sq, 4), normal(1, 1, 2, Sq + 3, 4), normal(2, 1, 2, Sq + 3, 4)
        k[:, :, Sq:], v[:, :, Sq:] = 1e4, 1e4
        got = fv.attention(q, k, v, causal=True, q_offset=0)
        want = fv.attention(q, k[:, :, :Sq], v[:, :, :Sq], causal=True)
        torch.testing.assert_close(got.out, want.out)
