"""PowerAttention, shifted groups, a window a head: masks, reach, ranges, live models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import foveate as fv
from families import build, logits
from foveate.engine.backends import gathered
from foveate.patterns import MultiWindow, Pattern, PowerAttention, ShiftedGroups, SlidingWindow
from foveate.patterns._algebra import Moved

EVERY: list[Pattern] = [
    PowerAttention(block=1, window=1, sinks=0),
    PowerAttention(block=1, window=3, sinks=2),
    PowerAttention(block=4, window=2, sinks=1),
    PowerAttention(block=5, window=1, sinks=0),
    PowerAttention(),  # one block longer than the sequence
    ShiftedGroups(8, 4),
    ShiftedGroups(8, 4, shifted=1, sinks=3),
    ShiftedGroups(12, 4, shifted=4),
    ShiftedGroups(7, 4, shifted=0, sinks=1),
    ShiftedGroups(8, 4, sinks=2, causal=False),
    ShiftedGroups(1000, 4),
    MultiWindow.of(48, 4),
    MultiWindow([5, 7, 11, 100]),
]
patterns = st.sampled_from(EVERY)


@given(pattern=patterns, data=st.data())
def test_all_that_is_seen_lies_in_the_key_ranges(pattern: Pattern, data: Any) -> None:
    start = data.draw(st.integers(0, 47))
    stop = data.draw(st.integers(start + 1, 48))
    keys = data.draw(st.integers(1, 48))
    by = data.draw(st.integers(-9, 9))
    for asked in (pattern, Moved(pattern, by)):
        ranges = asked.key_ranges(start, stop, keys)
        assert all(0 <= a <= b <= keys for a, b in ranges)
        assert ranges == sorted(ranges)
        held = torch.zeros(keys, dtype=torch.bool)
        for a, b in ranges:
            held[a:b] = True
        low, high = asked.key_range(start, stop, keys)
        seen = asked.tile(torch.arange(start, stop), torch.arange(keys))
        seen = seen[..., torch.arange(keys) + by >= 0] if asked is not pattern else seen
        held = held[torch.arange(keys) + by >= 0] if asked is not pattern else held
        assert not seen[..., ~held].any()
        assert not ranges or (low <= ranges[0][0] and ranges[-1][1] <= high)


@given(pattern=patterns, data=st.data())
def test_flexattentions_function_says_the_same(pattern: Pattern, data: Any) -> None:
    i, j, h = (data.draw(st.integers(0, n)) for n in (47, 47, 3))
    one = pattern.visible(*(torch.tensor(x) for x in (0, h, i, j)))
    mask = pattern.mask(48)
    assert bool(one) == bool((mask if mask.dim() == 2 else mask[h])[i, j])


@given(pattern=patterns, sizes=st.tuples(st.integers(1, 48), st.integers(1, 48)))
def test_the_density_is_that_of_the_mask(pattern: Pattern, sizes: tuple[int, int]) -> None:
    want = pattern.mask(*sizes).double().mean().item()
    assert pattern.density(*sizes) == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("pattern", EVERY, ids=repr)
def test_attention_under_a_pattern_is_that_of_its_mask(pattern: Pattern, causal: bool) -> None:
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 48, 16, generator=g, requires_grad=True)
    k, v = (torch.randn(2, 2, 48, 16, generator=g, requires_grad=True) for _ in range(2))
    out = fv.attention(q, k, v, pattern=pattern, causal=causal).out
    grads = torch.autograd.grad(out.square().sum(), (q, k, v))
    Q, K, V = (x.detach().double().requires_grad_() for x in (q, k, v))
    seen = pattern.mask(48)
    if causal:
        seen = seen & torch.ones(48, 48, dtype=torch.bool).tril()
    s = Q @ K.repeat_interleave(2, 1).mT / 4
    want = s.masked_fill(~seen, -torch.inf).softmax(-1) @ V.repeat_interleave(2, 1)
    assert torch.allclose(out.double(), want, atol=1e-5)
    for got, exact in zip(grads, torch.autograd.grad(want.square().sum(), (Q, K, V)), strict=True):
        assert torch.allclose(got.double(), exact, atol=1e-4)


# --- PowerAttention


def reached(mask: Tensor, layers: int) -> Tensor:
    """Which inputs an output depends on: the boolean product of the layers' masks."""
    field = torch.eye(len(mask), dtype=torch.float64)
    for _ in range(layers):
        field = ((mask.double() @ field) > 0).double()
    return field > 0


@pytest.mark.parametrize("layers", range(8))
def test_depth_reaches_the_distances_with_so_many_ones(layers: int) -> None:
    n = 100
    field = reached(PowerAttention(block=1, window=1, sinks=0).mask(n), layers)
    ones = torch.tensor([bin(i).count("1") for i in range(n)])
    want = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        want[i, : i + 1] = ones[: i + 1].flip(0) <= layers
    assert torch.equal(field, want)
    if layers == 7:  # ceil(log2 n)
        assert torch.equal(field, torch.ones(n, n, dtype=torch.bool).tril())


@given(
    n=st.integers(1, 300),
    block=st.integers(1, 9),
    window=st.integers(1, 6),
    sinks=st.integers(0, 3),
)
def test_a_row_sees_few_keys(n: int, block: int, window: int, sinks: int) -> None:
    pattern = PowerAttention(block, window, sinks)
    live = pattern.mask(n).sum(-1)
    blocks = (n - 1) // block + 1
    assert int(live.max()) <= (window + sinks + (blocks - 1).bit_length()) * block


def test_a_block_of_queries_is_cut_into_whole_key_blocks() -> None:
    n, pattern = 4096, PowerAttention(block=128, window=2, sinks=1)
    cut = gathered.cut(pattern, True, 0, n, n)
    assert cut is not None
    blocks = pattern.blocks(128, n)
    assert cut.pairs == int((blocks > 0).sum()) * 128 * 128
    assert int((blocks == 1).sum()) == n // 128  # only those on the diagonal are seen in part


def test_at_the_papers_setting_ten_blocks_are_seen() -> None:
    blocks = PowerAttention().blocks(256, 256, 32768)
    seen = blocks[0].nonzero().flatten()
    assert (127 - seen).tolist() == [127, 64, 32, 16, 8, 4, 3, 2, 1, 0]


# --- shifted groups


def test_no_group_wraps_around_and_nothing_sees_ahead() -> None:
    mask = ShiftedGroups(8, 4).mask(24)
    assert not mask.triu(1).any()
    assert torch.equal(mask[0], mask[1]) and torch.equal(mask[2], mask[3])
    starts = torch.arange(24) - mask.sum(-1) + 1
    assert starts[0].unique().tolist() == [0, 8, 16]
    assert starts[3].unique().tolist() == [0, 4, 12, 20]


def test_one_group_unshifted_is_causal_attention() -> None:
    mask = ShiftedGroups(24, 4, shifted=0).mask(24)
    assert torch.equal(mask, torch.ones(4, 24, 24, dtype=torch.bool).tril())
    whole = ShiftedGroups(24, 4, shifted=0, causal=False).mask(24)
    assert bool(whole.all())


# --- a window a head


def test_the_papers_windows() -> None:
    assert MultiWindow.of(250).windows == (2, 5, 10, 25, 50, 125, 250, 250)
    assert MultiWindow.of(500).heads == 12
    assert MultiWindow.of(7).windows == (7, 7)


@given(tokens=st.integers(2, 400), heads=st.integers(1, 20))
def test_windows_divide_ascend_and_end_with_all(tokens: int, heads: int) -> None:
    windows = MultiWindow.of(tokens, heads).windows
    assert len(windows) == heads and windows[-1] == tokens
    assert all(tokens % w == 0 for w in windows) and list(windows) == sorted(windows)
    rule = MultiWindow.of(tokens).windows
    assert MultiWindow.of(tokens, len(rule)).windows == rule


# --- on a live model

IDS = torch.arange(2 * 24).view(2, 24) * 5 % 61 + 3
LIVE: list[Pattern] = [
    SlidingWindow(5, sinks=2),
    PowerAttention(block=2, window=1, sinks=1),
    ShiftedGroups(6, 4, shifted=1, sinks=2),
    ShiftedGroups(8, 4),
    MultiWindow.of(24, 4),
]


@pytest.mark.parametrize("pattern", LIVE, ids=repr)
@torch.no_grad()
def test_prefill_is_its_mask_and_decoding_equals_prefill(pattern: Pattern) -> None:
    model = build("llama")
    seen = pattern.mask(24) & torch.ones(24, 24, dtype=torch.bool).tril()
    mask = seen.reshape(1, -1, 24, 24).expand(2, -1, -1, -1)
    want = logits(model(input_ids=IDS, attention_mask=mask))
    plain = logits(model(input_ids=IDS))
    with fv.attach(model, pattern):
        whole = logits(model(input_ids=IDS))
        past, got = None, []
        for start, stop in ((0, 9), (9, 14), *((i, i + 1) for i in range(14, 24))):
            out = model(input_ids=IDS[:, start:stop], past_key_values=past, use_cache=True)
            past = out.past_key_values
            got.append(out.logits)
    assert torch.allclose(whole, want, atol=1e-5)
    assert not torch.allclose(whole, plain, atol=1e-3)
    assert torch.allclose(torch.cat(got, 1), whole, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: PowerAttention(block=0), r"block=0.*at least 1"),
        (lambda: PowerAttention(window=0), r"window=0.*at least 1"),
        (lambda: PowerAttention(sinks=-1), r"sinks=-1.*at least 0"),
        (lambda: PowerAttention(block=2.5), "whole number"),
        (lambda: ShiftedGroups(0, 4), r"group=0.*at least 1"),
        (lambda: ShiftedGroups(7, 4), "even group, or shifted=0"),
        (lambda: ShiftedGroups(8, 4, shifted=5), "at most all of the 4 heads"),
        (lambda: ShiftedGroups(8, 4, shifted=-1), r"shifted=-1.*at least 0"),
        (lambda: ShiftedGroups(8, 0), r"heads=0.*at least 1"),
        (lambda: ShiftedGroups(8, 4, sinks=-1), r"sinks=-1.*at least 0"),
        (lambda: MultiWindow.of(1), r"tokens=1.*at least 2"),
        (lambda: MultiWindow.of(8, 0), r"heads=0.*at least 1"),
        (lambda: ShiftedGroups(8, 4) & ShiftedGroups(8, 2), "2 and 4 heads"),
    ],
)
def test_bad_input(make: Any, sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        make()


def test_other_heads_than_the_models_are_refused() -> None:
    model = build("llama")
    with pytest.raises(fv.FoveateError, match=r"tells 8 heads apart and .* has 4"):
        with fv.attach(model, ShiftedGroups(8, 8)):
            model(input_ids=IDS)
