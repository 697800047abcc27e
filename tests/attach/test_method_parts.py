"""What a method may bring besides a rewrite: hooks, tensors, emptied rows, private regions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import foveate as fv
from families import build, inputs, logits
from foveate.methods._method import Method

R = {"r": torch.arange(11) < 4}


class Doubles(Method):
    """Doubles the hidden states that enter a layer; counts the outputs of the attention."""

    def __init__(self, **scope: Any) -> None:
        super().__init__(**scope)
        self.seen = 0

    def hooks(self, model: Any, sites: Any) -> Any:
        for site in sites:
            layer = model.get_submodule(site.name.rpartition(".")[0])
            yield layer, "pre", self._double
            yield site.module, "post", self._count

    def _double(self, module: Any, args: Any, kwargs: Any) -> Any:
        return (args[0] * 2, *args[1:]), kwargs

    def _count(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        self.seen += 1


def hooks_of(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@torch.no_grad()
def test_hooks_live_as_long_as_the_attachment() -> None:
    model = build("llama")
    before = hooks_of(model)
    plain = logits(model(**inputs("llama")))
    method = Doubles(layers=1)
    with fv.attach(model, method):
        doubled = logits(model(**inputs("llama")))
        assert hooks_of(model) > before
    by_hand = model.model.layers[1].register_forward_pre_hook(
        lambda m, a, k: ((a[0] * 2, *a[1:]), k), with_kwargs=True
    )
    want = logits(model(**inputs("llama")))
    by_hand.remove()
    assert torch.equal(doubled, want) and not torch.equal(doubled, plain)
    assert method.seen == 1 and hooks_of(model) == before
    assert torch.equal(logits(model(**inputs("llama"))), plain)


def test_hooks_go_when_the_block_raises_and_stay_out_of_copies() -> None:
    model = build("llama")
    before = hooks_of(model)
    with pytest.raises(RuntimeError, match="mine"), fv.attach(model, Doubles()):
        twin = copy.deepcopy(model)
        raise RuntimeError("mine")
    assert hooks_of(model) == before
    with torch.no_grad():
        assert torch.equal(
            logits(twin(**inputs("llama"))), logits(model(**inputs("llama")))
        )  # the copy's hooks do nothing


def test_hooks_of_another_kind_are_refused_and_nothing_stays() -> None:
    class Odd(Method):
        def hooks(self, model: Any, sites: Any) -> Any:
            yield sites[0].module, "post", print
            yield sites[0].module, "during", print

    model = build("llama")
    before = hooks_of(model)
    with pytest.raises(fv.FoveateError, match="during"), fv.attach(model, Odd()):
        pass
    assert hooks_of(model) == before


class Loudest(Method):
    """Doubles the attention on the key that each head attends to most, over all queries."""

    looks = True

    def rewrite(self, program: Any, site: Any, call: Any) -> Any:
        received = call.read(program, fv.received())["received"]
        best = torch.nn.functional.one_hot(received.argmax(-1), call.shapes.Sk).bool()
        return program.with_region("Loudest", best).with_gain("Loudest", 2.0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_a_column_statistic_then_an_edit(name: str) -> None:
    model = build(name)
    rows = fv.Measure(fv.rows(range(11), as_="all"), fv.received(), layers=0)
    with fv.attach(model, rows) as plain:
        model(**inputs(name))
    with fv.attach(model, Loudest(), rows) as edited:
        model(**inputs(name))
    p, q = (run.results["all"].prefill[0] for run in (plain, edited))
    best = plain.results["received"].prefill[0].argmax(-1)
    inside = torch.nn.functional.one_hot(best, p.shape[-1]).bool()[:, :, None]
    want = torch.where(inside, 2 * p, p)
    want = want / want.sum(-1, keepdim=True).clamp(min=1e-30)
    assert torch.allclose(q, want, atol=1e-5)
    assert not torch.allclose(q, p, atol=1e-3)


@torch.no_grad()
def test_reading_the_call_needs_looks() -> None:
    class Blind(Method):
        def rewrite(self, program: Any, site: Any, call: Any) -> Any:
            call.read(program, fv.received())

    model = build("llama")
    with pytest.raises(fv.FoveateError, match="looks = True"), fv.attach(model, Blind()):
        model(**inputs("llama"))


@torch.no_grad()
def test_outer_and_inner_regions_of_one_name_are_two_regions() -> None:
    model = build("llama")
    other = {"r": torch.arange(11) > 6}
    read = (fv.Measure(fv.mass("r"), layers=0),)
    with fv.attach(model, fv.Emphasize("r", 3.0), regions=R):
        with fv.attach(model, Loudest(), *read, regions=other) as nested:
            model(**inputs("llama"))
    both = {"r": R["r"], "s": other["r"]}
    with fv.attach(
        model,
        fv.Emphasize("r", 3.0),
        Loudest(),
        fv.Measure(fv.mass("s"), layers=0),
        regions=both,
    ) as flat:
        model(**inputs("llama"))
    a, b = nested.results["mass:r"].prefill, flat.results["mass:s"].prefill
    assert torch.allclose(a, b, atol=1e-6)


class Blinds(Method):
    """Takes some queries' own scores away; says what it finds at the end, and of the model."""

    def __init__(self, objection: str | None = None) -> None:
        super().__init__()
        self.objection, self.own = objection, None

    def emptied(self, site: Any, call: Any) -> torch.Tensor:
        return (torch.arange(call.shapes.Sq) == 10).expand(1, call.shapes.Hq, -1)

    def rewrite(self, program: Any, site: Any, call: Any) -> Any:
        self.own = call.own
        return program.with_gain("r", 1.5)

    def settled(self, program: Any, site: Any, call: Any) -> None:
        if self.objection is not None:
            raise fv.FoveateError(f"{self.objection}: {len(program.gains)} gains")


@torch.no_grad()
def test_emptied_queries_look_evenly_whatever_turns_them_later() -> None:
    model, later = build("llama"), fv.Shift("q", torch.ones(4, 8))
    measure = fv.Measure(fv.rows([10]))
    with fv.attach(model, Blinds(), later, fv.Hide("r"), measure, regions=R) as run:
        model(**inputs("llama"))
    row = run.results["rows"].prefill[..., 0, :]
    assert torch.allclose(row, torch.tensor([0.0] * 4 + [1 / 7] * 7).expand_as(row), atol=1e-6)


@torch.no_grad()
def test_a_method_is_told_the_models_own_program_and_asked_when_all_have_acted() -> None:
    model, given = build("llama"), inputs("llama")
    plain = logits(model(**given))
    method = Blinds("no")
    with pytest.raises(fv.FoveateError, match="no: 2 gains"):
        with fv.attach(model, fv.Hide("r"), method, fv.Emphasize("r", 2.0), regions=R):
            model(**given)
    assert method.own.key_bias is None  # what Hide hides is not the model's
    assert torch.equal(logits(model(**given)), plain)
