"""MW-MHA: windows of another length for every head, with position biases, in one layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foveate.layers import MultiWindowAttention

Make = Callable[[int, list[int]], Any]
DIM, N = 24, 20


def baseline(dim: int, windows: list[int]) -> Any:
    """Plain multi-head attention."""
    return MultiWindowAttention(dim, [0] * len(windows))


def drawn(layer: Any, windows: list[int]) -> tuple[dict[str, Tensor], list[Tensor | None]]:
    """Weights drawn and put into the layer: projections, and a table of biases a head."""
    g = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(value.shape, generator=g, dtype=torch.float64) * 0.3
        for name, value in layer.state_dict().items()
        if not name.startswith("tables")
    }
    tables: list[Tensor | None] = []
    for w in windows:
        tables.append(torch.randn(2 * w - 1, generator=g, dtype=torch.float64) if w else None)
    with torch.no_grad():
        for name, value in state.items():
            layer.get_parameter(name).copy_(value)
        for w, table in layer.tables.items():
            mine = [t for t in tables if t is not None and len(t) == 2 * int(w) - 1]
            table.copy_(torch.stack(mine))
    return state, tables


def expected(x: Tensor, state: dict[str, Tensor], windows: list[int], tables: list[Any]) -> Tensor:
    """One head and one window after the other."""
    q, k, v = (x @ state["qkv.weight"].T + state["qkv.bias"]).chunk(3, -1)
    size = DIM // len(windows)
    heads = []
    for h, (w, table) in enumerate(zip(windows, tables, strict=True)):
        mine = slice(h * size, (h + 1) * size)
        out = torch.empty_like(q[..., mine])
        for start in range(0, N, w or N):
            part = slice(start, start + (w or N))
            s = q[:, part, mine] @ k[:, part, mine].mT / size**0.5
            if table is not None:
                for i in range(w):
                    for j in range(w):
                        s[:, i, j] += table[i - j + w - 1]
            out[:, part] = s.softmax(-1) @ v[:, part, mine]
        heads.append(out)
    return torch.cat(heads, -1) @ state["proj.weight"].T + state["proj.bias"]


def check(make: Make) -> None:
    """Against one head and window after the other, in float64."""
    x = torch.randn(3, N, DIM, generator=torch.Generator().manual_seed(1)).double()
    for windows in ([2, 5, 10, 0], [4, 4, 20, 20], [5, 0, 5]):
        layer = make(DIM, windows).double()
        state, tables = drawn(layer, windows)
        want = expected(x, state, windows, tables)
        assert torch.allclose(layer(x), want, atol=1e-10), windows


def test_it_is_attention_window_by_window() -> None:
    check(MultiWindowAttention)


def test_all_windows_whole_is_plain_multi_head_attention() -> None:
    layer = MultiWindowAttention(DIM, [0] * 4).double()
    other = torch.nn.MultiheadAttention(DIM, 4, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        other.in_proj_weight.copy_(layer.qkv.weight)
        other.in_proj_bias.copy_(layer.qkv.bias)
        other.out_proj.weight.copy_(layer.proj.weight)
        other.out_proj.bias.copy_(layer.proj.bias)
    x = torch.randn(2, N, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(layer(x), other(x, x, x, need_weights=False)[0], atol=1e-12)
