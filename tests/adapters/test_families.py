"""Every family: passthrough bitwise, measures and gains against its own eager attention."""

from __future__ import annotations

from inspect import getsource
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from families import BY_NAME, DECODERS, NAMES, build, inputs, logits, maps
from foveate.adapters.sites import sites
from oracle import gained, gained_unmasked


def pads(name: str) -> bool:
    return "ids" in BY_NAME[name].inputs or BY_NAME[name].inputs in ("both", "text and image")


CASES = [
    pytest.param(name, padded, id=f"{name}-{padded or 'full'}")
    for name in NAMES
    for padded in (None, "left", "right")
    if padded is None or pads(name)
]


def real(given: dict[str, Tensor], stack: str) -> Tensor | None:
    """Real queries of a stack, bool ``[B, Sq]``; None where all are."""
    mask = given.get("attention_mask")
    theirs = ("encoder",) if "decoder_input_ids" in given else ("decoder", "encoder", "text")
    return mask.bool() if mask is not None and stack in theirs else None


def close(got: Tensor, want: Tensor, rows: Tensor | None, tolerance: float = 1e-5) -> None:
    """Equal relative to the largest value, on real rows ``[B, S]`` of ``[B, …, S, …]``."""
    assert got.shape == want.shape
    if rows is not None:
        got, want = got[rows], want[rows]
    assert torch.isfinite(got).all()
    assert float((got - want).abs().max() / want.abs().max()) < tolerance


@pytest.mark.parametrize(("name", "padded"), CASES)
@torch.no_grad()
def test_passthrough_is_bitwise(name: str, padded: str | None) -> None:
    model, given = build(name), inputs(name, padded=padded)
    want = logits(model(**given))
    with fv.attach(model) as run:
        got = logits(model(**given))
    assert torch.equal(got, want)
    assert len(run.calls) == 1
    assert run.calls[0].sites == {stack: 2 for stack in BY_NAME[name].maps}
    assert run.calls[0].edited == 0 and run.coverage.touched == []


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_passthrough_is_bitwise_on_eager(name: str) -> None:
    model, given = build(name, "eager"), inputs(name)
    if name == "modernbert" and '!= "eager"' in getsource(type(model.layers[0].attn)):
        with pytest.raises(fv.FoveateError, match="reached none"), fv.attach(model):
            model(**given)  # transformers before 5.7: on eager it asked nobody
        return
    want = model(**given, output_attentions=True)
    with fv.attach(model):
        got = model(**given, output_attentions=True)
    assert torch.equal(logits(got), logits(want))
    for key, value in want.items():
        if "attentions" in key:
            assert all(torch.equal(a, b) for a, b in zip(got[key], value, strict=True))


@pytest.mark.parametrize(("name", "padded"), CASES)
@torch.no_grad()
def test_measuring_changes_nothing_and_equals_the_eager_maps(name: str, padded: str | None) -> None:
    model, given = build(name), inputs(name, padded=padded)
    want = logits(model(**given))
    reads = (fv.mass("r"), fv.max(), fv.distance(), fv.received(), fv.rows([-1]), fv.top(2))
    oracle, reached = maps(name, given), {site.reach for site in sites(model)}
    for stack, probabilities in oracle.items():
        keys = probabilities.shape[-1]
        region = torch.zeros(keys, dtype=torch.bool)
        region[1:4] = True
        # an encoder–decoder's decoder decides by the length it began with
        with fv.attach(model, fv.Measure(*reads, stack=stack), regions={"r": region}) as run:
            got = logits(model(**given))
        rows = real(given, stack)
        close(got, want, rows if got.shape[1:2] == (11,) else None)
        take = (lambda x: x) if rows is None else (lambda x: x.movedim(-1, 2)[:, rows])
        result = run.results
        close(take(result["mass:r"].prefill), take(probabilities[..., 1:4].sum(-1)), None)
        close(take(result["max"].prefill), take(probabilities.amax(-1)), None)
        queries = probabilities.shape[-2]
        back = (torch.arange(queries)[:, None] - torch.arange(keys)).abs()
        close(take(result["distance"].prefill), take((probabilities * back).sum(-1)), None)
        counted = probabilities if rows is None else probabilities * rows[:, None, :, None]
        if rows is None or "interface" in reached:  # a softmax is not told of padded queries
            close(result["received"].prefill, counted.sum(-2), None)
        if rows is None or bool(rows[:, -1].all()):
            close(result["rows"].prefill[..., 0, :], probabilities[..., -1, :], None)
        close(
            take(result["top.values"].prefill[..., 1]),
            take(probabilities.topk(2, -1)[0][..., 1]),
            None,
        )


@pytest.mark.parametrize(("name", "padded"), CASES)
@torch.no_grad()
def test_gains_equal_the_eager_model_with_a_term_on_its_masks(
    name: str, padded: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(name, padded=padded)
    model, eager = build(name), build(name, "eager")
    own = sites(model)
    encoder = 11 if "decoder" in BY_NAME[name].maps and "cross" in BY_NAME[name].maps else None
    if name == "whisper":
        encoder = 10
    for stack in BY_NAME[name].maps:
        keys = {"vision": 5, "decoder": 7 if encoder else 11}.get(stack, encoder or 11)
        region = torch.zeros(2, keys, dtype=torch.bool)
        region[0, 1:6], region[1, 2:4] = True, True
        with fv.attach(model, fv.Emphasize("r", 4.0, stack=stack), regions={"r": region}) as run:
            got = logits(model(**given))
        masked = gained(monkeypatch, region, 4.0, stack if encoder else "only", encoder)
        module = next(site.module for site in own if site.stack == stack)
        if stack == "vision" or (name == "whisper" and stack != "decoder"):
            masked = gained_unmasked(
                monkeypatch, module, region, 4.0, 7 if stack == "cross" else keys
            )
        elif name == "clip":
            masked = gained(monkeypatch, region, 4.0)
        with masked:
            want = logits(eager(**given))
        rows = given["attention_mask"].bool() if "attention_mask" in given else None
        close(got, want, rows if got.shape[1:2] == (11,) else None)
        assert not torch.allclose(got, logits(eager(**given)), rtol=1e-3)
        assert len(run.coverage.touched) == 2


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("padded", [None, "left"])
@torch.no_grad()
def test_generate_equals_the_eager_model(
    name: str, padded: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(name, padded=padded)
    region = torch.zeros(2, 11, dtype=torch.bool)
    region[0, 4:8], region[1, 2:4] = True, True
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    methods = (fv.Emphasize("r", 9.0), fv.Emphasize("generated", 0.25))
    model = build(name)
    with fv.attach(model, *methods, fv.Measure(fv.mass("generated")), regions={"r": region}) as run:
        got = model.generate(**given, **options)
    with gained(monkeypatch, region, 9.0, generated=0.25):
        want = build(name, "eager").generate(**given, **options)
    assert torch.equal(got.sequences, want.sequences)
    for ours, theirs in zip(got.logits, want.logits, strict=True):
        close(ours, theirs, None)
    assert [call.phase for call in run.calls] == ["prefill"] + ["decode"] * 7
    assert [call.step for call in run.calls] == list(range(8))
    assert float(run.results["mass:generated"].prefill.abs().max()) == 0.0
    assert float(run.results["mass:generated"].decode.min()) > 0.0
