"""MoBA: the own block and the blocks whose mean key a query likes best, up to the query."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from families import build, logits
from foveate.layers import MoBA as Layer
from foveate.patterns import MoBA, SlidingWindow

Make = Callable[[int, int], Any]
SIZES = [  # queries, keys, block, top, key heads
    (50, 50, 8, 3, 2),
    (50, 64, 8, 3, 4),  # a chunk of a prefill
    (3, 50, 8, 3, 1),
    (1, 50, 8, 4, 4),  # a step of decoding
    (37, 37, 5, 2, 4),  # the last block is short
    (20, 20, 64, 3, 2),  # a block larger than the sequence
]


def baseline(block: int, top: int) -> Any:
    """Plain causal attention."""
    return None


def tensors(Sq: int, Sk: int, Hkv: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(Sq + Sk)
    q = torch.randn(2, 4, Sq, 16, generator=g)
    return q, *torch.randn(2, 2, Hkv, Sk, 16, generator=g).unbind(0)


def seen(q: Tensor, k: Tensor, block: int, top: int) -> Tensor:
    """Query by query and head by head, as the authors' naive code chooses: float64."""
    (B, H, Sq, _), Sk = q.shape, k.shape[2]
    q, k = q.double(), k.double().repeat_interleave(H // k.shape[1], 1)
    mask = torch.zeros(B, H, Sq, Sk, dtype=torch.bool)
    for b, h, i in torch.cartesian_prod(*(torch.arange(n) for n in (B, H, Sq))).tolist():
        at = i + Sk - Sq
        own = at // block
        score = {n: float(q[b, h, i] @ k[b, h, n * block :][:block].mean(0)) for n in range(own)}
        for n in [own, *sorted(score, key=lambda n: -score[n])[: top - 1]]:
            mask[b, h, i, n * block : (n + 1) * block] = True
        mask[b, h, i, at + 1 :] = False
    return mask


def attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax over what the mask leaves, float64."""
    k, v = (x.double().repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = (q.double() @ k.mT) * q.shape[-1] ** -0.5
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v


def check(make: Make) -> None:
    """The output, and in the chosen pairs the gradients, of the brute-force choice."""
    for Sq, Sk, block, top, Hkv in SIZES:
        q, k, v = (t.requires_grad_() for t in tensors(Sq, Sk, Hkv))
        want = attended(q, k, v, seen(q.detach(), k.detach(), block, top))
        got = fv.attention(q, k, v, causal=True, pattern=make(block, top)).out
        assert torch.allclose(got.double(), want, atol=1e-5), (Sq, Sk, block, top)
        weight = torch.randn_like(got)
        ours = torch.autograd.grad((got * weight).sum(), (q, k, v))
        theirs = torch.autograd.grad((want * weight).sum(), (q, k, v))
        for mine, other in zip(ours, theirs, strict=True):
            assert torch.allclose(mine, other, atol=1e-5), (Sq, Sk, block, top)


def test_it_is_the_brute_force_choice() -> None:
    check(MoBA)


def test_with_every_block_it_is_full_attention_and_with_one_block_local() -> None:
    q, k, v = tensors(48, 48, 4)
    full = fv.attention(q, k, v, causal=True).out
    for top in (6, 7, 1000):  # more than there are: all
        got = fv.attention(q, k, v, causal=True, pattern=MoBA(8, top)).out
        assert torch.allclose(got, full, atol=1e-6)
    local = fv.patterns.Documents([8] * 6)
    one = fv.attention(q, k, v, causal=True, pattern=MoBA(8, 1)).out
    assert torch.allclose(one, fv.attention(q, k, v, causal=True, pattern=local).out, atol=1e-6)


def test_a_tie_never_shows_more_blocks_than_asked_for() -> None:
    q, k = torch.randn(1, 1, 40, 8), torch.zeros(1, 1, 40, 8)
    found = MoBA(8, 3).route(q, k, causal=True, q_offset=0, scale=1.0).matrix()
    assert found[0, 0, -1].sum() == 24 and found[0, 0, 20].sum() == 8 + 8 + 5


def test_a_call_that_is_not_causal_chooses_among_all_other_blocks() -> None:
    q, k, _ = tensors(38, 38, 4)
    found = MoBA(8, 3).route(q, k, causal=False, q_offset=0, scale=1.0).matrix()
    means = torch.stack([k[:, :, n : n + 8].mean(2) for n in range(0, 38, 8)], 2)
    gate = q @ means.mT
    own = torch.arange(38) // 8
    gate[:, :, torch.arange(38), own] = torch.inf
    best = torch.zeros_like(gate, dtype=torch.bool).scatter(-1, gate.topk(3, -1).indices, True)
    assert torch.equal(found, best[..., own])


@torch.no_grad()
def test_on_a_live_model_decoding_equals_prefill_and_a_batch_its_rows() -> None:
    model = build("llama")
    ids = torch.arange(2 * 40).view(2, 40) * 7 % 59 + 3
    pattern = MoBA(block=4, top=3)
    with fv.attach(model, pattern):
        whole = logits(model(input_ids=ids))
        past, got = None, []
        for start, stop in ((0, 21), *((i, i + 1) for i in range(21, 40))):
            out = model(input_ids=ids[:, start:stop], past_key_values=past, use_cache=True)
            past = out.past_key_values
            got.append(out.logits)
        padded = torch.cat([torch.zeros(1, 11, dtype=torch.long), ids[1:, :29]], 1)
        mask = torch.ones_like(ids)
        mask[1, :11] = 0
        both = logits(model(input_ids=torch.cat([ids[:1], padded]), attention_mask=mask))
        alone = logits(model(input_ids=ids[1:, :29]))
    assert not torch.allclose(whole, logits(model(input_ids=ids)), atol=1e-2)
    assert torch.allclose(torch.cat(got, 1), whole, atol=1e-4)
    assert torch.allclose(both[1, 11:], alone[0], atol=1e-4)
    assert torch.allclose(both[0], whole[0], atol=1e-4)


def test_the_layer_is_the_pattern_between_projections_and_can_turn_dense() -> None:
    torch.manual_seed(0)
    layer, x = Layer(dim=32, heads=4, block=8, top=2, kv_heads=2), torch.randn(2, 30, 32)
    q = layer.q(x).view(2, 30, 4, 8).transpose(1, 2)
    k, v = layer.kv(x).view(2, 30, 2, 2, 8).permute(2, 0, 3, 1, 4)
    want = attended(q, k, v, seen(q.detach(), k.detach(), 8, 2))
    sparse = layer(x)
    assert torch.allclose(sparse, layer.proj(want.transpose(1, 2).flatten(2).float()), atol=1e-5)
    layer.dense = True
    dense = fv.attention(q, k, v, causal=True).out
    assert torch.allclose(layer(x), layer.proj(dense.transpose(1, 2).flatten(2)), atol=1e-5)
    assert not torch.allclose(layer(x), sparse, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MoBA(0, 3), "block=0"),
        (lambda: MoBA(8, 0), "top=0"),
        (lambda: MoBA(8, 1.5), "top=1.5"),  # type: ignore[arg-type]
        (lambda: MoBA(8, 2).mask(16), "route"),
        (lambda: Layer(30, 4, 8, 2), "dim=30"),
        (lambda: Layer(32, 4, 8, 2, kv_heads=3), "kv_heads=3"),
        (lambda: Layer(32, 4, -1, 2), "block=-1"),
    ],
)
def test_bad_input(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(fv.FoveateError, match=words):
        make()


def test_a_chunk_before_a_rows_first_token_sees_nothing() -> None:
    q, k, v = tensors(20, 40, 4)
    real = torch.arange(40) >= torch.tensor([0, 19])[:, None]
    hidden = torch.where(real, 0.0, -torch.inf)[:, None]
    pattern = MoBA(4, 2)
    found = fv.attention(q, k, v, causal=True, q_offset=0, pattern=pattern, key_bias=hidden)
    assert (found.lse[1, :, :19] == -torch.inf).all() and not found.out[1, :, :19].any()
    assert torch.allclose(found.out[1, :, 19], v[1, :, 19])  # itself alone
    chosen = pattern.route(q, k, causal=True, q_offset=-25, scale=1.0)  # all before the first
    assert not chosen.matrix().any()
    alone = fv.attention(q[:1], k[:1, :, :20], v[:1, :, :20], causal=True, pattern=pattern)
    assert torch.allclose(found.out[:1], alone.out, atol=1e-6)


def test_it_combines_with_static_patterns() -> None:
    q, k, v = tensors(40, 40, 4)
    near = SlidingWindow(20)
    got = fv.attention(q, k, v, causal=True, pattern=MoBA(8, 2) | near).out
    want = attended(q, k, v, (seen(q, k, 8, 2) | near.mask(40)) & torch.ones(40, 40).tril().bool())
    assert torch.allclose(got.double(), want, atol=1e-5)
