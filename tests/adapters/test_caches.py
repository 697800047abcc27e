"""Where keys come from a cache: chunks, static and sliding caches, beams, batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from families import DECODERS, build, inputs, maps
from oracle import gained

GREEDY: dict[str, Any] = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None}
STATIC = [name for name in DECODERS if name not in ("gpt2",)]


def region(batch: int = 2) -> Tensor:
    mask = torch.zeros(batch, 11, dtype=torch.bool)
    mask[0, 4:8], mask[-1, 2:5] = True, True
    return mask


def relative(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("padded", [None, "left"])
@pytest.mark.parametrize("chunks", [(4, 4, 3), (5, 6), (1, 10), (10, 1)])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_oss", "deepseek_v3"])
@torch.no_grad()
def test_chunks_of_a_prefill_are_one_prefill(
    name: str, chunks: tuple[int, ...], padded: str | None
) -> None:
    from transformers import DynamicCache

    model, given = build(name), inputs(name, padded=padded)
    ids, mask = given["input_ids"], given.get("attention_mask")
    methods = (fv.Emphasize("r", 6.0), fv.Measure(fv.mass("r"), fv.distance(), fv.received()))
    # the region's length says that a last chunk of one token is no decode step
    with fv.attach(model, *methods, regions={"r": region()}) as whole:
        want = model(**given).logits
    with fv.attach(model, *methods, regions={"r": region()}) as run:
        cache, got, start = DynamicCache(config=model.config), [], 0
        for size in chunks:
            stop = start + size
            seen = {} if mask is None else {"attention_mask": mask[:, :stop]}
            got.append(model(ids[:, start:stop], past_key_values=cache, **seen).logits)
            start = stop
    rows = torch.ones(2, 11, dtype=torch.bool) if mask is None else mask.bool()
    assert relative(torch.cat(got, 1)[rows], want[rows]) < 1e-5
    assert [call.phase for call in run.calls] == ["prefill"] * len(chunks)
    assert [call.start for call in run.calls] == [sum(chunks[:i]) for i in range(len(chunks))]
    for key in ("mass:r", "distance"):
        ours, theirs = (r.results[key].prefill.movedim(-1, 2)[:, rows] for r in (run, whole))
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(
        run.results["received"].prefill, whole.results["received"].prefill, atol=1e-4
    )


@pytest.mark.parametrize("padded", [None, "left"])
@pytest.mark.parametrize("name", STATIC)
@torch.no_grad()
def test_static_caches(name: str, padded: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = build(name), inputs(name, padded=padded)
    options = GREEDY | {"cache_implementation": "static", "disable_compile": True}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    plain = model.generate(**given, **options)
    with fv.attach(model):
        passed = model.generate(**given, **options)
    assert all(torch.equal(a, b) for a, b in zip(passed.logits, plain.logits, strict=True))
    methods = (fv.Emphasize("r", 9.0), fv.Emphasize("generated", 0.25), fv.Measure(fv.mass("r")))
    with fv.attach(model, *methods, regions={"r": region()}) as run:
        got = model.generate(**given, **options)
    with gained(monkeypatch, region(), 9.0, generated=0.25):
        want = build(name, "eager").generate(
            **given, **GREEDY, return_dict_in_generate=True, output_logits=True
        )
    assert torch.equal(got.sequences, want.sequences)
    for ours, theirs in zip(got.logits, want.logits, strict=True):
        assert relative(ours, theirs) < 1e-5
    assert [call.start for call in run.calls] == [0, *range(11, 19)]
    assert run.results["mass:r"].decode.shape == (2, 2, 4, 8)


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3", "gpt_oss"])
@torch.no_grad()
def test_sliding_caches_hold_only_the_window(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and decode behind a full window of 6: key offsets shift, regions move out of sight."""
    from transformers import DynamicCache

    ids = inputs(name, length=20)["input_ids"]
    wide = torch.zeros(2, 14, dtype=torch.bool)
    wide[0, 4:12], wide[1, 9:13] = True, True
    model, cache, got = build(name), None, []
    with fv.attach(
        model, fv.Emphasize("r", 9.0), fv.Measure(fv.mass("r")), regions={"r": wide}
    ) as run:
        cache = DynamicCache(config=model.config)
        for start, stop in ((0, 9), (9, 14), *((i, i + 1) for i in range(14, 20))):
            got.append(model(ids[:, start:stop], past_key_values=cache).logits)
    with gained(monkeypatch, wide, 9.0):
        want = build(name, "eager")(ids).logits
    assert relative(torch.cat(got, 1), want) < 1e-5
    assert [call.phase for call in run.calls] == ["prefill"] * 2 + ["decode"] * 6
    assert len(cache.layers) == 2
    # behind the window nothing of the region is seen
    assert bool((run.results["mass:r"].decode[:, :, :, -1] < 1e-6).any())


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
@torch.no_grad()
def test_beams_and_several_sequences(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = build(name), inputs(name, padded="left")
    options = {"max_new_tokens": 7, "eos_token_id": None, "num_beams": 3, "num_return_sequences": 2}
    options |= {"do_sample": False}
    with fv.attach(model, fv.Emphasize("r", 9.0), regions={"r": region()}) as run:
        got = model.generate(**given, **options)
    with gained(monkeypatch, region(), 9.0):
        want = build(name, "eager").generate(**given, **options)
    assert torch.equal(got, want)
    assert {call.batch for call in run.calls} == {6}


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_a_batch_is_its_rows(name: str) -> None:
    given = inputs(name, padded="left")
    model, row = build(name), {"input_ids": given["input_ids"][:1, 4:]}
    if name == "gpt2":  # learned positions count from the first real token
        given["position_ids"] = (given["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    reads = fv.Measure(fv.mass("r"), fv.entropy(), fv.received(), fv.block_map(3))
    with fv.attach(model, fv.Emphasize("r", 5.0), reads, regions={"r": region()}) as batch:
        want = model(**given).logits[:1, 4:]
    with fv.attach(model, fv.Emphasize("r", 5.0), reads, regions={"r": region()[0, 4:]}) as single:
        got = model(**row).logits
    assert relative(got, want) < 1e-5
    for key in ("mass:r", "entropy", "received"):
        both = batch.results[key].prefill[:, :1, :, 4:]
        assert torch.allclose(single.results[key].prefill, both, atol=1e-5)


@torch.no_grad()
def test_generate_without_a_cache_computes_every_step_anew() -> None:
    model, given = build("llama"), inputs("llama")
    methods = (fv.Emphasize("r", 9.0), fv.Measure(fv.mass("r")))
    with fv.attach(model, *methods, regions={"r": region()}):
        want = model.generate(**given, **GREEDY)
    with fv.attach(model, *methods, regions={"r": region()}) as run:
        got = model.generate(**given, **GREEDY, use_cache=False)
    assert torch.equal(got, want)
    assert [call.length for call in run.calls] == list(range(11, 20))
    assert run.results["mass:r"].prefill.shape == (2, 2, 4, 19)


@pytest.mark.parametrize("floating", [False, True])
@pytest.mark.parametrize("cached", [0, 5])
@torch.no_grad()
def test_a_mask_prepared_by_the_user_is_a_dense_bias(floating: bool, cached: int) -> None:
    """A mask that is no pattern foveate knows: everything visible, both ways, but one key."""
    from transformers import DynamicCache

    model, ids = build("llama"), inputs("llama")["input_ids"]
    seen = torch.ones(2, 1, 11, 11, dtype=torch.bool).tril(diagonal=2)
    seen[..., 3] = False
    seen[..., torch.arange(11), torch.arange(11)] = True
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo().min) if floating else seen
    cache = DynamicCache(config=model.config)

    def run(model: Any, cache: Any, **options: Any) -> Any:
        if cached:
            model(
                ids[:, :cached], past_key_values=cache, attention_mask=mask[..., :cached, :cached]
            )
        return model(
            ids[:, cached:], past_key_values=cache, attention_mask=mask[..., cached:, :], **options
        )

    want = run(model, cache).logits
    methods = (fv.Measure(fv.mass("r"), fv.distance()),)
    with fv.attach(model, *methods, regions={"r": region()}) as watched:
        got = run(model, DynamicCache(config=model.config)).logits
    assert relative(got, want) < 1e-5
    assert watched.calls[-1].start == cached
    if not cached and floating:
        p = maps("llama", {"input_ids": ids, "attention_mask": mask})["decoder"]
        share = (p * region()[:, None, None]).sum(-1)
        assert torch.allclose(watched.results["mass:r"].prefill, share, atol=1e-5)


@torch.no_grad()
def test_packed_sequences_stay_apart() -> None:
    model, ids = build("llama"), inputs("llama", batch=1)["input_ids"]
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]])
    first = torch.arange(11) < 5
    with fv.attach(model, fv.Measure(fv.mass("first")), regions={"first": first}) as run:
        got = model(ids, position_ids=positions, use_cache=False).logits
    assert torch.allclose(got[:, 5:], model(ids[:, 5:]).logits, atol=1e-5)
    mass = run.results["mass:first"].prefill
    assert torch.allclose(mass[..., :5], torch.ones(())) and float(mass[..., 5:].max()) == 0.0


@pytest.mark.parametrize("name", ["bart", "t5"])
@pytest.mark.parametrize("stack", ["encoder", "cross"])
@torch.no_grad()
def test_generate_with_an_encoder(name: str, stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(name, padded="right")
    del given["decoder_input_ids"]
    model = build(name)
    methods = (fv.Emphasize("r", 9.0, stack=stack), fv.Measure(fv.mass("r"), stack=stack))
    with fv.attach(model, *methods, regions={"r": region()}) as run:
        got = model.generate(**given, **GREEDY)
    with gained(monkeypatch, region(), 9.0, stack, 11):
        want = build(name, "eager").generate(**given, **GREEDY)
    assert torch.equal(got, want)
    assert run.calls[0].sites == {"encoder": 2}
    assert [call.step for call in run.calls[1:]] == list(range(9))
    with fv.attach(model, *methods, regions={"r": region()}):
        static = model.generate(**given, **GREEDY, cache_implementation="static")
    assert torch.equal(static, want)
    mass = run.results["mass:r"]
    assert mass.stacks == [stack]
    assert mass.prefill.shape == (2, 2, 4, 11 if stack == "encoder" else 1)
    assert stack == "encoder" or mass.decode.shape == (2, 2, 4, 8)


@pytest.mark.parametrize("name", ["bart", "t5"])
@torch.no_grad()
def test_the_decoder_behind_an_encoder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own tokens are regions by the length it began with; what it adds is `generated`."""
    given = inputs(name, padded="right")
    del given["decoder_input_ids"]
    model = build(name)
    methods = (fv.Emphasize("start", 0.5), fv.Emphasize("generated", 8.0))
    with fv.attach(model, *methods, regions={"start": torch.ones(1, dtype=torch.bool)}) as run:
        got = model.generate(**given, **GREEDY)
    with gained(monkeypatch, torch.ones(2, 1, dtype=torch.bool), 0.5, "decoder", 11, generated=8.0):
        want = build(name, "eager").generate(**given, **GREEDY)
    assert torch.equal(got, want)
    assert [call.phase for call in run.calls] == ["prefill", "prefill"] + ["decode"] * 8


@torch.no_grad()
def test_a_cache_is_continued_under_another_attachment() -> None:
    from transformers import DynamicCache

    model, ids = build("llama"), inputs("llama", length=14)["input_ids"]
    cache = DynamicCache(config=model.config)
    model(ids[:, :11], past_key_values=cache)
    methods = (fv.Emphasize("r", 6.0), fv.Measure(fv.mass("r"), fv.mass("generated")))
    for regions in ({"r": region()}, {"r": region(), "s": torch.ones(11, dtype=torch.bool)}):
        with fv.attach(model, *methods, regions=regions) as run:
            got = [model(ids[:, i : i + 1], past_key_values=cache).logits for i in range(11, 14)]
        assert [(c.phase, c.step, c.start) for c in run.calls] == [
            ("decode", i - 10, i) for i in range(11, 14)
        ]
        assert float(run.results["mass:generated"].decode[..., 0].max()) < 1.0
        cache.crop(-3)
    with fv.attach(model, fv.Measure(fv.mass("generated"))) as bare:
        model(ids[:, 11:12], past_key_values=cache)
    seen = bare.results["mass:generated"].decode
    assert 0.0 < float(seen.min()) and float(seen.max()) < 1.0
    # the keys of the prompt were made without the gain; the rest is as in one run
    assert torch.isfinite(torch.cat(got, 1)).all()
