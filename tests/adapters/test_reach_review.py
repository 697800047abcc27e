"""Ways to write attention that a reader of code stumbles over: each reached, and rightly."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
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
from torch import Tensor, nn

import foveate as fv
from foveate.adapters.sites import sites, unreachable
from foveate.errors import FoveateError

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
        return getattr(F, "scaled_dot_product_attention")(q, k, v, is_causal=True)


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


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """As "The Annotated Transformer" has it."""
    scores = q @ k.transpose(-2, -1) / q.size(-1) ** 0.5
    weights = scores.masked_fill(mask == 0, -1e9).softmax(dim=-1)
    return weights @ v, weights


class Annotated(By):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, ~HIDDEN)[0]


WAYS = [
    Annotated,
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


# -- what was silently another thing ---------------------------------------------------------------
@torch.no_grad()
def test_a_gates_softmax_is_no_attention() -> None:
    class Gated(Written):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.gate = nn.Linear(D, S)

        def shares(self, x: Tensor) -> Tensor:
            return self.gate(x).softmax(-1)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1 + self.shares(x)[..., 2:3])

    class ByHand(Gated):
        def shares(self, x: Tensor) -> Tensor:
            return (y := self.gate(x).exp()) / y.sum(-1, keepdim=True)

    outs = []
    for cls in (Gated, ByHand):
        model = gpt(Attention)
        for block in model.h:
            gated = cls()
            gated.load_state_dict(block.attn.state_dict(), strict=False)
            block.attn = gated
        methods = fv.Emphasize("r", gain=5.0), fv.Measure(fv.mass("r"))
        with fv.attach(model, *methods, regions=REGION):
            outs.append(model(IDS))
    assert torch.allclose(outs[0], outs[1], atol=1e-5)


@torch.no_grad()
def test_autocast_sees_rotated_queries_of_another_kind() -> None:
    class Rotated(Attention):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.heads(x)
            return self.out(F.scaled_dot_product_attention(q.float(), k.float(), v, is_causal=True))

    model = gpt(Rotated)
    want, _ = oracle(gpt(Attention), 5.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        base = model(IDS)
        with fv.attach(model):
            assert torch.equal(model(IDS), base)
        with fv.attach(model, fv.Emphasize("r", gain=5.0), regions=REGION):
            got = model(IDS)
    assert got.dtype == base.dtype
    assert torch.allclose(got.double(), want, atol=5e-2)


@torch.no_grad()
def test_keys_that_are_broadcast_over_the_batch() -> None:
    class OneMemory(Attention):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.heads(x)
            return self.out(F.scaled_dot_product_attention(q, k[:1, :1], v[:1, :1]))

    class Repeated(Attention):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.heads(x)
            k, v = (part[:1, :1].repeat(2, H, 1, 1) for part in (k, v))
            return self.out(F.scaled_dot_product_attention(q, k, v))

    outs = []
    for cls in (OneMemory, Repeated):
        model = gpt(cls)
        base = model(IDS)
        with fv.attach(model):
            assert torch.equal(model(IDS), base)
        with fv.attach(model, fv.Emphasize("r", gain=5.0), regions=REGION):
            outs.append(model(IDS))
    assert torch.allclose(outs[0], outs[1], atol=1e-5)


@torch.no_grad()
def test_the_function_under_a_users_patch_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.adapters.test_modules import Decorated

    plain = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: plain(*a, **k) * 2)
    model = gpt(Decorated)
    base = model(IDS)
    with fv.attach(model, fv.Measure(fv.entropy())):
        assert torch.allclose(model(IDS), base, atol=1e-5)


# -- time and place in hand-written decoders -------------------------------------------------------
class Cached(Attention):
    """Keeps its keys; a decoder that is called step by step."""

    rolling = 0

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        if (kept := getattr(self, "kept", None)) is not None:
            k, v = torch.cat([kept[0], k], 2), torch.cat([kept[1], v], 2)
        k, v = k[:, :, -self.rolling :], v[:, :, -self.rolling :]
        self.kept = k, v
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1))


def steps(model: GPT, call: Any) -> Tensor:
    outs = [call(IDS[:, :5]), *(call(IDS[:, i : i + 1]) for i in range(5, S))]
    for block in model.h:
        block.attn.kept = None
    return torch.cat(outs, 1)


@pytest.mark.parametrize("through_hooks", [True, False])
@torch.no_grad()
def test_steps_are_counted_by_forwards(through_hooks: bool) -> None:
    """Where the model's own ``forward`` is called by another of its functions, no hook runs."""
    model = gpt(Cached)
    call = model if through_hooks else model.forward
    want, mass = oracle(gpt(Attention), 5.0)
    region = {"r": REGION["r"][:5]}
    methods = fv.Emphasize("r", gain=5.0), fv.Measure(fv.mass("r"))
    with fv.attach(model, *methods, regions=region) as run:
        got = steps(model, call)
    assert torch.allclose(got.double(), want, atol=1e-5)
    assert torch.allclose(run.results["mass:r"].prefill.double(), mass[..., :5], atol=1e-6)
    assert torch.allclose(run.results["mass:r"].decode.double(), mass[..., 5:], atol=1e-6)
    with fv.attach(model, fv.Emphasize("r", gain=5.0, phase="decode", steps=[2]), regions=region):
        got = steps(model, call)
    plain = steps(model, model)
    assert torch.allclose(got[:, :6], plain[:, :6], atol=1e-5)
    assert not torch.allclose(got[:, 6], plain[:, 6], atol=1e-2)


@torch.no_grad()
def test_a_cache_that_rolls_is_refused_where_regions_are_meant() -> None:
    model = gpt(Cached)
    for block in model.h:
        block.attn.rolling = 6
    region = {"r": REGION["r"][:5]}
    with pytest.raises(FoveateError, match=r"'r', and the model went back.*position 6"):
        with fv.attach(model, fv.Emphasize("r", gain=5.0), regions=region):
            steps(model, model)
    for block in model.h:
        block.attn.kept = None
    with fv.attach(model, fv.Measure(fv.entropy())) as run:
        steps(model, model)
    assert run.results["entropy"].decode.shape == (2, 2, H, 4)


@torch.no_grad()
def test_foreign_keys_among_the_decoders_are_passed_over() -> None:
    class OnMemory(Attention):
        def forward(self, x: Tensor) -> Tensor:
            if self.memory is None:
                return self.out(F.scaled_dot_product_attention(*self.heads(x), is_causal=True))
            q, (_, k, v) = self.heads(x)[0], self.heads(self.memory)
            return self.out(F.scaled_dot_product_attention(q, k, v))

    model = gpt(OnMemory)
    model.h[0].attn.memory, model.h[1].attn.memory = None, torch.randn(2, 4, D)
    with fv.attach(model, fv.Emphasize("r", gain=5.0), regions=REGION) as run:
        got = model(IDS)
    assert "h.1.attn are not the tokens" in repr(run.coverage)
    with fv.attach(model, fv.Emphasize("r", gain=5.0, layers=[0]), regions=REGION):
        assert torch.allclose(model(IDS), got, atol=1e-6)


@torch.no_grad()
def test_torchs_encoder_does_not_pack_what_is_padded() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(D, H, 48, batch_first=True), 2).eval()
    before = [dict(vars(module)) for module in model.modules()]
    x, padding = torch.randn(2, S, D), torch.zeros(2, S, dtype=torch.bool)
    padding[1, 6:] = True
    want = model(x, src_key_padding_mask=padding)
    regions = REGION | {"padding": padding}
    with fv.attach(model, fv.Measure(fv.mass("padding")), regions=regions) as run:
        got = model(x, src_key_padding_mask=padding)
    assert torch.allclose(got[~padding], want[~padding], atol=1e-5)
    assert not run.results["mass:padding"].prefill.any()
    assert torch.equal(model(x, src_key_padding_mask=padding), want)
    assert [dict(vars(module)) for module in model.modules()] == before


@torch.no_grad()
def test_nested_tensors_pass_and_are_not_measured() -> None:
    class OnSeveral(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x)

    rows = [torch.randn(H, n, 8) for n in (5, 7)]
    x = torch.nested.nested_tensor(rows)
    model = OnSeveral()
    want = model(x)
    with fv.attach(model):
        assert all(map(torch.equal, model(x).unbind(), want.unbind()))
    with pytest.raises(FoveateError, match="no attention to edit or measure"):
        with fv.attach(model, fv.Measure(fv.entropy())):
            model(x)


@torch.no_grad()
def test_a_model_on_the_meta_device() -> None:
    model = gpt(Attention).to("meta")
    with fv.attach(model, fv.Emphasize("r", gain=5.0), regions=REGION):
        assert model(IDS.to("meta")).shape == (2, S, D)


# -- rows that see nothing, rows that begin later --------------------------------------------------
@torch.no_grad()
def test_a_row_that_the_model_blinds_by_the_dtypes_minimum_is_the_models() -> None:
    class Blind(Written):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.heads(x)
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            hidden = HIDDEN.clone()
            hidden[2] = True
            scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
            return self.out(scores.softmax(-1) @ v)

    model = gpt(Blind)
    want = model(IDS)
    with fv.attach(model, fv.Measure(fv.entropy(), fv.mass("r")), regions=REGION) as run:
        assert torch.allclose(model(IDS), want, atol=1e-5)
    assert not run.results["mass:r"].prefill[..., 2].any()


@pytest.mark.parametrize("additive", [True, False])
@torch.no_grad()
def test_a_pattern_counts_from_the_first_real_token_of_a_prepared_mask(additive: bool) -> None:
    real = torch.ones(2, S, dtype=torch.bool)
    real[1, :2] = False
    seen = (~HIDDEN) & real[:, None, None]

    class Padded(Attention):
        def forward(self, x: Tensor) -> Tensor:
            mask = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf) if additive else seen
            return self.out(F.scaled_dot_product_attention(*self.heads(x), attn_mask=mask))

    padded, plain = gpt(Padded), gpt(Attention)
    with fv.attach(padded, fv.patterns.Strided(3, 1)):
        got = padded(IDS)
    with fv.attach(plain, fv.patterns.Strided(3, 1)):
        want = plain(IDS[1:, 2:])
    assert torch.allclose(got[1, 2:], want[0], atol=1e-5)


@torch.no_grad()
def test_scores_with_the_heads_behind_the_queries_are_refused_at_any_length() -> None:
    class Behind(Attention):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (part.transpose(1, 2) for part in self.heads(x))
            scores = torch.einsum("bqhd,bkhd->bqhk", q, k)
            return self.out(torch.einsum("bqhk,bkhd->bhqd", scores.softmax(-1), v))

    model = gpt(Behind)
    for length in (S, 1):
        with pytest.raises(FoveateError, match="no attention to edit or measure"):
            with fv.attach(model, fv.Measure(fv.entropy())):
                model(IDS[:, :length])
