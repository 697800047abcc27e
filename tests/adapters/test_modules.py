"""Modules that attend by themselves: SDPA on a copy of their code, a softmax written out, torch."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from functools import wraps
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as attend
from torch.utils.checkpoint import checkpoint

import foveate as fv
from foveate.adapters.sites import sites
from foveate.errors import FoveateError

D, H, S = 32, 4, 9


class Attention(nn.Module):
    """A hand-written causal self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.n_head = H
        self.c_attn = nn.Linear(D, 3 * D)
        self.c_proj = nn.Linear(D, D)

    def heads(self, x: Tensor) -> list[Tensor]:
        B, T, _ = x.shape
        parts = self.c_attn(x).split(D, 2)
        return [part.view(B, T, H, -1).transpose(1, 2) for part in parts]

    def out(self, y: Tensor) -> Tensor:
        return self.c_proj(y.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.scaled_dot_product_attention(*self.heads(x), is_causal=True))


class Imported(Attention):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(attend(*self.heads(x), is_causal=True))


class ByFullName(Attention):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.nn.functional.scaled_dot_product_attention(*self.heads(x), is_causal=True)
        return self.out(y)


class ByMethod(Attention):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attend(*self.heads(x)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def through(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class ByHelper(Attention):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(through(*self.heads(x)))


class Folded(Attention):
    """Batch and heads in one dimension, and a mask."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.flatten(0, 1) for part in self.heads(x))
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.unflatten(0, (x.shape[0], H)))


class Windows(Attention):
    """An axis of windows before the heads (here there is one)."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unsqueeze(1) for part in self.heads(x))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(1))


class Super(Attention):
    """Out of a copy's reach: the call is in a function that this class overrides."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def logged(function: Any) -> Any:
    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Decorated(Attention):
    @logged
    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.scaled_dot_product_attention(*self.heads(x), is_causal=True))


class Written(Attention):
    """The softmax written out."""

    def softmax(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
        return self.out(self.softmax(scores) @ v)


class Functional(Written):
    def softmax(self, scores: Tensor) -> Tensor:
        return F.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype)


class AsModule(Written):
    def __init__(self) -> None:
        super().__init__()
        self.soft = nn.Softmax(dim=-1)

    def softmax(self, scores: Tensor) -> Tensor:
        return self.soft(scores.flatten(0, 1)).unflatten(0, scores.shape[:2])


class ByTorch(Attention):
    """``nn.MultiheadAttention`` on the same weights."""

    weights = False

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return self.mha(x, x, x, attn_mask=mask, need_weights=self.weights)[0]

    def load(self, other: Attention) -> None:
        self.mha = nn.MultiheadAttention(D, H, batch_first=True)
        self.mha.in_proj_weight, self.mha.in_proj_bias = other.c_attn.weight, other.c_attn.bias
        self.mha.out_proj.load_state_dict(other.c_proj.state_dict())


class ByTorchWithWeights(ByTorch):
    weights = True


class Block(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attn = attention
        self.mlp = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


class GPT(nn.Module):
    def __init__(self, cls: type[Attention], recompute: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.recompute = recompute
        self.embed = nn.Embedding(50, D)
        blocks = []
        for _ in range(2):
            plain = Attention()
            block = Block(plain)
            if cls is not Attention:
                block.attn = cls()
                if isinstance(block.attn, ByTorch):
                    block.attn.load(plain)
                else:
                    block.attn.load_state_dict(plain.state_dict())
            blocks.append(block)
        self.h = nn.ModuleList(blocks)
        # every class draws other numbers in its __init__; what is drawn before them is shared
        self.eval()

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.h:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute else block(x)
        return x


def gpt(cls: type[Attention], recompute: bool = False) -> GPT:
    """Models of all classes with the same weights."""
    model, plain = GPT(cls, recompute), GPT(Attention)
    model.embed.load_state_dict(plain.embed.state_dict())
    for block, other in zip(model.h, plain.h, strict=True):
        block.mlp.load_state_dict(other.mlp.state_dict())
        if isinstance(block.attn, ByTorch):
            block.attn.load(other.attn)
        else:
            block.attn.load_state_dict(other.attn.state_dict())
    return model


REBOUND = [Attention, Imported, ByFullName, ByMethod, ByHelper, Folded, Windows]
WATCHED = [Super, Decorated, Written, Functional, AsModule, ByTorch, ByTorchWithWeights]
ALL = [*REBOUND, *WATCHED]
IDS = torch.arange(2 * S).view(2, S) * 7 % 50
REGION = {"r": (torch.arange(S) >= 2) & (torch.arange(S) < 4)}


def oracle(model: GPT, gain: float) -> tuple[Tensor, Tensor]:
    """Outputs and masses on the region in float64, every step written out."""
    model = copy.deepcopy(model).double()
    x, masses = model.embed(IDS), []
    for block in model.h:
        q, k, v = block.attn.heads(x)
        scores = q @ k.transpose(-1, -2) / (D // H) ** 0.5
        P = scores.masked_fill(torch.ones(S, S).triu(1).bool(), -torch.inf).softmax(-1)
        P = torch.where(REGION["r"], gain * P, P)
        P = P / P.sum(-1, keepdim=True)
        masses.append(P[..., REGION["r"]].sum(-1))
        x = x + block.attn.out(P @ v)
        x = x + block.mlp(x)
    return x, torch.stack(masses)


@pytest.mark.parametrize("cls", ALL)
def test_how_it_is_reached(cls: type[Attention]) -> None:
    found = sites(gpt(cls))
    assert [site.layer for site in found] == [0, 1]
    assert {site.heads for site in found} == {H}
    assert {site.reach for site in found} == {"rebound" if cls in REBOUND else "intercepted"}


@pytest.mark.parametrize("cls", ALL)
@torch.no_grad()
def test_passthrough_is_bitwise_the_model(cls: type[Attention]) -> None:
    model = gpt(cls)
    if issubclass(cls, ByTorch):  # otherwise torch runs a fused layer of its own
        torch.backends.mha.set_fastpath_enabled(False)
    want = model(IDS)
    with fv.attach(model) as run:
        got = model(IDS)
    torch.backends.mha.set_fastpath_enabled(True)
    assert torch.equal(got, want)
    assert run.calls[0].sites == {run.coverage[0].stack: 2}


@pytest.mark.parametrize("cls", ALL)
@torch.no_grad()
def test_a_gain_and_a_mass_are_the_oracles(cls: type[Attention]) -> None:
    model = gpt(cls)
    want, mass = oracle(gpt(Attention), 5.0)
    base, _ = oracle(gpt(Attention), 1.0)
    methods = fv.Emphasize("r", gain=5.0), fv.Measure(fv.mass("r"), fv.entropy())
    with fv.attach(model, *methods, regions=REGION) as run:
        got = model(IDS)
    assert torch.allclose(got.double(), want, atol=1e-5)
    assert not torch.allclose(base, want, atol=1e-2)  # the gain does something
    assert torch.allclose(run.results["mass:r"].prefill.double(), mass, atol=1e-6)
    assert torch.allclose(model(IDS).double(), base, atol=1e-5)


@pytest.mark.parametrize("cls", [Attention, ByMethod, Written, ByTorch])
def test_gradients_are_exact_where_a_block_is_recomputed(cls: type[Attention]) -> None:
    def gradients(model: GPT) -> list[Tensor]:
        with fv.attach(model, fv.Emphasize("r", gain=5.0), regions=REGION):
            model(IDS).square().sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    want, got = gradients(gpt(cls)), gradients(gpt(cls, recompute=True))
    assert len(want) == len(got) > 5
    for a, b in zip(want, got, strict=True):
        assert torch.allclose(a, b, atol=1e-5, rtol=1e-5)


@pytest.fixture(params=[Attention, Written, ByTorch])
def model(request: pytest.FixtureRequest) -> Iterator[GPT]:
    model = gpt(request.param)
    before = [dict(vars(m)) for m in model.modules()]
    hooks = [len(m._forward_hooks) for m in model.modules()]
    yield model
    assert [dict(vars(m)) for m in model.modules()] == before
    assert [len(m._forward_hooks) for m in model.modules()] == hooks


def test_nothing_is_left_after_an_error(model: GPT) -> None:
    with pytest.raises(KeyboardInterrupt), fv.attach(model, fv.Measure(fv.entropy())):
        model(IDS)
        raise KeyboardInterrupt


def test_attachments_nest(model: GPT) -> None:
    with fv.attach(model, fv.Emphasize("r", gain=5.0), regions=REGION):
        with fv.attach(model, fv.Emphasize("r", gain=0.2), regions=REGION):
            both = model(IDS)
        one = model(IDS)
    assert torch.allclose(both, model(IDS), atol=1e-5)
    assert not torch.allclose(one, both, atol=1e-2)


def test_a_copy_made_inside_the_block_is_a_plain_model(model: GPT) -> None:
    want = model(IDS)
    with fv.attach(model, fv.Emphasize("r", gain=5.0), regions=REGION):
        twin = copy.deepcopy(model)
    assert torch.allclose(twin(IDS), want, atol=1e-6)
    with torch.no_grad():
        twin.h[0].attn.get_parameter(next(iter(twin.h[0].attn.state_dict()))).mul_(2)
    assert torch.allclose(model(IDS), want, atol=1e-6)  # it holds nothing of the original


def test_a_pickle_made_inside_the_block_is_a_plain_model(model: GPT) -> None:
    want = model(IDS)
    with fv.attach(model, fv.Emphasize("r", gain=5.0), regions=REGION):
        data = pickle.dumps(model)
    assert torch.allclose(pickle.loads(data)(IDS), want, atol=1e-6)


class Unsaid(Attention):
    """Does not say how many heads it has."""

    def __init__(self) -> None:
        super().__init__()
        del self.n_head


def test_heads_that_are_not_there_are_refused_at_the_first_call() -> None:
    model = gpt(Unsaid)
    assert sites(model)[0].heads is None
    with pytest.raises(FoveateError, match=r"names head 9; h\.0\.attn attends with heads 0–3"):
        with fv.attach(model, fv.Emphasize("r", gain=5.0, heads=[9]), regions=REGION):
            model(IDS)
    with fv.attach(model, fv.Emphasize("r", gain=5.0, heads=[-1]), regions=REGION):
        last = model(IDS)
    with fv.attach(model, fv.Emphasize("r", gain=5.0, heads=[3]), regions=REGION):
        assert torch.equal(model(IDS), last)


def test_heads_folded_into_the_batch_cannot_be_told_apart() -> None:
    class Flat(Unsaid):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (part.flatten(0, 1) for part in self.heads(x))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(y.unflatten(0, (x.shape[0], H)))

    with pytest.raises(FoveateError, match="heads folded into the batch"):
        with fv.attach(model := gpt(Flat), fv.Measure(fv.entropy(), heads=[1])):
            model(IDS)


class Cached(Attention):
    """Keeps what it has seen, and is handed its mask from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Any = None

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        if self.seen is not None:
            k, v = (torch.cat([old, new], 2) for old, new in zip(self.seen, (k, v), strict=True))
        self.seen = k, v
        late = k.shape[2] - q.shape[2]
        ones = torch.ones(q.shape[2], k.shape[2])
        mask = (ones.cumsum(1) - ones.cumsum(0) <= late).to(torch.bool)
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


@torch.no_grad()
def test_a_cache_that_grows_in_what_looks_like_an_encoder() -> None:
    model = gpt(Cached)
    assert {site.stack for site in sites(model)} == {"encoder"}
    regions = {"r": torch.arange(S) < 3}
    with pytest.raises(FoveateError, match=r"keys grow from 9 to 10 .*is_causal = True"):
        with fv.attach(model, fv.Measure(fv.mass("r")), regions=regions):
            model(IDS)
            model(IDS[:, :1])
    for block in model.h:
        block.attn.is_causal, block.attn.seen = True, None
    with fv.attach(model, fv.Measure(fv.mass("r")), regions=regions) as run:
        model(IDS)
        model(IDS[:, :1])
    assert [call.phase for call in run.calls] == ["prefill", "decode"]
    assert run.results["mass:r"].decode.shape == (2, 2, H, 1)


def test_another_model_of_the_class_is_left_alone() -> None:
    model, other = gpt(Attention), gpt(Attention)
    want = other(IDS)
    with fv.attach(model, fv.Emphasize("r", gain=5.0), regions=REGION):
        assert torch.equal(other(IDS), want)
        assert not torch.allclose(model(IDS), want, atol=1e-2)


def test_dropout_is_refused_with_methods() -> None:
    class Dropping(Attention):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.scaled_dot_product_attention(*self.heads(x), dropout_p=0.1))

    model = gpt(Dropping)
    with pytest.raises(FoveateError, match=r"drops attention weights \(p=0.1\)"):
        with fv.attach(model, fv.Emphasize("r", gain=5.0), regions=REGION):
            model(IDS)
    with fv.attach(model):
        model(IDS)


@pytest.mark.parametrize(
    "method", [fv.Ablate(heads=[0]), fv.Shift("q", dict.fromkeys(range(2), torch.ones(H, 8)))]
)
def test_what_needs_more_than_scores_is_refused_where_there_are_only_scores(method: Any) -> None:
    with fv.attach(gpt(Attention), method) as run:
        run  # an SDPA call has its tensors
    with pytest.raises(FoveateError, match=r"writes its attention out.*layers= or stack="):
        with fv.attach(model := gpt(Written), method):
            model(IDS)


def test_head_outputs_may_be_scaled_where_there_are_only_scores() -> None:
    class Half(fv.methods._method.Method):
        def rewrite(self, program: Any, site: Any, call: Any) -> Any:
            return program.evolve(head_scale=torch.tensor([0.5, 1, 1, 0]).view(1, H, 1))

    outs = []
    for cls in (Attention, Written):
        with fv.attach(model := gpt(cls), Half()):
            outs.append(model(IDS))
    assert torch.allclose(outs[0], outs[1], atol=1e-5)
    assert not torch.allclose(outs[0], gpt(Attention)(IDS), atol=1e-2)


class Channels(Attention):
    """Cross-covariance attention: a softmax over channels, no attention over tokens."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.transpose(-1, -2) for part in self.heads(x))
        return self.out(((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(-1, -2))


def test_channels_that_attend_to_channels_are_no_attention() -> None:
    model = gpt(Channels)
    want = model(IDS)
    with fv.attach(model) as run:
        assert torch.equal(model(IDS), want)
    assert "no softmax over keys" in run.coverage[0].why
    with pytest.raises(FoveateError, match=r"h\.0\.attn \(Channels\) has no attention to edit"):
        with fv.attach(model, fv.Measure(fv.entropy())):
            model(IDS)


def test_a_key_padding_mask_is_a_key_only_term() -> None:
    class Padded(Attention):
        def forward(self, x: Tensor) -> Tensor:
            seen = torch.ones(x.shape[0], 1, 1, x.shape[1], dtype=torch.bool)
            seen[0, ..., :3] = False
            return self.out(F.scaled_dot_product_attention(*self.heads(x), attn_mask=seen))

    model = gpt(Padded).requires_grad_(False)
    want = model(IDS)
    whole = torch.ones(S, dtype=torch.bool)
    measure = fv.Measure(fv.mass("first"), fv.mass("all"))
    regions = {"first": torch.arange(S) < 3, "all": whole}
    with fv.attach(model, measure, regions=regions) as run:
        assert torch.allclose(model(IDS), want, atol=1e-5)
    first = run.results["mass:first"].prefill
    assert not first[:, 0].any() and bool((first[:, 1] > 0).all())
    assert torch.allclose(run.results["mass:all"].prefill, torch.ones(()), atol=1e-6)


def test_torchs_own_encoder_and_decoder() -> None:
    torch.manual_seed(0)
    model = nn.Transformer(D, H, 2, 2, 48, batch_first=True).eval()
    x, y = torch.randn(2, S, D), torch.randn(2, 5, D)
    found = sites(model)
    assert {(site.stack, site.depth) for site in found} == {
        ("encoder", 2), ("decoder", 2), ("cross", 2)
    }  # fmt: skip
    with torch.no_grad():
        want = model(x, y)
        with fv.attach(model) as run:
            assert torch.allclose(model(x, y), want, atol=1e-5)
        measure = fv.Measure(fv.mass("r"), stack=("encoder", "cross"))
        with fv.attach(model, measure, regions=REGION) as run:
            assert torch.allclose(model(x, y), want, atol=1e-5)
        assert run.results["mass:r"].stack("cross").prefill.shape == (2, 2, H, 5)
        assert torch.equal(model(x, y), want)
