"""The neighbourhood layers as modules: precisions, copies, axes, a causal axis with a bias."""

from __future__ import annotations

import copy

import torch

import neighborhood_oracle as oracle
from foveate.catalog.experiments._peak import peak_mb
from foveate.layers import DiNAT, NeighborhoodAttention, neighborhood_attention
from foveate.layers.neighborhood import _tiles
from foveate.patterns import Neighborhood


def test_in_lower_precision_it_stays_close_and_learns() -> None:
    torch.manual_seed(0)
    layer = NeighborhoodAttention(32, 4, (10, 12), 5, dilation=2)
    x = torch.randn(2, 120, 32)
    want = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = layer(x)
    got.float().sum().backward()
    assert got.dtype == torch.bfloat16 and torch.allclose(got.float(), want, atol=2e-2)
    assert layer.table is not None and layer.table.grad is not None
    assert layer.table.grad.dtype == torch.float32 and bool(layer.table.grad.any())
    half = copy.deepcopy(layer).bfloat16()
    assert torch.allclose(half(x.bfloat16()).float(), want, atol=3e-2)


def test_a_bias_on_a_causal_axis_with_a_stride_and_another_size_of_values() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 2, 42, 8, generator=g)
    v, table = torch.randn(1, 2, 42, 5, generator=g), torch.randn(2, 7, 5, generator=g)
    setting = ((7, 6), (4, 3), (2, 3), (1, 2), (True, False))
    seen = oracle.mask(*setting)
    bias = oracle.relative((7, 6), (4, 3), (1, 2), table)
    got = neighborhood_attention(q, k, v, Neighborhood(*setting), table)
    assert torch.allclose(got.double(), oracle.attend(q, k, v, seen, bias), atol=1e-5)


def test_a_bias_over_many_tiles_on_three_axes() -> None:
    """More tiles than one call takes, of several shapes, batch rows apart."""
    g = torch.Generator().manual_seed(0)
    grid, window = (4, 6, 9), (3, 4, 3)
    q, k, v = torch.randn(3, 3, 2, 216, 4, generator=g)
    table = torch.randn(2, 5, 7, 5, generator=g)
    flat = torch.arange(table[0].numel()).view(1, *table.shape[1:]).double()
    index = oracle.relative(grid, window, (1, 1, 1), flat + 1)[0].long()
    bias = torch.cat([torch.zeros(2, 1), table.flatten(1)], 1)[:, index]
    seen = oracle.mask(grid, window, (1, 1, 1), (1, 1, 1), (False,) * 3)
    got = neighborhood_attention(q, k, v, Neighborhood(grid, window), table)
    assert torch.allclose(got.double(), oracle.attend(q, k, v, seen, bias), atol=1e-5)


def test_without_a_bias_there_is_no_table() -> None:
    layer = NeighborhoodAttention(8, 2, (16,), 3, position_bias=False, bias=False)
    assert layer.table is None
    assert [name for name, _ in layer.named_parameters()] == [
        "qkv.weight", "proj.weight", "proj.bias"
    ]  # fmt: skip
    stage = DiNAT(8, 2, (4, 5), 2, dilations=[(1, 2), 1], position_bias=False)
    assert stage.blocks[0].attention.pattern.dilation == (1, 2)
    assert stage(torch.randn(1, 4, 5, 8)).shape == (1, 4, 5, 8)


def test_the_matrix_of_the_bias_is_never_there() -> None:
    """Tiles share their bias: what is held, forward and backward, is a part of tokens x tokens."""
    torch.manual_seed(0)
    layer = NeighborhoodAttention(8, 1, (64, 64), 5)
    x = torch.randn(1, 4096, 8)
    layer(x)  # cuts it
    assert peak_mb(lambda: layer(x).sum().backward()) < 4096**2 * 4 / 1e6 / 2
    assert len(_tiles(layer.pattern)) == 9
