"""Layers of windows on images: other people's weights, patterns, any grid, bad input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import foveate as fv
from foveate.layers import (
    CrossShapedWindowAttention,
    HaloAttention,
    WindowAttention,
    flash_window_attention,
)
from foveate.layers import flash_window as kernel
from foveate.layers._image import cut, join
from foveate.layers.window import _mask
from foveate.patterns import Windows
from timm_alone import imported


@pytest.fixture  # no longer than a test: transformers must not meet its stand-in
def timm() -> Iterator[Any]:
    with imported() as found:
        yield found


def normal(module: nn.Module, std: float = 0.3) -> Any:
    """The module with all its parameters drawn anew, none of them 0."""
    torch.manual_seed(0)
    for p in module.parameters():
        nn.init.normal_(p, std=std)
    return module


# -- the kernel


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(1, n) for n in (6, 3, 6, 7, 5, 4))),
    chunk=st.none() | st.integers(1, 8),
    masked=st.booleans(),
    biased=st.booleans(),
    held=st.sampled_from((1, 500, 1 << 20)),
)
def test_the_kernel_is_the_formula(
    sizes: tuple[int, ...], chunk: int | None, masked: bool, biased: bool, held: int
) -> None:
    N, H, L, Lk, D, Dv = sizes
    random = torch.Generator().manual_seed(0)
    q, k, v, bias, back = (
        torch.randn(shape, generator=random, dtype=torch.float64)
        for shape in ((N, H, L, D), (N, H, Lk, D), (N, H, Lk, Dv), (H, L, Lk), (N, H, L, Dv))
    )
    mask = torch.rand(N, 1, Lk, generator=random) < 0.5
    mask[..., 0] = True
    leaves = [x.requires_grad_() for x in ((q, k, v, bias) if biased else (q, k, v))]
    scores = q @ k.mT * 0.7 + (bias if biased else 0)
    scores = scores.masked_fill(~mask[:, None], -torch.inf) if masked else scores
    want = scores.softmax(-1) @ v
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(kernel.ON_CHIP, "cpu", held)  # one window at a time, some, all
        got = flash_window_attention(
            *(q, k, v, bias if biased else None, mask if masked else None), scale=0.7, chunk=chunk
        )
        grads = torch.autograd.grad(got, leaves, back)
    assert torch.allclose(got, want, atol=1e-12)
    for a, b in zip(grads, torch.autograd.grad(want, leaves, back), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


@torch.no_grad()
def test_half_precision_is_no_worse_than_sdpa() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 32, 2, 49, 32).bfloat16()
    bias = torch.randn(2, 49, 49).bfloat16()
    exact = torch.nn.functional.scaled_dot_product_attention(
        *(x.double() for x in (q, k, v)), attn_mask=bias.double()
    )
    sdpa = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    got = flash_window_attention(q, k, v, bias)
    assert got.dtype == torch.bfloat16
    assert (got - exact).abs().mean() <= 1.1 * (sdpa - exact).abs().mean()


def test_autocast_leaves_the_sums_alone() -> None:
    layer = normal(WindowAttention(32, 4, 4, 2, grid=(8, 8)))
    x = torch.randn(2, 64, 32)
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(x)
    got.float().sum().backward()
    with torch.no_grad():
        want = layer(x)
    assert torch.allclose(got.float(), want, atol=0.05 * float(want.abs().max()))
    assert layer.relative_position_bias_table.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"k": torch.zeros(4, 2, 5, 4)}, r"q, k, v are"),
        ({"v": torch.zeros(4, 2, 6, 3)}, r"q, k, v are"),
        ({"q": torch.zeros(4, 2, 0, 3)}, r"none of them empty"),
        ({"q": torch.zeros(4, 2, 5, 3).long()}, r"one float type"),
        ({"bias": torch.zeros(2, 5, 4)}, r"\[H, L, Lk\] = \[2, 5, 5\]"),
        ({"mask": torch.zeros(4, 5, 5)}, r"bool was wanted"),
        ({"mask": torch.ones(3, 5, 5).bool()}, r"a divisor of 4"),
        ({"mask": torch.ones(2, 4, 5).bool()}, r"\[M, 5 or 1, 5\]"),
        ({"mask": torch.zeros(2, 5, 5).bool()}, r"hides every key"),
        ({"chunk": 0}, r"chunk=0"),
        ({"chunk": 2.0}, r"chunk=2.0"),
    ],
)
def test_what_the_kernel_refuses(change: dict[str, Any], sentence: str) -> None:
    x = torch.zeros(4, 2, 5, 3)
    with pytest.raises(fv.FoveateError, match=sentence):
        flash_window_attention(**({"q": x, "k": x, "v": x} | change))


# -- windows


SHAPES = (
    ((14, 21), 7, 3), ((8, 8), 4, 2), ((8, 8), (2, 4), (1, 3)), ((7, 14), 7, 3), ((6, 6), 3, 0)
)  # fmt: skip


@pytest.mark.parametrize(("grid", "window", "shift"), SHAPES)
def test_timms_weights_give_timms_output_and_gradients(
    timm: Any, grid: Any, window: Any, shift: Any
) -> None:
    from timm.models.swin_transformer import SwinTransformerBlock

    block = SwinTransformerBlock(
        16, grid, num_heads=2, window_size=window, shift_size=shift
    )  # fmt: skip
    normal(block)
    layer = WindowAttention(16, 2, window, shift, grid=grid)
    layer.load_state_dict(block.attn.state_dict())
    x = torch.randn(2, *grid, 16)
    want, got = block._attn(x), layer(x.flatten(1, 2)).view_as(x)
    assert torch.allclose(got, want, atol=1e-5)
    back = torch.randn_like(x)
    want.backward(back)
    got.backward(back)
    theirs = dict(block.attn.named_parameters())
    for name, p in layer.named_parameters():
        assert torch.allclose(p.grad, theirs[name].grad, atol=1e-4), name


@pytest.mark.parametrize(("grid", "window", "shift"), [((10, 13), 7, 3), ((9, 8), 4, 2)])
@torch.no_grad()
def test_grids_that_windows_do_not_divide_are_padded_as_in_transformers(
    grid: tuple[int, int], window: int, shift: int
) -> None:
    from transformers import SwinConfig
    from transformers.models.swin.modeling_swin import SwinLayer

    config = SwinConfig(embed_dim=16, window_size=window, num_heads=[2])
    config._attn_implementation = "eager"
    theirs = normal(SwinLayer(config, 16, grid, 2, shift_size=shift)).eval()
    theirs.layernorm_before = nn.Identity()
    for norm in (
        theirs.layernorm_after,
    ):  # the perceptron gives nothing: what is left is attention
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
    for p in theirs.mlp.parameters():
        nn.init.zeros_(p)
    own = theirs.attention.state_dict()
    layer = WindowAttention(16, 2, window, shift)
    (table,) = (value for name, value in own.items() if name.endswith("bias_table"))
    state = {"relative_position_bias_table": table}
    for kind in ("weight", "bias"):
        state[f"qkv.{kind}"] = torch.cat([own[f"{x}_proj.{kind}"] for x in "qkv"])
        state[f"proj.{kind}"] = own[f"o_proj.{kind}"]
    layer.load_state_dict(state)
    x = torch.randn(2, grid[0] * grid[1], 16)
    want = theirs(x, grid)[0] - x
    assert torch.allclose(layer(x, grid), want, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    tiles=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    data=st.data(),
)
def test_windows_are_the_pattern(
    tiles: tuple[int, int], window: tuple[int, int], data: st.DataObject
) -> None:
    # a side of one window is not shifted
    most = [w - 1 if n > 1 else 0 for n, w in zip(tiles, window, strict=True)]
    shift = tuple(data.draw(st.integers(0, m)) for m in most)
    grid = tiles[0] * window[0], tiles[1] * window[1]
    S = grid[0] * grid[1]
    layer = normal(WindowAttention(8, 2, window, shift, grid=grid)).double()
    nn.init.zeros_(layer.relative_position_bias_table)
    x = torch.randn(2, S, 8, dtype=torch.float64)
    q, k, v = layer.qkv(x).view(2, S, 3, 2, 4).permute(2, 0, 3, 1, 4)
    hidden = Windows(grid, window, shift).mask(S)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=hidden)
    assert torch.allclose(layer(x), layer.proj(out.transpose(1, 2).flatten(2)), atol=1e-10)
    image = torch.randn(2, *grid, 3)
    assert torch.equal(join(cut(image, window), grid, window), image)


def test_the_shifts_mask_is_made_once() -> None:
    layer = WindowAttention(8, 2, 4, 2)
    layer(torch.randn(1, 64, 8), grid=(8, 8))
    before = _mask.cache_info().hits
    layer(torch.randn(2, 64, 8), grid=(8, 8))
    assert _mask.cache_info().hits == before + 1


@pytest.mark.parametrize(
    "make", [lambda: WindowAttention(8, 2, 6, 3), lambda: HaloAttention(8, 2, 6, 1)]
)
def test_what_was_made_in_inference_serves_training(make: Any) -> None:
    layer, x = make(), torch.randn(1, 144, 8)
    with torch.inference_mode():
        want = layer(x, grid=(12, 12))
    got = layer(x, grid=(12, 12))
    got.sum().backward()
    assert torch.equal(got, want)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


# -- halos


@pytest.mark.parametrize(
    "options", [{}, {"scale_pos_embed": True}, {"qkv_bias": True}, {"dim_head": 8}]
)
@torch.no_grad()
def test_timms_halo_attention(timm: Any, options: dict[str, Any]) -> None:
    from timm.layers.halo_attn import HaloAttn

    theirs = normal(HaloAttn(32, num_heads=2, block_size=4, halo_size=3, **options), std=0.2)
    layer = HaloAttention.from_timm(theirs, grid=(8, 12))
    x = torch.randn(2, 32, 8, 12)
    assert torch.allclose(layer(x.flatten(2).mT), theirs(x).flatten(2).mT, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{"stride": 2}, {"stride": 2, "avg_down": True}, {"dim_out": 64}]
)
def test_timms_layers_that_mean_something_else_are_refused(
    timm: Any, options: dict[str, Any]
) -> None:
    from timm.layers.halo_attn import HaloAttn

    with pytest.raises(fv.FoveateError, match="from_timm takes a HaloAttn of stride 1"):
        HaloAttention.from_timm(HaloAttn(32, num_heads=2, block_size=4, halo_size=3, **options))


@torch.no_grad()
def test_zeros_beyond_the_image_take_part_only_if_wanted() -> None:
    hidden = normal(HaloAttention(8, 2, 2, 1, grid=(4, 4)))
    zeros = normal(HaloAttention(8, 2, 2, 1, grid=(4, 4), padding="zeros"))
    x = torch.randn(1, 16, 8)
    assert not torch.allclose(hidden(x), zeros(x), atol=1e-3)
    bare = HaloAttention(8, 2, 2, 0, grid=(4, 4))
    also = HaloAttention(8, 2, 2, 0, grid=(4, 4), padding="zeros")
    assert torch.equal(normal(bare)(x), normal(also)(x))  # without a halo there is no beyond


# -- stripes


@pytest.mark.parametrize("stripe", [1, 2, 4])
@torch.no_grad()
def test_the_authors_weights(stripe: int) -> None:
    """A block of theirs: the first half of the heads vertical, the convolution within stripes."""
    dim, heads, side = 16, 4, 4
    branches = 1 if stripe == side else 2
    part = dim // branches
    torch.manual_seed(0)
    state: dict[str, Tensor] = {
        "qkv.weight": torch.randn(3 * dim, dim), "qkv.bias": torch.randn(3 * dim),
        "proj.weight": torch.randn(dim, dim), "proj.bias": torch.randn(dim),
        "norm1.weight": torch.randn(dim),
    }  # fmt: skip
    for i in range(branches):
        state[f"attns.{i}.get_v.weight"] = torch.randn(part, 1, 3, 3)
        state[f"attns.{i}.get_v.bias"] = torch.randn(part)
    x = torch.randn(2, side * side, dim)
    y, z = torch.arange(side * side) // side, torch.arange(side * side) % side
    found = []
    for i in range(branches):
        q, k, v = (x @ state["qkv.weight"].mT + state["qkv.bias"]).view(2, -1, 3, dim).unbind(2)
        q, k, v = (t[..., i * part : (i + 1) * part] for t in (q, k, v))
        along = (z, y)[i] // stripe
        same = along[:, None] == along
        split = [t.unflatten(-1, (heads // branches, -1)).transpose(1, 2) for t in (q, k, v)]
        seen = torch.nn.functional.scaled_dot_product_attention(*split, attn_mask=same)
        near = torch.zeros(2, side * side, part)
        for number in along.unique():  # nothing beyond the stripe
            inside = (v * (along == number)[:, None]).mT.unflatten(-1, (side, side))
            weight, bias = (state[f"attns.{i}.get_v.{n}"] for n in ("weight", "bias"))
            image = nn.functional.conv2d(inside, weight, bias, padding=1, groups=part)
            near += image.flatten(2).mT * (along == number)[:, None]
        found.append(seen.transpose(1, 2).flatten(2) + near)
    want = torch.cat(found, -1) @ state["proj.weight"].mT + state["proj.bias"]
    layer = CrossShapedWindowAttention.from_official(state, heads, stripe, grid=(side, side))
    assert torch.allclose(layer(x), want, atol=1e-3, rtol=1e-4)


def test_official_weights_that_are_incomplete() -> None:
    with pytest.raises(fv.FoveateError, match=r"attns\.0\.get_v\.weight"):
        CrossShapedWindowAttention.from_official({"qkv.weight": torch.zeros(3, 1)}, 2, 1)


# -- bad input


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: WindowAttention(8, 3), "dim=8 does not divide into heads=3"),
        (lambda: WindowAttention(8, 2, 0), r"window=0.*>= 1"),
        (lambda: WindowAttention(8, 2, 4, 4), "smaller than the window"),
        (lambda: WindowAttention(8, 2, (4, 2), (1, 2)), "smaller than the window"),
        (lambda: WindowAttention(8, 2, (4, 2, 1)), r"\(rows, columns\) was wanted"),
        (lambda: WindowAttention(8, 2, 4, -1), r"shift=-1.*>= 0"),
        (lambda: HaloAttention(8, 2, 3, 1, grid=(8, 9)), "block of 3 does not divide.*side of 8"),
        (lambda: HaloAttention(8, 2, 2, -1), r"halo=-1.*>= 0"),
        (lambda: HaloAttention(8, 2, 4, 1, stride=3), "stride of 3 does not divide"),
        (lambda: HaloAttention(8, 2, 4, 1, stride=0), r"stride=0"),
        (lambda: HaloAttention(8, 2, 4, 1, padding="none"), '"hidden" or "zeros"'),  # type: ignore[arg-type]
        (lambda: HaloAttention(0, 2), r"dim=0"),
        (lambda: CrossShapedWindowAttention(9, 3, 1), "heads=3.*even number"),
        (lambda: CrossShapedWindowAttention(8, 2, 3, grid=(6, 8)), "stripe of 3.*side of 8"),
        (lambda: CrossShapedWindowAttention(8, 2, 0), "stripe=0"),
    ],
)
def test_what_the_layers_refuse(make: Any, sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        make()


@pytest.mark.parametrize(
    "layer",
    [WindowAttention(8, 2, 4), HaloAttention(8, 2, 4, 1), CrossShapedWindowAttention(8, 2, 4)],
    ids=lambda layer: type(layer).__name__,
)
def test_tokens_that_do_not_fill_the_grid(layer: Any) -> None:
    x = torch.randn(1, 64, 8)
    assert layer(x, grid=(8, 8)).shape == (1, 64, 8)
    with pytest.raises(fv.FoveateError, match=r"Give grid=\(H, W\)"):
        layer(x)
    with pytest.raises(fv.FoveateError, match="65 tokens were given and a grid of 8 × 8 = 64"):
        layer(torch.randn(1, 65, 8), grid=(8, 8))  # a class token before them
    with pytest.raises(fv.FoveateError, match=r"\[B, S, 8\] was wanted"):
        layer(torch.randn(1, 64, 9), grid=(8, 8))
    with pytest.raises(fv.FoveateError, match="grid="):
        layer(x, grid=(8,))
    if not isinstance(layer, WindowAttention):  # which pads
        with pytest.raises(fv.FoveateError, match="does not divide the grid's side of 10"):
            layer(torch.randn(1, 80, 8), grid=(10, 8))
