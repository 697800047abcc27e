"""test-time-registers: a vision transformer with a spare token, written out token by token.

``make`` is a function ``(model, neurons, registers) -> context manager``, inside which the model
runs with those neurons moved to that many registers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foveate as fv
from families import build
from foveate.adapters.sites import sites
from foveate.find.registers import patch_norms, register_neurons

Make = Callable[[Any, dict[int, list[int]], int], Any]
DIM, HEADS, NEURONS, PATCHES, LAYERS = 8, 2, 12, 6, 3


class Embeddings(nn.Module):
    """[CLS], then the patches."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, DIM))

    def forward(self, patches: Tensor) -> Tensor:
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj, self.num_heads = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM), HEADS

    def forward(self, x: Tensor) -> Tensor:
        B, S, _ = x.shape
        q, k, v = self.qkv(x).view(B, S, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(B, S, DIM))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn, self.act = Attention(), nn.GELU()
        self.up, self.down = nn.Linear(DIM, NEURONS), nn.Linear(NEURONS, DIM)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.down(self.act(self.up(x)))


class Plain(nn.Module):
    """A vision transformer that is no library's."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings, self.blocks = Embeddings(), nn.ModuleList(Block() for _ in range(LAYERS))

    def forward(self, patches: Tensor) -> Tensor:
        x = self.embeddings(patches)
        for block in self.blocks:
            x = block(x)
        return x


def plain() -> Plain:
    torch.manual_seed(0)
    return Plain().eval().double()


def written_out(model: Plain, patches: Tensor, neurons: dict[int, list[int]], n: int) -> Tensor:
    """One picture ``[P, DIM]``, by scalars where it matters: ``[1 + P, DIM]``."""
    tokens = [model.embeddings.cls_token[0, 0], *patches, *[torch.zeros(DIM).double()] * n]
    x = torch.stack(tokens)
    S, size = len(x), DIM // HEADS
    for layer, block in enumerate(model.blocks):
        qkv = x @ block.attn.qkv.weight.T + block.attn.qkv.bias
        mixed = torch.zeros(S, DIM).double()
        for h in range(HEADS):
            q, k, v = (qkv[:, i * DIM + h * size : i * DIM + (h + 1) * size] for i in range(3))
            mixed[:, h * size : (h + 1) * size] = ((q @ k.T) / math.sqrt(size)).softmax(-1) @ v
        x = x + mixed @ block.attn.proj.weight.T + block.attn.proj.bias
        up = x @ block.up.weight.T + block.up.bias
        a = up * 0.5 * (1 + torch.erf(up / math.sqrt(2)))
        for neuron in neurons.get(layer, []):
            extreme = max((float(a[t, neuron]) for t in range(S)), key=abs)
            for t in range(1, S):
                a[t, neuron] = extreme if t >= S - n else 0.0
        x = x + a @ block.down.weight.T + block.down.bias
    return x[: S - n]


def check(make: Make) -> None:
    model = plain()
    pictures = torch.randn(3, PATCHES, DIM, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        for neurons, n in (({0: [1, 5], 2: [0]}, 1), ({1: [2, 3, 4]}, 2)):
            with make(model, neurons, n):
                found = model(pictures)
            expected = torch.stack([written_out(model, one, neurons, n) for one in pictures])
            assert found.shape == expected.shape, (found.shape, expected.shape)
            assert torch.allclose(found, expected), f"off by {(found - expected).abs().max()}"


def registers(model: Any, neurons: dict[int, list[int]], n: int) -> Any:
    return fv.attach(model, fv.TestTimeRegisters(neurons, registers=n, stack=_stack(model)))


def baseline(model: Any, neurons: dict[int, list[int]], n: int) -> Any:
    """The model as it is."""
    return nullcontext()


def _stack(model: Any) -> str:
    return sites(model)[0].stack


def test_neurons_move_to_the_register_as_written_out() -> None:
    check(registers)


@pytest.mark.parametrize("name", ["vit", "clip_vision"])
def test_with_no_neuron_and_the_token_hidden_nothing_changes(name: str) -> None:
    model = build(name).double()
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    hidden = torch.zeros(6, dtype=torch.bool)
    hidden[-1] = True
    with torch.no_grad():
        base = model(pixel_values=pixels, output_hidden_states=True)
        with fv.attach(
            model, fv.TestTimeRegisters({}), fv.Hide("register"), regions={"register": hidden}
        ):
            found = model(pixel_values=pixels, output_hidden_states=True)
        with fv.attach(model, fv.TestTimeRegisters({})):  # seen, it draws attention by being there
            seen = model(pixel_values=pixels).last_hidden_state
    for ours, theirs in zip(found.hidden_states, base.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(found.pooler_output, base.pooler_output)
    assert seen.shape == base.last_hidden_state.shape
    assert (seen - base.last_hidden_state).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["vit", "clip_vision"])
def test_extremes_are_kept_and_patches_hold_nothing(name: str) -> None:
    model, neurons = build(name), [3, 7, 11]
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    down = [m for m in model.modules() if isinstance(m, nn.Linear) and m.in_features == 48][0]
    before, after = [], []
    with torch.no_grad():
        # without the token in sight of the others, what fires before the move is as it was
        handle = down.register_forward_pre_hook(lambda m, args: before.append(args[0].clone()))
        model(pixel_values=pixels)
        handle.remove()
        hidden = torch.zeros(6, dtype=torch.bool)
        hidden[-1] = True
        with fv.attach(
            model, fv.TestTimeRegisters({0: neurons}), fv.Hide("r"), regions={"r": hidden}
        ):
            handle = down.register_forward_pre_hook(lambda m, args: after.append(args[0].clone()))
            model(pixel_values=pixels)
            handle.remove()
    ((was,), (now,)) = before, after
    assert now.shape[1] == was.shape[1] + 1 and now[:, 1:-1, neurons].eq(0).all()
    extreme = was[..., neurons].abs().amax(1)
    assert (now[:, -1, neurons].abs() >= extreme - 1e-5).all()  # the register itself may fire more
    torch.testing.assert_close(now[:, 0], was[:, 0])  # [CLS] keeps its own
    rest = [n for n in range(48) if n not in neurons]
    torch.testing.assert_close(now[:, :-1, rest], was[..., rest])


def planted(model: Plain, layer: int, neuron: int, patch: Tensor) -> None:
    """Make a neuron fire at one patch alone, and write a long vector there."""
    with torch.no_grad():
        block = model.blocks[layer]
        block.up.weight[neuron] = patch * 4 / patch.square().sum()
        block.up.bias[neuron] = -2.0
        block.down.weight[:, neuron] = 40 * torch.randn(DIM).double() / math.sqrt(DIM)


def test_a_planted_neuron_is_found_and_the_outlier_goes() -> None:
    model = plain()
    marks = torch.randn(4, PATCHES, DIM, generator=torch.Generator().manual_seed(5)).double()
    marks[..., 0] = 0
    mark = 3 * torch.eye(DIM).double()[0]
    marks[torch.arange(4), torch.tensor([0, 2, 4, 5])] = mark
    for block in model.blocks:  # attention adds little, so that the mark is still there
        nn.init.zeros_(block.attn.proj.weight)
    planted(model, 1, 9, mark)
    stack = _stack(model)
    inputs = {"patches": marks}
    norms = patch_norms(model, inputs, stack=stack)
    assert norms.shape == (LAYERS, 4, PATCHES)
    assert (norms[-1].argmax(1) == torch.tensor([0, 2, 4, 5])).all()
    found = register_neurons(model, inputs, stack=stack)
    assert found.ranking[0][:2] == (1, 9) and found.highest == 1
    assert found.top(1) == {1: (9,)} and "(1, 9)" in repr(found)
    torch.testing.assert_close(
        found.outliers, torch.nn.functional.one_hot(torch.tensor([0, 2, 4, 5]), PATCHES).bool()
    )
    with torch.no_grad(), fv.attach(model, fv.TestTimeRegisters(found.top(1), stack=stack)):
        after = model(marks)[:, 1:].norm(dim=-1)
    assert after.max() < 3 * after.median() < norms[-1].max()
    with pytest.raises(fv.FoveateError, match="No patch stands out"):
        register_neurons(plain(), {"patches": marks / 100}, stack=stack)
