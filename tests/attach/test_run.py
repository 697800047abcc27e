"""What a run tells: phases, steps, coverage, recorded results; and gradients through it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate as fv
from families import build, inputs, logits
from foveate.attach import Call, Covered, Forward
from foveate.engine.program import Program
from foveate.methods._scope import Scope

R = {"r": torch.arange(11) < 4}
GREEDY: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}


class Watch:
    """A method that only notes what it is told."""

    def __init__(self, **scope: Any) -> None:
        self.scope = Scope.of(**scope)
        self.told: list[tuple[int, Call]] = []

    def rewrite(self, program: Program, site: Any, call: Call) -> Program:
        self.told.append((site.layer, call))
        return program


@torch.no_grad()
def test_a_method_is_told_where_and_when() -> None:
    model, watch = build("llama"), Watch()
    with fv.attach(model, watch) as run:
        model.generate(**inputs("llama"), **GREEDY)
    calls = [call for layer, call in watch.told if layer == 1]
    assert [(c.phase, c.step, c.q_offset, c.kv_offset) for c in calls] == [
        ("prefill", 0, 0, 0),
        *(("decode", i, 10 + i, 0) for i in range(1, 5)),
    ]
    shapes = calls[-1].shapes
    assert (shapes.B, shapes.Hq, shapes.Hkv, shapes.Sq, shapes.Sk, shapes.D) == (2, 4, 2, 1, 15, 8)
    assert run.calls[-1] == Forward("decode", 4, 14, 1, 2, {"decoder": 2}, 0)
    # a method that changes nothing leaves the model's own kernel
    assert {one.state for one in run.coverage} == {"passed over"}


@pytest.mark.parametrize(
    ("scope", "want"),
    [
        ({"layers": 1}, [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]),
        ({"layers": -1, "phase": "prefill"}, [(1, 0)]),
        ({"phase": "decode", "layers": [0]}, [(0, 1), (0, 2), (0, 3), (0, 4)]),
        ({"steps": [0, 3]}, [(0, 0), (1, 0), (0, 3), (1, 3)]),
        ({"steps": range(2, 4), "heads": {1: [0]}}, [(1, 2), (1, 3)]),
        ({"heads": [(0, 3)], "steps": 1}, [(0, 1)]),
        ({"stack": "all", "phase": "prefill"}, [(0, 0), (1, 0)]),
    ],
)
@torch.no_grad()
def test_scope(scope: dict[str, Any], want: list[tuple[int, int]]) -> None:
    watch = Watch(**scope)
    model = build("llama")
    with fv.attach(model, watch):
        model.generate(**inputs("llama"), **GREEDY)
    assert [(layer, call.step) for layer, call in watch.told] == want


@torch.no_grad()
def test_a_method_that_does_not_say_which_sites_are_alike_is_asked_at_each() -> None:
    class Rising:
        scope = Scope()

        def rewrite(self, program: Program, site: Any, call: Call) -> Program:
            return program.with_gain("r", 2.0 + site.layer)

    model, given = build("llama"), inputs("llama")
    with fv.attach(model, Rising(), regions=R):
        got = logits(model(**given))
    with fv.attach(model, fv.Emphasize("r", {0: 2.0, 1: 3.0}), regions=R):
        want = logits(model(**given))
    assert torch.equal(got, want)


@torch.no_grad()
def test_layers_of_one_program_share_one_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    from foveate.attach import visit

    class Plain:
        scope = Scope()

        def rewrite(self, program: Program, site: Any, call: Call) -> Program:
            return program.with_gain("r", 2.0)

    made = []
    plan = visit.plan
    monkeypatch.setattr(visit, "plan", lambda *a: made.append(a) or plan(*a))
    for methods, plans in (
        ([Plain()], 1),
        ([fv.Emphasize("r", 2.0), fv.Measure(fv.mass("r"))], 1),
        ([fv.Emphasize("r", 2.0, heads=[1])], 1),
        ([fv.Emphasize("r", {0: 2.0, 1: 3.0})], 2),
        ([fv.Emphasize("r", 2.0, layers=0), fv.Measure(fv.mass("r"))], 2),
    ):
        made.clear()
        model = build("llama")
        with fv.attach(model, *methods, regions=R):
            model(**inputs("llama"))
        assert len(made) == plans, methods


@torch.no_grad()
def test_coverage_says_what_was_passed_over_and_why() -> None:
    model = build("bart")
    with fv.attach(model, fv.Measure(fv.entropy(), layers=0)) as run:
        model(**inputs("bart"))
    states = {(c.stack, c.layer): (c.state, c.why) for c in run.coverage}
    assert states[("decoder", 0)] == ("touched", "")
    assert states[("decoder", 1)] == ("passed over", "in no method's scope")
    assert states[("cross", 0)] == ("passed over", "in no method's scope")
    with fv.attach(model, fv.Measure(fv.entropy(), phase="decode")) as run:
        model(**inputs("bart"))
    assert run.coverage[2].why or run.coverage[0].why
    assert set(run.coverage.passed_over.values()) == {
        "in no method's scope",
        "in no method's phase or steps",
    }
    with fv.attach(model) as run:
        pass
    assert {c.state for c in run.coverage} == {"not reached"}
    assert "6 not reached" not in repr(run.coverage) and "2 not reached" in repr(run.coverage)
    assert isinstance(run.coverage[0], Covered) and len(run.coverage[:2]) == 2


@torch.no_grad()
def test_measures_of_some_heads_and_layers() -> None:
    model = build("llama")
    with fv.attach(model, fv.Measure(fv.entropy(), fv.top(2), layers=1, heads=[0, -1])) as run:
        model(**inputs("llama"))
    with fv.attach(model, fv.Measure(fv.entropy(), fv.top(2))) as whole:
        model(**inputs("llama"))
    series = run.results["entropy"]
    assert series.layers == [1] and series.prefill.shape == (1, 2, 4, 11)
    both = whole.results["entropy"].prefill[1]
    assert torch.allclose(series.prefill[0][:, [0, 3]], both[:, [0, 3]], atol=1e-5)
    assert bool(series.prefill[0][:, [1, 2]].isnan().all())
    assert bool((run.results["top.indices"].prefill[0][:, 1] == -1).all())


@torch.no_grad()
def test_before_and_after() -> None:
    """A gain moves mass as p' = g p / (1 + (g - 1) p), call by call on the same q and k."""
    model = build("llama")
    reads = (fv.mass("r"), fv.mass("r", at="before", as_="own"))
    with fv.attach(
        model, fv.Emphasize("r", 5.0), fv.Measure(*reads, fv.mass("generated")), regions=R
    ) as run:
        model.generate(**inputs("llama"), **GREEDY)
    for phase in ("prefill", "decode"):
        p, q = (getattr(run.results[key], phase) for key in ("own", "mass:r"))
        assert torch.allclose(q, 5 * p / (1 + 4 * p), atol=1e-5)


def test_gradients_go_through_gains_and_measures() -> None:
    model, given = build("gpt2").double(), inputs("gpt2")  # computes in float64 throughout
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    gain = torch.full((4,), 3.0, dtype=torch.float64, requires_grad=True)

    def loss(gain: Any) -> Any:
        with fv.attach(model, fv.Emphasize("r", gain), fv.Measure(fv.mass("r")), regions=R) as run:
            out = logits(model(**given))
        return out.square().mean() + run.results["mass:r"].prefill.sum()

    (got,) = torch.autograd.grad(loss(gain), gain)
    for head in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[head] = 1e-5
        with torch.no_grad():
            slope = (loss(gain + step) - loss(gain - step)) / 2e-5
            assert torch.allclose(got[head], slope, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "deepseek_v3", "bart", "t5"])
def test_gradients_of_the_models_own_parameters(name: str) -> None:
    """Sinks, position biases and soft-caps learn as they do without us."""

    def gradients(*methods: Any) -> dict[str, Any]:
        model = build(name)
        with fv.attach(model, *methods):
            logits(model(**inputs(name))).square().mean().backward()
        return {key: p.grad for key, p in model.named_parameters() if p.grad is not None}

    want, got = gradients(), gradients(fv.Measure(fv.max(), fv.received(), stack="all"))
    assert want.keys() == got.keys()
    for key, value in want.items():
        # a key's bias has the gradient 0
        assert float((got[key] - value).abs().max()) <= 1e-6 + 1e-4 * float(value.abs().max()), key


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_under_checkpointing_are_the_same(reentrant: bool) -> None:
    """A checkpoint computes a layer again in the backward, when the forward is long closed."""
    given = inputs("llama")

    def gradients(checkpoint: bool) -> tuple[list[Any], Any]:
        model = build("llama").train()
        if checkpoint:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        methods = (fv.Emphasize("r", 3.0), fv.Measure(fv.mass("r")))
        with fv.attach(model, *methods, regions=R) as run:
            logits(model(**given, use_cache=False)).square().mean().backward()
        assert len(run.calls) == 1
        return [p.grad for p in model.parameters()], run.results["mass:r"].prefill

    plain, checkpointed = gradients(False), gradients(True)
    assert all(
        torch.allclose(a, b, atol=1e-6) for a, b in zip(plain[0], checkpointed[0], strict=True)
    )
    assert torch.equal(plain[1], checkpointed[1])


@torch.no_grad()
def test_a_module_called_by_itself_is_edited_too() -> None:
    model, hidden = build("llama"), torch.randn(2, 11, 32)
    places = model.model.rotary_emb(hidden, torch.arange(11)[None])
    module = model.model.layers[0].self_attn
    options = {"position_embeddings": places, "attention_mask": None}
    with fv.attach(model, fv.Measure(fv.mass("r")), regions=R) as run:
        got = module(hidden, **options)[0]
    assert torch.allclose(got, module(hidden, **options)[0], atol=1e-5)
    assert run.results["mass:r"].prefill.shape == (1, 2, 4, 11)


@torch.no_grad()
def test_the_base_model_may_be_called_instead() -> None:
    model = build("gpt2")
    with fv.attach(model, fv.Measure(fv.entropy())) as run:
        model.transformer(**inputs("gpt2"))
    assert len(run.calls) == 1 and len(run.results["entropy"].prefill) == 2


@torch.no_grad()
def test_models_inside_a_module_of_ones_own() -> None:
    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build("llama")

        def forward(self, ids: Any) -> Any:
            return self.inner(ids).logits * 2

    wrapper, ids = Wrapper(), inputs("llama")["input_ids"]
    want = wrapper(ids)
    with fv.attach(wrapper, fv.Measure(fv.entropy())) as run:
        got = wrapper(ids)
    assert torch.allclose(got, want, atol=1e-5)
    assert len(run.calls) == 1 and run.coverage.touched[0] == "inner.model.layers.0.self_attn"


@torch.no_grad()
def test_cross_attention_of_a_decoder_only_model() -> None:
    import transformers

    config = transformers.GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, add_cross_attention=True
    )
    model, ids = transformers.GPT2LMHeadModel(config).eval(), inputs("gpt2")["input_ids"]
    states = torch.randn(2, 6, 32)
    methods = (fv.Emphasize("s", 4.0, stack="cross"), fv.Measure(fv.mass("s"), stack="cross"))
    plain = logits(model(ids, encoder_hidden_states=states))
    with fv.attach(model, *methods, regions={"s": torch.arange(6) < 2}) as run:
        got = logits(model(ids, encoder_hidden_states=states))
    assert run.calls[0].sites == {"decoder": 2, "cross": 2}
    assert not torch.allclose(got, plain, atol=1e-4)
    assert run.results["mass:s"].prefill.shape == (2, 2, 4, 11)


@torch.no_grad()
def test_assisted_decoding_gives_the_same_text() -> None:
    model, helper, given = build("llama"), build("qwen3"), inputs("llama", batch=1)
    with fv.attach(model, fv.Emphasize("r", 5.0), regions=R):
        want = model.generate(**given, **GREEDY)
        got = model.generate(**given, **GREEDY, assistant_model=helper)
    assert torch.equal(got, want)


@pytest.mark.parametrize("way", ["function", "in place", "generate"])
@torch.no_grad()
def test_a_compiled_model_runs_uncompiled(way: str) -> None:
    from transformers import CompileConfig

    model, given = build("llama"), inputs("llama")
    methods = (fv.Emphasize("r", 5.0), fv.Measure(fv.mass("r")))
    options: dict[str, Any] = {}
    call: Any = model
    if way == "generate":
        compiling = CompileConfig(backend="eager", mode=None, fullgraph=False)
        compiling._compile_all_devices = True
        call = model.generate
        options = GREEDY | {"cache_implementation": "static", "compile_config": compiling}
    elif way == "in place":
        model.compile(backend="eager")
    else:
        call = torch.compile(model, backend="eager")
    plain = build("llama").generate if way == "generate" else build("llama")

    def output(result: Any) -> Any:
        return result if way == "generate" else result.logits

    before = output(call(**given, **options))
    with fv.attach(model, *methods, regions=R) as run:
        got = output(call(**given, **options))
    bare = plain.__self__ if way == "generate" else plain
    with fv.attach(bare, *methods, regions=R):
        want = output(plain(**given, **options))
    assert torch.allclose(got, want, atol=1e-5)
    assert len(run.calls) == (5 if way == "generate" else 1)
    assert torch.equal(output(call(**given, **options)), before)
    assert "get_compiled_call" not in vars(model)


@torch.no_grad()
def test_half_precision_keeps_its_dtype() -> None:
    model, given = build("llama").to(torch.bfloat16), inputs("llama")
    plain = logits(model(**given))
    with fv.attach(model, fv.Measure(fv.mass("r"), fv.entropy()), regions=R) as run:
        got = logits(model(**given))
    assert got.dtype == torch.bfloat16
    assert float((got - plain).abs().max() / plain.abs().max()) < 0.05
    assert run.results["mass:r"].prefill.dtype == torch.float32
