"""Ways to write attention that a reader of code stumbles over: each reached, and rightly."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import foveate as fv
from foveate.adapters.sites import sites, unreachable
from foveate.errors import FoveateError
from tests.adapters.test_modules import (
    GPT,
    IDS,
    REGION,
    Attention,
    D,
    H,
    S,
    Written,
    gpt,
    oracle,
    through,
)

HIDDEN = torch.ones(S, S, dtype=torch.bool).triu(1)

# A package of somebody else's, with a function of the name of torch's that hides where a mask says.
other = types.ModuleType("somebody_elses")
exec(
    """
import torch.nn.functional as F

def attend(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)

def scaled_dot_product_attention(q, k, v, hidden):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v
""",
    vars(other),
)
attend_elsewhere = other.attend
scaled_dot_product_attention = other.scaled_dot_product_attention
TABLE = {"sdpa": F.scaled_dot_product_attention}
HELPERS = [through]


class Core:
    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


CORE = Core()


class By(Attention):
    """Its heads, attended to by what a subclass says."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attend(*self.heads(x)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError


class Static(By):
    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class OfTheClass(By):
    @classmethod
    def attend(cls, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Property(By):
    @property
    def attend(self) -> Callable[..., Tensor]:  # type: ignore[override]
        return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)


class PartMethod(By):
    def _attend(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    attend = functools.partialmethod(_attend, causal=True)  # type: ignore[assignment]


class Kept(By):
    def __init__(self) -> None:
        super().__init__()
        self.attend = functools.partial(  # type: ignore[method-assign]
            F.scaled_dot_product_attention, is_causal=True
        )


class KeptObject(By):
    def __init__(self) -> None:
        super().__init__()
        self.attend = Core()  # type: ignore[method-assign]


class OnTheClass(By):
    function = staticmethod(F.scaled_dot_product_attention)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.function(q, k, v, is_causal=True)


class Default(By):
    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, how: Any = F.scaled_dot_product_attention
    ) -> Tensor:
        return how(q, k, v, is_causal=True)


class FromTable(By):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return TABLE["sdpa"](q, k, v, is_causal=True)


class FromList(By):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return HELPERS[0](q, k, v)


class FromObject(By):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return CORE(q, k, v)


class ByGetattr(By):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return getattr(F, "scaled_dot_product_attention")(q, k, v, is_causal=True)  # noqa: B009


class ImportsThen(By):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from torch.nn.functional import scaled_dot_product_attention

        return scaled_dot_product_attention(torch.clone(q), k, v, is_causal=True)


class Elsewhere(By):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend_elsewhere(q, k, v)


class SameName(By):
    """Another's function of the same name, whose mask says what is hidden."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, HIDDEN)


class SameNameInModule(By):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return other.scaled_dot_product_attention(q, k, v, HIDDEN)


def _closures(module: Any, function: Any) -> list[type[Attention]]:
    class OfModule(By):
        def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return module.scaled_dot_product_attention(q, k, v, is_causal=True)

    class OfFunction(By):
        def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return function(q, k, v, is_causal=True)

    return [OfModule, OfFunction]


WAYS = [
    Static, OfTheClass, Property, PartMethod, Kept, KeptObject, OnTheClass, Default, FromTable,
    FromList, FromObject, ByGetattr, ImportsThen, Elsewhere, SameName, SameNameInModule,
    *_closures(F, F.scaled_dot_product_attention),
]  # fmt: skip


@pytest.mark.parametrize("cls", WAYS)
@torch.no_grad()
def test_every_way_of_calling_it_is_reached(cls: type[Attention]) -> None:
    model = gpt(cls)
    want, mass = oracle(gpt(Attention), 5.0)
    base = model(IDS)
    with fv.attach(model):
        assert torch.equal(model(IDS), base)
    methods = fv.Emphasize("r", gain=5.0), fv.Measure(fv.mass("r"))
    with fv.attach(model, *methods, regions=REGION) as run:
        got = model(IDS)
    assert torch.allclose(got.double(), want, atol=1e-5)
    assert torch.allclose(run.results["mass:r"].prefill.double(), mass, atol=1e-6)
    assert torch.equal(model(IDS), base)


@torch.no_grad()
def test_a_forward_replaced_on_the_module_runs() -> None:
    """As accelerate's hooks replace it."""
    model = gpt(Attention)
    for block in model.h:
        plain = block.attn.forward
        block.attn.forward = lambda x, plain=plain: plain(x) * 2
    replaced = [block.attn.forward for block in model.h]
    base = model(IDS)
    with fv.attach(model):
        with fv.attach(model):
            assert torch.equal(model(IDS), base)
        assert torch.equal(model(IDS), base)
        assert {site.reach for site in sites(model)} == {"intercepted"}
    assert [block.attn.forward for block in model.h] == replaced
    with fv.attach(model, fv.Measure(fv.entropy())) as run:
        assert torch.allclose(model(IDS), base, atol=1e-5)
    assert run.calls[0].sites == {"decoder": 2}


@torch.no_grad()
def test_a_scripted_module_is_told_of() -> None:
    class Scripted(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    class Holder(nn.Module):
        def __init__(self, plain: Attention) -> None:
            super().__init__()
            self.plain, self.core = plain, torch.jit.script(Scripted())

        def forward(self, x: Tensor) -> Tensor:
            return self.plain.out(self.core(*self.plain.heads(x)))

    model = gpt(Attention)
    assert isinstance(model, GPT)
    model.h[1].attn = Holder(model.h[1].attn)
    assert "h.1.attn.core" in dict(unreachable(model))


def test_a_causal_call_with_starred_arguments_is_a_decoders() -> None:
    assert {site.kind for site in sites(gpt(Attention))} == {"decoder"}
