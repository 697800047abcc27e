"""BiFormer: regions choose regions, their tokens attend densely, a depthwise term beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from foveate.layers import BiLevelRouting
from foveate.patterns import BiLevel, Windows

Make = Callable[..., Any]
KEYS = ("dim", "heads", "grid", "regions", "top")
SIZES = [
    dict(zip(KEYS, values, strict=True))
    for values in ((16, 2, (8, 8), 4, 2), (24, 4, (6, 9), (2, 3), 3), (8, 1, (4, 4), 2, 1))
]


def baseline(dim: int, heads: int, grid: Any, regions: Any, top: int) -> Any:
    """Every region is chosen: dense attention, with the same local term."""
    return BiLevelRouting(dim, heads, grid, regions, top=1000)


def written_out(layer: Any, x: Tensor, heads: int, grid: Any, regions: Any, top: int) -> Tensor:
    """Region by region, in float64, with the layer's weights."""
    (H, W), (B, S, dim) = grid, x.shape
    ry, rx = (regions, regions) if isinstance(regions, int) else regions
    h, w = H // ry, W // rx
    weights = {name: t.detach().double() for name, t in layer.named_parameters()}
    image = x.detach().double().view(B, H, W, dim)
    q, k, v = (image @ weights["qkv.weight"].mT + weights["qkv.bias"]).chunk(3, -1)
    boxes = [
        (slice(y * h, y * h + h), slice(c * w, c * w + w)) for y in range(ry) for c in range(rx)
    ]
    out = torch.zeros_like(v)
    for b in range(B):
        mean_k = torch.stack([k[b][box].mean((0, 1)) for box in boxes])
        for box in boxes:
            best = (mean_k @ q[b][box].mean((0, 1))).topk(min(top, len(boxes))).indices.tolist()
            keys = torch.cat([k[b][boxes[n]].reshape(-1, dim) for n in best])
            values = torch.cat([v[b][boxes[n]].reshape(-1, dim) for n in best])
            for head in torch.arange(dim).chunk(heads):
                score = q[b][box].reshape(-1, dim)[:, head] @ keys[:, head].mT * dim**-0.5
                mixed = (score.softmax(-1) @ values[:, head]).view(h, w, -1)
                out[b, box[0], box[1], head[0] : head[-1] + 1] = mixed
    local = torch.nn.functional.conv2d(
        v.permute(0, 3, 1, 2), weights["local.weight"], weights["local.bias"], padding=2, groups=dim
    )
    out = out + local.permute(0, 2, 3, 1)
    return (out @ weights["proj.weight"].mT + weights["proj.bias"]).view(B, S, dim)


def check(make: Make) -> None:
    """The layer against its formula, region by region."""
    for sizes in SIZES:
        torch.manual_seed(0)
        layer = make(**sizes)
        x = torch.randn(2, sizes["grid"][0] * sizes["grid"][1], sizes["dim"]) * 2
        want = written_out(layer, x, sizes["heads"], sizes["grid"], sizes["regions"], sizes["top"])
        assert torch.allclose(layer(x).double(), want, atol=1e-5), sizes


def test_it_is_the_papers_formula() -> None:
    check(BiLevelRouting)


def test_regions_that_like_themselves_alone_are_windows() -> None:
    """One region a window: queries and keys of a region share a direction of their own."""
    pattern, windows = BiLevel((8, 8), 4, top=1), Windows((8, 8), 2)
    region = torch.zeros(64, dtype=torch.long)
    region[pattern.members.flatten()] = torch.arange(16).repeat_interleave(4)
    q = torch.nn.functional.one_hot(region, 16).float()[None, None] * 4
    q = q + 0.1 * torch.randn(1, 2, 64, 16, generator=torch.Generator().manual_seed(0))
    k, v = q.roll(1, 1), torch.randn(1, 2, 64, 16)
    got = fv.attention(q, k, v, pattern=pattern).out
    assert torch.allclose(got, fv.attention(q, k, v, pattern=windows).out, atol=1e-6)
    assert not torch.allclose(got, fv.attention(q, k, v).out, atol=1e-3)


def test_all_heads_choose_alike_and_the_choice_has_no_gradient() -> None:
    q, k, v = torch.randn(3, 1, 2, 36, 4, generator=torch.Generator().manual_seed(1)).unbind(0)
    pattern = BiLevel((6, 6), 3, top=2)
    found = pattern.route(q, k, causal=False, q_offset=0, scale=1.0)
    mask = found.matrix()
    assert mask.shape == (1, 1, 36, 36) and (mask.sum(-1) == 8).all()
    q.requires_grad_()
    fv.attention(q, k, v, pattern=pattern).out.square().sum().backward()
    mine, q.grad = q.grad, None
    fv.attention(q, k, v, bias=mask).out.square().sum().backward()
    assert torch.allclose(mine, q.grad, atol=1e-6)


def test_without_a_kernel_the_local_term_is_gone() -> None:
    torch.manual_seed(0)
    layer = BiLevelRouting(8, 2, (4, 4), 2, 4, kernel=0)
    x = torch.randn(1, 16, 8)
    q, k, v = layer.qkv(x).view(1, 16, 3, 2, 4).permute(2, 0, 3, 1, 4)
    dense = fv.attention(q, k, v, scale=8**-0.5).out.transpose(1, 2).flatten(2)
    assert torch.allclose(layer(x), layer.proj(dense), atol=1e-6)


def tensors(tokens: int) -> tuple[Tensor, ...]:
    return torch.randn(3, 1, 1, tokens, 4).unbind(0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BiLevel((8, 8), 3, 1), "3 regions do not divide"),
        (lambda: BiLevel((8, 8), 4, 0), "top=0"),
        (lambda: BiLevel((8, 8), (2, 2, 2), 1), "2 axes"),
        (lambda: BiLevel(8, 2, 1), "grid=8"),  # type: ignore[arg-type]
        (lambda: fv.attention(*tensors(60), pattern=BiLevel((8, 8), 4, 1)), "60 queries"),
        (lambda: fv.attention(*tensors(64), causal=True, pattern=BiLevel((8, 8), 4, 1)), "causal"),
        (lambda: BiLevelRouting(16, 2, (8, 8), 4, kernel=4), "kernel=4"),
        (lambda: BiLevelRouting(16, 3, (8, 8), 4), "heads=3"),
        (lambda: BiLevelRouting(16, 2, (4, 4, 4), 2), "a height and a width"),
        (lambda: BiLevelRouting(16, 2, (8, 8), 4)(torch.randn(1, 60, 16)), "60, 16"),
    ],
)
def test_bad_input(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(fv.FoveateError, match=words):
        make()
