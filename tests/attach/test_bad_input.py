"""Bad input is refused with a sentence; the model stays as it was and usable."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import foveate as fv
from families import build, inputs, logits
from foveate.engine.program import Program
from foveate.methods._scope import Scope

R = {"r": torch.arange(11) < 4}


class Own:
    """A method in a few lines, with what a test wants it to do."""

    def __init__(self, rewrite: Any, **scope: Any) -> None:
        self.scope, self.act = Scope.of(**scope), rewrite

    def rewrite(self, program: Program, site: Any, call: Any) -> Any:
        return self.act(program)

    def __repr__(self) -> str:
        return "Own()"


def up(**scope: Any) -> fv.Emphasize:
    return fv.Emphasize("r", 2.0, **scope)


ENTROPY = fv.Measure(fv.entropy())
EMPTY = {"r": torch.zeros(4, dtype=torch.bool)}
ATTACHING: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], str]] = {
    "no method": ("llama", (3,), {}, "3, which is no method"),
    "a class": ("llama", (fv.Emphasize,), {}, r"class Emphasize; give it an object: Emphasize\("),
    "a measure": ("llama", (fv.entropy(),), {}, "no method"),
    "layer": ("llama", (up(layers=2),), R, r"names layer 2.*0–1 in 'decoder'"),
    "negative layer": ("llama", (up(layers=-3),), R, "names layer -3"),
    "head": ("llama", (up(heads=[1, 4]),), R, r"names head 4; model\.layers\.0"),
    "head of a layer": ("llama", (up(heads={1: [9]}),), R, r"head 9.*layers\.1"),
    "layer of a head": ("llama", (up(heads={5: [0]}),), R, "names layer 5"),
    "nowhere": ("llama", (up(layers=0, heads={1: [0]}),), R, "acts nowhere"),
    "stack": ("llama", (up(stack="cross"),), R, "the stacks of this model: 'dec"),
    "which stack": ("clip", (ENTROPY,), {}, "several: 'text', 'vision'"),
    "gains for heads": ("llama", (fv.Emphasize("r", [1.0, 2.0]),), R, "gains for 2 heads.* has 4"),
    "gain of a layer": ("llama", (fv.Emphasize("r", {3: 2.0}),), R, "names layer 3"),
    "region": ("llama", (fv.Emphasize("x", 2.0),), R, r"'x'; the regions there are: 'r'"),
    "mass": ("llama", (fv.Measure(fv.mass("x")),), {}, "the regions there are: 'generated'"),
    "empty": ("llama", (up(),), EMPTY, "no token"),
    "no mask": ("llama", (), {"r": torch.ones(4)}, r"torch.float32 \[4\].*bool tensor \[S\]"),
    "shape": ("llama", (), {"r": torch.ones(1, 1, 4, dtype=torch.bool)}, r"\[1, 1, 4\]"),
    "nothing": ("llama", (), {"r": torch.ones(0, dtype=torch.bool)}, "bool tensor"),
    "text": ("llama", (), {"r": "evidence"}, "Region 'r' is 'evidence'"),
    "own name": ("llama", (), {"generated": EMPTY["r"]}, "is foveate's own"),
    "one key twice": (
        "llama",
        (fv.Measure(fv.entropy(), layers=0), ENTROPY),
        {},
        "Two methods mea",
    ),
}


@pytest.mark.parametrize(
    ("name", "methods", "regions", "sentence"), ATTACHING.values(), ids=ATTACHING
)
def test_refused_at_attach(
    name: str, methods: tuple[Any, ...], regions: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        fv.attach(build(name), *methods, regions=regions)


def test_regions_and_prompts_that_are_none() -> None:
    model = build("llama")
    with pytest.raises(fv.FoveateError, match=r"takes an fv\.Prompt; str was given"):
        fv.attach(model, prompt="a text")
    with pytest.raises(fv.FoveateError, match="takes a dict"):
        fv.attach(model, regions=[R["r"]])  # type: ignore[arg-type]
    prompt = SimpleNamespace(regions={"r": torch.ones(2, 11, dtype=torch.bool)})
    with pytest.raises(fv.FoveateError, match="choose another name"):
        fv.attach(model, prompt=prompt, regions=R)


def test_models_nothing_can_be_attached_to() -> None:
    with pytest.raises(fv.FoveateError, match=r"torch\.nn\.Module.*; str was given"):
        fv.attach("smollm2")  # type: ignore[arg-type]
    with pytest.raises(fv.FoveateError, match="Nothing in it looks like attention"):
        fv.attach(nn.Linear(2, 2))

    class LinearAttention(nn.Module):
        pass

    with pytest.raises(
        fv.FoveateError, match="It has LinearAttention, which attend by a way of the"
    ):
        fv.attach(nn.Sequential(LinearAttention()))
    with pytest.raises(fv.FoveateError, match="compiled model"):
        fv.attach(torch.compile(build("llama")))  # type: ignore[arg-type]


def refused(model: Any, *methods: Any, sentence: str, **options: Any) -> None:
    """The block raises this sentence, and the model then does what it did."""
    regions = options.pop("regions", None)
    given = {"input_ids": inputs("llama")["input_ids"]} | options
    with torch.no_grad():
        want = logits(model(input_ids=given["input_ids"]))
        with pytest.raises(fv.FoveateError, match=sentence):
            with fv.attach(model, *methods, regions=regions):
                model(**given)
        assert torch.equal(logits(model(input_ids=given["input_ids"])), want)


def test_output_attentions() -> None:
    for implementation in ("eager", "sdpa"):
        model = build("llama", implementation)
        refused(
            model, fv.Measure(fv.entropy()), sentence="output_attentions", output_attentions=True
        )
        model.config.output_attentions = implementation == "eager"
        if implementation == "eager":
            refused(model, fv.Measure(fv.entropy()), sentence="output_attentions")


def test_a_batch_that_the_rows_do_not_divide() -> None:
    rows = {"r": torch.ones(3, 11, dtype=torch.bool)}
    refused(
        build("llama"), fv.Emphasize("r", 2.0), regions=rows, sentence="3 rows and .* batch of 2"
    )


def test_a_region_behind_everything_the_model_saw() -> None:
    far = {"r": torch.arange(40) > 30}
    refused(build("llama"), fv.Emphasize("r", 2.0), regions=far, sentence="begins at position 31")


def test_what_is_no_program() -> None:
    refused(build("llama"), Own(lambda p: None), sentence=r"Own\(\).rewrite returned a NoneType")
    unknown = Own(lambda p: p.with_gain("x", 2.0))
    refused(build("llama"), unknown, sentence=r"Own\(\) speaks of a region 'x'")


def test_dropout() -> None:
    model, given = build("llama"), inputs("llama")
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    with pytest.raises(fv.FoveateError, match=r"p=0\.5.*model\.eval\(\)"):
        with fv.attach(model, fv.Emphasize("r", 2.0), regions=R):
            model(**given)
    torch.manual_seed(0)
    want = model(**given).logits
    torch.manual_seed(0)
    with fv.attach(model):
        assert torch.equal(model(**given).logits, want)
    with fv.attach(model, fv.Emphasize("r", 2.0), regions=R):
        assert torch.isfinite(model.eval()(**given).logits).all()


def test_a_forward_that_reaches_no_site() -> None:
    """GPT-2 with upcast attention never asks the interface."""
    model = build("gpt2", "eager")
    for block in model.transformer.h:
        block.attn.reorder_and_upcast_attn = True
    want = logits(model(**inputs("gpt2")))
    with pytest.raises(fv.FoveateError, match="reached none of the 2 attached"), fv.attach(model):
        model(**inputs("gpt2"))
    assert torch.equal(logits(model(**inputs("gpt2"))), want)


@torch.no_grad()
def test_a_forward_that_reaches_a_part() -> None:
    model = build("llama")
    model.model.layers[1].forward = lambda hidden, **options: hidden
    with pytest.raises(fv.FoveateError, match=r"1 of 2.*'decoder'.*layers\.1\.self_attn"):
        with fv.attach(model):
            model(**inputs("llama"))


@torch.no_grad()
def test_attention_that_is_not_what_it_seems(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose own function does something of its own: passthrough only."""
    from transformers.models.llama import modeling_llama as file

    from foveate.adapters import probe

    plain = file.eager_attention_forward

    def strange(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        return plain(module, query, key, value * 1.5, mask, **options)

    monkeypatch.setattr(probe, "_passed", set())
    monkeypatch.setattr(file, "eager_attention_forward", strange)
    model = build("llama", "eager")
    want = logits(model(**inputs("llama")))
    with pytest.raises(fv.FoveateError, match="not the one foveate would compute"):
        with fv.attach(model, fv.Measure(fv.entropy())):
            model(**inputs("llama"))
    with fv.attach(model):
        assert torch.equal(logits(model(**inputs("llama"))), want)


@torch.no_grad()
def test_an_argument_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama import modeling_llama as file

    plain = file.eager_attention_forward

    def curved(
        module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float,
        curvature: float | None = None, **rest: Any,
    ) -> Any:  # fmt: skip
        return plain(module, query, key, value, mask, scaling)

    monkeypatch.setattr(file, "eager_attention_forward", curved)
    model = build("llama", "eager")
    with fv.attach(model, fv.Measure(fv.entropy())):
        model(**inputs("llama"))
    with pytest.raises(fv.FoveateError, match="takes curvature"):
        with fv.attach(model, fv.Measure(fv.entropy())):
            model(**inputs("llama"), curvature=1.0)


@torch.no_grad()
def test_a_mask_of_a_strange_shape() -> None:
    model, hidden = build("llama"), torch.randn(2, 11, 32)
    module = model.model.layers[0].self_attn
    places = model.model.rotary_emb(hidden, torch.arange(11)[None])
    with fv.attach(model, fv.Measure(fv.entropy())):
        with pytest.raises(fv.FoveateError, match=r"Tensor of shape \(11, 11\)"):
            module(hidden, position_embeddings=places, attention_mask=torch.ones(11, 11))


@torch.no_grad()
def test_shared_layers_have_no_measure() -> None:
    import transformers

    config = transformers.AlbertConfig(
        vocab_size=64, embedding_size=16, hidden_size=32, intermediate_size=48,
        num_hidden_layers=3, num_attention_heads=4,
    )  # fmt: skip
    model, ids = transformers.AlbertModel(config).eval(), inputs("llama")["input_ids"]
    with fv.attach(model, fv.Emphasize("r", 3.0), regions=R) as run:
        model(ids)
    assert run.calls[0].edited == 3
    with pytest.raises(fv.FoveateError, match="several times in one forward"):
        with fv.attach(model, fv.Measure(fv.entropy())):
            model(ids)


class TestEncoderDecoder:
    """A prompt's regions mark the encoder's tokens."""

    prompt = SimpleNamespace(
        regions={"r": torch.arange(11)[None] < 4, "system": torch.zeros(1, 11) > 0}
    )

    def test_the_default_stack_is_refused_with_the_ones_to_name(self) -> None:
        with pytest.raises(fv.FoveateError, match="stack='cross' or 'encoder'"):
            fv.attach(build("t5"), fv.Emphasize("r", 2.0), prompt=self.prompt)
        with pytest.raises(fv.FoveateError, match="are the encoder's"):
            fv.attach(build("t5"), fv.Measure(fv.mass("r"), stack="decoder"), prompt=self.prompt)

    @torch.no_grad()
    def test_other_stacks_are_passed_over(self) -> None:
        model = build("t5")
        with fv.attach(model, fv.Emphasize("r", 2.0, stack="all"), prompt=self.prompt) as run:
            model(**inputs("t5"))
        assert {c.stack: c.state for c in run.coverage} == {
            "encoder": "touched",
            "cross": "touched",
            "decoder": "passed over",
        }
        assert "tokens of the encoder" in next(iter(run.coverage.passed_over.values()))

    @torch.no_grad()
    def test_other_regions_decide_by_length(self) -> None:
        model, given = build("bart"), inputs("bart")
        method = fv.Emphasize("r", 2.0, stack="all")
        with fv.attach(model, method, regions={"r": torch.arange(7) < 2}) as run:
            model(**given)
        assert {c.stack for c in run.coverage if c.state == "touched"} == {"decoder"}
        with pytest.raises(fv.FoveateError, match=r"acts nowhere: .* 9 positions"):
            with fv.attach(model, method, regions={"r": torch.arange(9) < 2}):
                model(**given)
        with pytest.raises(fv.FoveateError, match=r"Give stack='(cross|encoder)'"):
            with fv.attach(model, fv.Emphasize("r", 2.0), regions={"r": torch.arange(11) < 2}):
                model(**given)


@torch.no_grad()
def test_a_region_that_fits_no_patch() -> None:
    model = build("vit")
    with pytest.raises(fv.FoveateError, match="11 positions, the site 5 keys"):
        with fv.attach(model, up(), regions=R):
            model(**inputs("vit"))
