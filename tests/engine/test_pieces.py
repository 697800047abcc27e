"""Pieces that content chose, against dense masks in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from foveate.patterns import SlidingWindow
from foveate.patterns.routed import Pieces, Routed, Selection

B, H, Hkv, S, D = 2, 4, 2, 200, 16


class Nearest(Routed):
    """Every query sees its own block, and the ``top`` past blocks of the highest mean score."""

    def __init__(self, size: int = 32, top: int = 2, units: bool = True) -> None:
        self.size, self.top, self.units = size, top, units

    def choose(self, q: Any, k: Any, **call: Any) -> Selection:
        (_, h, sq, _), sk = q.shape, k.shape[2]
        n, size, offset = -(-sk // self.size), self.size, call["q_offset"]
        keys = k.repeat_interleave(h // k.shape[1], 1)
        padded = torch.nn.functional.pad(keys, (0, 0, 0, n * size - sk))
        means = padded.unflatten(2, (n, size)).mean(3)
        scores = q @ means.mT
        own = (torch.arange(sq) + offset) // size
        scores = scores.masked_fill(torch.arange(n) >= own[:, None], -torch.inf)
        best, chosen = scores.topk(min(self.top, n), -1)
        chosen = torch.where(best > -torch.inf, chosen, -1)
        rows = torch.arange(sq).view(1, 1, sq, 1)
        mine = own.view(1, 1, sq, 1)
        if not self.units:
            inside = torch.arange(size)
            chosen, mine = (
                torch.where(x.unsqueeze(-1) < 0, -1, x.unsqueeze(-1) * size + inside).flatten(3)
                for x in (chosen, mine)
            )
            mine = torch.where(mine < sk, mine, -1)
        unit = size if self.units else 1
        pieces = [Pieces(rows, chosen, unit, past=True), Pieces(rows, mine, unit)]
        return Selection(pieces, sq, sk, causal=call["causal"], q_offset=offset)


class ByBlock(Routed):
    """The queries that chose a block are its rows: a query stands in several pieces, or in none."""

    def choose(self, q: Any, k: Any, **call: Any) -> Selection:
        (b, h, sq, _), sk = q.shape, k.shape[2]
        chosen = torch.rand(b, h, 5, sq, generator=torch.Generator().manual_seed(0)) < 0.4
        rows = torch.where(chosen, torch.arange(sq), -1).sort(-1, descending=True).values
        keys = torch.arange(5 * 40).view(1, 1, 5, 40)
        return Selection(
            [Pieces(rows, keys)], sq, sk, causal=call["causal"], q_offset=call["q_offset"]
        )


def tensors(Sq: int = S) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(B, H, Sq, D), torch.randn(B, Hkv, S, D), torch.randn(B, Hkv, S, D)


def oracle(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    q, k, v = q.double(), *(x.double().repeat_interleave(2, 1) for x in (k, v))
    s = (q @ k.mT / 4).masked_fill(~seen, -torch.inf)
    return s.softmax(-1).nan_to_num() @ v, s.logsumexp(-1)


@pytest.mark.parametrize("Sq", [S, 150, 1])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("pattern", [Nearest(), Nearest(units=False), ByBlock()], ids=str)
def test_pieces_are_their_mask(pattern: Any, causal: bool, Sq: int) -> None:
    q, k, v = tensors(Sq)
    call = {"causal": causal, "q_offset": S - Sq, "scale": 0.25}
    chosen = pattern.route(q, k, **call)
    seen = chosen.matrix()
    assert chosen.density() == pytest.approx(float(seen.double().mean()))
    want, want_lse = oracle(q, k, v, seen)
    assert 0.05 < seen.double().mean() < 0.7
    got = fv.attention(q, k, v, pattern=pattern, causal=causal, scale=0.25)
    assert torch.allclose(got.out.double(), want, atol=1e-5)
    assert torch.allclose(got.lse.double(), want_lse, atol=1e-5)
    tiles = fv.attention(q, k, v, pattern=pattern, causal=causal, scale=0.25, backend="reference")
    assert torch.allclose(tiles.out.double(), want, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_flex_looks_the_tiles_up(causal: bool) -> None:
    q, k, v = tensors()
    for pattern in (Nearest(), ByBlock(), Nearest() | SlidingWindow(20)):
        call: Any = {"pattern": pattern, "causal": causal}
        with torch.no_grad():
            got = fv.attention(q, k, v, **call, backend="flex")
        want = fv.attention(q, k, v, **call, backend="reference")
        assert torch.allclose(got.out.double(), want.out.double(), atol=1e-5)


def test_a_routed_pattern_runs_on_flash_kernels_and_says_so() -> None:
    q, k, v = tensors()
    plan = fv.plan(fv.Program(pattern=Nearest(), causal=True), fv.Shapes.of(q, k, v))
    assert "chooses" in plan.explain()
    inner = plan._routed(q, k)
    assert inner.output == "flash" and "chosen by content" in inner.explain()


def test_terms_gains_and_measures_beside_it() -> None:
    q, k, v = tensors()
    key_bias = torch.randn(B, 1, S)
    key_bias[0, :, :30] = -torch.inf
    region = torch.arange(S) % 3 == 0
    options: dict[str, Any] = {
        "pattern": Nearest(), "causal": True, "key_bias": key_bias, "regions": {"r": region},
        "gains": {"r": 2.0}, "sinks": torch.randn(H),
    }  # fmt: skip
    for measures in ([fv.mass("r")], [fv.mass("r"), fv.entropy()]):
        got = fv.attention(q, k, v, **options, measures=measures)
        want = fv.attention(q, k, v, **options, measures=measures, backend="reference")
        assert torch.allclose(got.out, want.out.float(), atol=1e-5)
        for key, value in want.measures.items():
            assert torch.allclose(got.measures[key], value.float(), atol=1e-4)


def test_gradients() -> None:
    for pattern in (Nearest(), ByBlock()):
        found = []
        for backend in ("auto", "reference"):
            q, k, v = (x.requires_grad_() for x in tensors())
            y = fv.attention(q, k, v, pattern=pattern, causal=True, backend=backend)
            (y.out.float().square().sum() + y.lse.float().clamp(min=-50).sum()).backward()
            found.append((q.grad, k.grad, v.grad))
        for a, b in zip(*found, strict=True):
            assert a is not None and b is not None and torch.allclose(a, b, atol=1e-4)


def test_combined_and_on_some_heads() -> None:
    q, k, v = tensors()
    near = SlidingWindow(20)
    for pattern in (Nearest() & near, near | Nearest(), ~Nearest() & near):
        chosen = pattern.route(q, k, causal=True, q_offset=0, scale=0.25)
        seen = chosen.tile(torch.arange(S), torch.arange(S)) & torch.ones(S, S).tril().bool()
        want, _ = oracle(q, k, v, seen)
        got = fv.attention(q, k, v, pattern=pattern, causal=True, scale=0.25)
        assert torch.allclose(got.out.double(), want, atol=1e-5)


def test_what_looks_at_the_content_has_no_mask_of_its_own() -> None:
    with pytest.raises(fv.FoveateError, match="without queries and keys"):
        Nearest().mask(8)


def test_a_selection_is_of_one_size() -> None:
    q, k, _ = tensors()
    chosen = Nearest().route(q, k, causal=True, q_offset=0)
    with pytest.raises(fv.FoveateError, match="no other size"):
        chosen.density(50)


class Given(Routed):
    """The pieces that it was given."""

    def __init__(self, *pieces: Pieces) -> None:
        self.pieces = pieces

    def choose(self, q: Any, k: Any, **call: Any) -> Selection:
        where = {"causal": call["causal"], "q_offset": call["q_offset"]}
        return Selection(self.pieces, q.shape[2], k.shape[2], **where)


def _none(*sizes: int) -> Tensor:
    return torch.empty(1, 1, *sizes, dtype=torch.int64)


def test_pieces_of_nothing_are_left_out() -> None:
    q, k, v = torch.randn(3, 1, 2, 40, 8).unbind(0)
    every = torch.arange(40)[None, None, None]
    nothing = Pieces(_none(0, 4), _none(0, 4)), Pieces(every, _none(1, 0))
    got = fv.attention(q, k, v, pattern=Given(*nothing, Pieces(every, every)))
    assert torch.allclose(got.out, fv.attention(q, k, v).out, atol=1e-6)
    for pieces in (nothing, ()):
        assert not Selection(pieces, 40, 40, causal=False, q_offset=0).matrix().any()
        with pytest.raises(fv.FoveateError, match="nothing visible"):
            fv.attention(q, k, v, pattern=Given(*pieces))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_merged_half_precision_is_nearly_as_exact_as_one_call(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(3)
    q, k, v = torch.randn(3, 1, 4, 256, 32, generator=g).to(dtype).unbind(0)
    every = torch.arange(256)[None, None, None]
    pieces = [Pieces(every, part[None, None, None]) for part in torch.arange(256).split(32)]
    got = fv.attention(q, k, v, pattern=Given(*pieces)).out
    want = (q.double() @ k.double().mT * 32**-0.5).softmax(-1) @ v.double()
    one = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    error, least = ((x.double() - want).norm() for x in (got, one))
    assert error < 1.5 * least


@pytest.mark.parametrize("causal", [True, False])
def test_a_long_calls_tiles_are_looked_up_without_the_matrix(
    causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = torch.Generator().manual_seed(0)
    rows = torch.randint(-1, S, (1, H, 9, 7), generator=g).sort(-1).values
    rows[..., 1:] = rows[..., 1:].masked_fill(rows[..., 1:] == rows[..., :-1], -1)
    units = torch.randint(-1, 10, (B, 1, 9, 3), generator=g)
    for piece in (Pieces(rows, units, unit=16), Pieces(rows, units)):
        chosen = Selection([piece], S, 150, causal=causal, q_offset=-50)
        want = torch.zeros(B, H, S, 150, dtype=torch.bool)
        for b, h, n in torch.cartesian_prod(*map(torch.arange, (B, H, 9))).tolist():
            for unit in units[b, 0, n].tolist():
                tokens = (
                    range(unit * piece.unit, min(150, (unit + 1) * piece.unit)) if unit >= 0 else ()
                )
                for row in rows[0, h, n].tolist():
                    if row >= 0:
                        want[b, h, row, list(tokens)] = True
        if causal:
            want &= torch.arange(150) <= torch.arange(S)[:, None] - 50
        assert torch.equal(chosen.matrix(), want)
        monkeypatch.setattr("foveate.patterns.routed._HELD", 0)
        some, keys = torch.tensor([190, 41, 77, 41, 3]), torch.arange(3, 150, 2)
        assert torch.equal(chosen.tile(some - 50, keys), want[:, :, some][..., keys])
        with pytest.raises(fv.FoveateError, match="does not have"):
            chosen.tile(torch.tensor([-51]), keys)
        monkeypatch.undo()
