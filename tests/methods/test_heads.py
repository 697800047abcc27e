"""Ablate, Shift, Capture: against the model with its output projection edited by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from families import build, inputs, logits
from foveate.attach import attach
from foveate.errors import FoveateError
from foveate.methods.emphasis import Emphasize
from foveate.methods.heads import Ablate, Capture, Shift

R = {"r": torch.arange(11) < 4}
FAMILIES = ["llama", "gpt2", "gemma2", "gpt_oss"]


def run(model: Any, *methods: Any, name: str = "llama", regions: Any = None, grad: bool = False):
    with torch.set_grad_enabled(grad), attach(model, *methods, regions=regions) as run:
        return run, model(**inputs(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_to_look_changes_not_a_bit(name: str) -> None:
    model = build(name)
    with torch.no_grad():
        plain = logits(model(**inputs(name)))
    looks = [Capture(part) for part in ("out", "q", "k", "v")]
    _, seen = run(model, *looks, name=name)
    assert torch.equal(logits(seen), plain)
    assert all(len(kept) == 1 for look in looks for kept in look.tensors.values())
    out, q = looks[0][0], looks[1][0]
    assert out.shape[:3] == q.shape[:3] and out.dim() == 4


@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_put_back_where_it_was_changes_nothing(name: str) -> None:
    model = build(name)
    look = Capture()
    _, plain = run(model, look, name=name)
    held = {layer: kept[0] for (_, layer), kept in look.tensors.items()}
    _, again = run(model, Ablate(to=held), name=name)
    assert torch.equal(logits(plain), logits(again))


def test_zero_equals_zeroed_columns_of_the_output_projection() -> None:
    model = build("llama")
    _, ablated = run(model, Ablate(heads={1: [0, 3]}))
    weight = model.model.layers[1].self_attn.o_proj.weight
    kept = weight.detach().clone()
    width = kept.shape[1] // 4
    with torch.no_grad():
        for head in (0, 3):
            weight[:, head * width : (head + 1) * width] = 0
        try:
            by_hand = logits(model(**inputs("llama")))
        finally:
            weight.copy_(kept)
    assert torch.allclose(logits(ablated), by_hand, atol=1e-5)
    assert not torch.allclose(logits(ablated), logits(model(**inputs("llama"))), atol=1e-3)


def test_a_mean_goes_in_and_only_where_meant() -> None:
    model = build("llama")
    before, after = Capture(), Capture()
    mean = torch.randn(4, 8)
    run(model, before, Ablate(heads={0: [2]}, to=mean, queries="r"), after, regions=R)
    rows = torch.arange(11) < 4
    old, new = before[0], after[0]
    assert torch.equal(new[:, [0, 1, 3]], old[:, [0, 1, 3]])
    assert torch.equal(new[:, 2, ~rows], old[:, 2, ~rows])
    assert torch.equal(new[:, 2, rows], mean[2].expand_as(new[:, 2, rows]))


@pytest.mark.parametrize("part", ["q", "k", "v", "out"])
def test_shift_adds_a_vector(part: str) -> None:
    model = build("llama")
    before, after = Capture(part, layers=0), Capture(part, layers=0)
    heads = 4 if part in ("q", "out") else 2
    vector = torch.randn(heads, 8)
    run(model, before, Shift(part, {0: vector}, alpha=2.0, heads={0: [1]}), after)
    moved = torch.zeros(heads, 1, 8)
    moved[1, 0] = 2 * vector[1]
    assert torch.allclose(after[0], before[0] + moved)


def test_alpha_0_changes_not_a_bit() -> None:
    model = build("llama")
    _, plain = run(model)
    _, same = run(model, Shift("q", torch.randn(4, 8), alpha=0.0))
    assert torch.equal(logits(plain), logits(same))


def test_gradients_arrive_at_what_is_kept() -> None:
    model = build("llama")
    look = Capture(grad=True)
    _, result = run(model, look, grad=True)
    logits(result).square().sum().backward()
    gate = look[0].grad
    assert gate is not None and float(gate.abs().max()) > 0
    model.zero_grad()


def test_edits_and_gains_go_together() -> None:
    """Head outputs are edited behind whatever the program computes."""
    model = build("llama")
    look = Capture()
    run(model, Emphasize("r", 3.0), Ablate(heads=[1]), look, regions=R)
    steered = Capture()
    run(model, Emphasize("r", 3.0), steered, regions=R)
    assert torch.equal(look[0][:, 1], torch.zeros_like(look[0][:, 1]))
    assert torch.equal(look[0][:, 0], steered[0][:, 0])


def test_coverage_tells_what_was_edited() -> None:
    model = build("llama")
    found, _ = run(model, Ablate(heads={1: [0]}))
    assert found.coverage.touched == ["model.layers.1.self_attn"]
    found, _ = run(model, Capture())
    assert found.coverage.touched == []


def test_nested_attachments_see_each_other() -> None:
    model = build("llama")
    inner = Capture(layers=0)
    with torch.no_grad(), attach(model, Ablate(heads=[0])), attach(model, inner):
        model(**inputs("llama"))
    assert float(inner[0][:, 0].abs().max()) == 0


class Wrong:
    def __init__(self, value: Any) -> None:
        from foveate.methods._scope import Scope

        self.scope = Scope.of()
        self.value = value

    def rewrite(self, program: Any, site: Any, call: Any) -> Any:
        return program

    def outputs(self, out: Tensor, site: Any, call: Any) -> Any:
        return self.value(out)


@pytest.mark.parametrize(
    "value", [lambda out: None, lambda out: out[:, :1], lambda out: out.double()]
)
def test_outputs_of_another_kind_are_refused(value: Any) -> None:
    with pytest.raises(FoveateError, match="must stay"):
        run(build("llama"), Wrong(value))


def test_bad_input() -> None:
    with pytest.raises(FoveateError, match='"zero"'):
        Ablate(to="mean")
    with pytest.raises(FoveateError, match=r"of heads.* Hide\('object'\)"):
        Ablate("object")
    with pytest.raises(FoveateError, match="part='x'"):
        Capture("x")
    with pytest.raises(FoveateError, match="tensor"):
        Shift("q", 3.0)
    with pytest.raises(FoveateError, match="no queries"):
        Shift("k", torch.ones(2, 8), queries="r")
    with pytest.raises(FoveateError, match="nothing for layer 1"):
        attach(build("llama"), Ablate(to={0: torch.zeros(4, 8)}))
    with pytest.raises(FoveateError, match="broadcastable"):
        run(build("llama"), Ablate(to=torch.zeros(3, 8)))
    with pytest.raises(FoveateError, match=r"Read \.tensors"):
        Capture()[0]
