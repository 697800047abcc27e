"""Every way to run a model that docs/day-one.md lists: it works, or a sentence refuses it.

"Works" is said of a gain and of measures together, against the same model run plainly under the
same methods; what a gain does there is compared with eager attention in tests/adapters.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foveate as fv
from families import build, inputs, logits
from foveate.adapters import probe
from foveate.adapters.generation import Standin
from foveate.methods._scope import Scope

R = {"r": torch.arange(11) < 4}
GREEDY: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
GIVEN = inputs("llama")


def methods() -> tuple[Any, ...]:
    return fv.Emphasize("r", 5.0), fv.Measure(fv.mass("r"), fv.entropy())


def forward(model: nn.Module, given: dict[str, Tensor] = GIVEN) -> tuple[Tensor, Any]:
    with fv.attach(model, *methods(), regions=R) as run:
        return logits(model(**given)), run


@pytest.fixture(scope="module")
def plain() -> tuple[Tensor, Any]:
    """What a plain forward of the attached model gives."""
    with torch.no_grad():
        return forward(build("llama"))


@pytest.fixture(scope="module")
def text() -> tuple[Tensor, Any]:
    """What plain greedy generation gives under the methods."""
    model = build("llama")
    with fv.attach(model, *methods(), regions=R) as run:
        return model.generate(**GIVEN, **GREEDY), run


def alike(run: Any, other: Any, tolerance: float = 1e-5) -> None:
    for key in ("mass:r", "entropy"):
        for phase in ("prefill", "decode"):
            ours, theirs = (getattr(r.results[key], phase) for r in (run, other))
            assert ours.shape == theirs.shape
            assert torch.allclose(ours, theirs, atol=tolerance)


# -- where the weights are, and what they are ------------------------------------------------------
def one_device(model: nn.Module, folder: Path) -> Any:
    from accelerate import dispatch_model

    return dispatch_model(model, {"": "cpu"}, force_hooks=True)


def offloaded(model: nn.Module, folder: Path) -> Any:
    from accelerate import cpu_offload

    return cpu_offload(model, torch.device("cpu"))


def on_disk(model: nn.Module, folder: Path) -> Any:
    from accelerate import disk_offload

    return disk_offload(model, str(folder), torch.device("cpu"))


def from_pretrained(model: Any, folder: Path) -> Any:
    import transformers

    model.save_pretrained(folder)
    places = dict.fromkeys(
        ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu"
    )
    places |= {"model.layers.0": "cpu", "model.layers.1": "disk"}
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, device_map=places, offload_folder=str(folder / "off")
    )


@pytest.mark.parametrize("place", [one_device, offloaded, on_disk, from_pretrained])
@torch.no_grad()
def test_device_maps(
    place: Callable[[Any, Path], Any], plain: Any, text: Any, tmp_path: Path
) -> None:
    """accelerate replaces each module's forward; weights come and go around it."""
    pytest.importorskip("accelerate")
    model = place(build("llama"), tmp_path)
    bare = logits(model(**GIVEN))
    with fv.attach(model) as run:
        assert torch.equal(logits(model(**GIVEN)), bare)
    assert run.calls[0].sites == {"decoder": 2}
    got, run = forward(model)
    assert torch.equal(got, plain[0])
    alike(run, plain[1])
    with fv.attach(model, *methods(), regions=R):
        assert torch.equal(model.generate(**GIVEN, **GREEDY), text[0])
    assert torch.equal(logits(model(**GIVEN)), bare)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision(dtype: torch.dtype, plain: Any) -> None:
    got, run = forward(build("llama").to(dtype))
    unit = torch.finfo(dtype).eps
    assert got.dtype == dtype and run.results["mass:r"].prefill.dtype == torch.float32
    assert float((got.float() - plain[0]).abs().max()) < 16 * unit * float(plain[0].abs().max())
    alike(run, plain[1], tolerance=16 * unit)


@torch.no_grad()
def test_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is the first that is seen of a class of modules, and checks it."""
    monkeypatch.setattr(probe, "_passed", set())
    model, eager = build("llama"), build("llama", "eager")
    with torch.autocast("cpu", torch.bfloat16):
        bare = logits(model(**GIVEN))
        with fv.attach(model):
            assert torch.equal(logits(model(**GIVEN)), bare)
        with fv.attach(model, methods()[1], regions=R) as run:
            got = logits(model(**GIVEN))
        maps = torch.stack(eager(**GIVEN, output_attentions=True).attentions).float()
    assert got.dtype == torch.bfloat16 and float((got - bare).abs().max()) < 0.1
    want = (maps * R["r"]).sum(-1)
    mass = run.results["mass:r"].prefill
    assert mass.dtype == torch.float32 and float((mass - want).abs().max()) < 0.03


@torch.no_grad()
def test_inference_mode(plain: Any) -> None:
    with torch.inference_mode():
        got, run = forward(build("llama"))
    assert torch.equal(got, plain[0])
    alike(run, plain[1])


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_layers_quantised_to_int8() -> None:
    """The attention between the layers is what it was; the same weights give the same measures."""
    quantise = torch.ao.quantization.quantize_dynamic
    model = quantise(build("llama", "eager"), {nn.Linear}, dtype=torch.qint8)
    bare = model(**GIVEN, output_attentions=True)
    with fv.attach(model):
        assert torch.equal(logits(model(**GIVEN)), bare.logits)
    with fv.attach(model, methods()[1], regions=R) as run:
        model(**GIVEN)
    want = (torch.stack(bare.attentions) * R["r"]).sum(-1)
    # quantised activations jump where they are rounded: layers behind the first see a little of it
    assert torch.allclose(run.results["mass:r"].prefill[0], want[0], atol=1e-5)
    assert torch.allclose(run.results["mass:r"].prefill, want, atol=0.02)
    with fv.attach(model, *methods(), regions=R) as run:
        model.generate(**GIVEN, **GREEDY)
    assert run.results["mass:r"].decode.shape == (2, 2, 4, 4)


@torch.no_grad()
def test_peft(text: Any) -> None:
    if importlib.util.find_spec("peft") is None:
        pytest.skip("peft is not installed")
    import peft

    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(build("llama"), config).eval()
    bare = logits(model(**GIVEN))
    with fv.attach(model):
        assert torch.equal(logits(model(**GIVEN)), bare)
    got, run = forward(model)
    want, merged = forward(copy.deepcopy(model).merge_and_unload())
    assert torch.allclose(got, want, atol=1e-5)
    alike(run, merged)
    with fv.attach(model, *methods(), regions=R), model.disable_adapter():
        assert torch.equal(model.generate(**GIVEN, **GREEDY), text[0])


def by_torchao(folder: Path) -> Any:
    quantization = pytest.importorskip("torchao.quantization")
    model = build("llama")
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


def by_bitsandbytes(folder: Path) -> Any:
    pytest.importorskip("bitsandbytes")
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=256, intermediate_size=512, num_hidden_layers=2,
        num_attention_heads=4,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    four = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=four, device_map="cpu"
    )


@pytest.mark.parametrize("quantised", [by_torchao, by_bitsandbytes])
@torch.no_grad()
def test_layers_quantised_by_other_libraries(
    quantised: Callable[[Path], Any], tmp_path: Path
) -> None:
    """Where the library is installed; CI goes without."""
    model = quantised(tmp_path)
    bare = logits(model(**GIVEN))
    with fv.attach(model):
        assert torch.equal(logits(model(**GIVEN)), bare)
    with fv.attach(model, methods()[1], regions=R) as run:
        assert torch.allclose(logits(model(**GIVEN)), bare, atol=1e-4)
    model.set_attn_implementation("eager")
    want = torch.stack(model(**GIVEN, output_attentions=True).attentions)
    mass = run.results["mass:r"].prefill
    assert torch.allclose(mass, (want * R["r"]).sum(-1), atol=1e-4)


# -- training --------------------------------------------------------------------------------------
def dropping(p: float) -> Any:
    model = build("llama")
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = p
    return model.train()


@pytest.mark.parametrize("way", methods())
def test_attention_dropout_is_refused_where_attention_is_edited_or_measured(way: Any) -> None:
    model = dropping(0.5)
    with pytest.raises(fv.FoveateError, match=r"p=0\.5.*model\.eval\(\).*attention_dropout=0"):
        with fv.attach(model, way, regions=R):
            model(**GIVEN)


def test_attention_dropout_under_what_leaves_attention_alone() -> None:
    """Passthrough, and edits of head outputs, run the model's own attention, dropout and all."""
    model = dropping(0.5)
    torch.manual_seed(0)
    want = logits(model(**GIVEN))
    torch.manual_seed(0)
    with fv.attach(model):
        assert torch.equal(logits(model(**GIVEN)), want)

    def without_heads(module: nn.Module, args: Any) -> Any:
        return (args[0].unflatten(-1, (4, 8)) * torch.tensor([0.0, 1, 1, 1])[:, None]).flatten(-2)

    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(without_heads)
        for layer in model.model.layers
    ]
    torch.manual_seed(0)
    want = logits(model(**GIVEN))
    for handle in handles:
        handle.remove()
    torch.manual_seed(0)
    with fv.attach(model, fv.Ablate(heads=[0])):
        assert torch.allclose(logits(model(**GIVEN)), want, atol=1e-5)


def test_training_mode_without_dropout(plain: Any) -> None:
    got, run = forward(dropping(0.0))
    assert torch.allclose(got, plain[0], atol=1e-5)
    alike(run, plain[1])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_steps(checkpointing: bool) -> None:
    """Three steps of gradient descent with a gain, attached once and attached for each."""

    def trained(attach_once: bool) -> list[Tensor]:
        model = build("llama").train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        optimiser = torch.optim.SGD(model.parameters(), 0.1)

        def step() -> None:
            loss = model(**GIVEN, labels=GIVEN["input_ids"], use_cache=False).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()

        if attach_once:
            with fv.attach(model, *methods(), regions=R) as run:
                for _ in range(3):
                    step()
            assert len(run.calls) == 3
        else:
            for _ in range(3):
                with fv.attach(model, *methods(), regions=R):
                    step()
        return [p.detach() for p in model.parameters()]

    once, each = trained(True), trained(False)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(once, each, strict=True))
    moved = zip(once, build("llama").parameters(), strict=True)
    assert all(not torch.equal(a, b) for a, b in moved)


@pytest.mark.filterwarnings("ignore")
def test_the_trainer(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    import transformers

    rows = [{"input_ids": ids, "labels": ids} for ids in GIVEN["input_ids"]] * 2
    model = build("llama")
    options = transformers.TrainingArguments(
        str(tmp_path), per_device_train_batch_size=2, max_steps=2, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True, logging_strategy="no", gradient_accumulation_steps=2,
    )  # fmt: skip
    trainer = transformers.Trainer(model, options, train_dataset=rows)
    with fv.attach(model, *methods(), regions=R) as run:
        trainer.train()
    assert len(run.calls) >= 2 and {call.edited for call in run.calls} == {2}


# -- ways of generate ------------------------------------------------------------------------------
def test_sampling_draws_what_it_would(text: Any) -> None:
    model, options = build("llama"), GREEDY | {"do_sample": True, "num_return_sequences": 3}
    torch.manual_seed(0)
    want = model.generate(**GIVEN, **options)
    torch.manual_seed(0)
    with fv.attach(model):
        assert torch.equal(model.generate(**GIVEN, **options), want)
    with fv.attach(model, *methods(), regions=R) as run:
        model.generate(**GIVEN, **options)
    mass = run.results["mass:r"]
    assert mass.decode.shape == (2, 6, 4, 4)
    for i in range(3):  # the copies of an item share its prefill
        first = text[1].results["mass:r"].prefill
        assert torch.allclose(mass.prefill[:, i::3], first, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 2, "do_sample": True},
        {"num_beams": 2, "length_penalty": 0.5, "early_stopping": True},
    ],
    ids=["several", "sampled", "early"],
)
def test_beams(options: dict[str, Any]) -> None:
    """The text of beams under a gain is that of a model run without a cache, row by row."""

    def generated(**more: Any) -> tuple[Tensor, Any]:
        model = build("llama")
        torch.manual_seed(0)
        with fv.attach(model, *methods(), regions=R) as run:
            return model.generate(**GIVEN, **(GREEDY | options), **more), run

    (got, run), (want, _) = generated(), generated(use_cache=False)
    assert torch.equal(got, want)
    beams = options["num_beams"]
    assert {call.batch for call in run.calls} == {2 * beams}
    assert run.results["mass:r"].decode.shape == (2, 2 * beams, 4, 4)


@pytest.mark.parametrize("cache", ["static", "sliding_window", "hybrid"])
@pytest.mark.filterwarnings("ignore")
def test_caches_by_name(cache: str, text: Any) -> None:
    model = build("llama")
    with fv.attach(model, *methods(), regions=R) as run:
        got = model.generate(**GIVEN, **GREEDY, cache_implementation=cache)
    assert torch.equal(got, text[0])
    alike(run, text[1])


def test_a_quantised_cache() -> None:
    pytest.importorskip("optimum.quanto")
    model = build("llama")
    config = {"backend": "quanto", "q_group_size": 8, "residual_length": 4}
    options = GREEDY | {"cache_implementation": "quantized", "cache_config": config}
    bare = model.generate(**GIVEN, **options)
    with fv.attach(model):
        assert torch.equal(model.generate(**GIVEN, **options), bare)
    with fv.attach(model, methods()[1], regions=R) as run:
        assert torch.equal(model.generate(**GIVEN, **options), bare)
    assert [call.start for call in run.calls] == [0, 11, 12, 13, 14]
    assert run.results["mass:r"].decode.shape == (2, 2, 4, 4)


@pytest.mark.parametrize(
    "options",
    [
        {"prefill_chunk_size": 4},
        {"use_cache": False},
        {"repetition_penalty": 1.0, "renormalize_logits": True},
    ],
    ids=["chunks", "no cache", "processors"],
)
def test_options_that_do_not_change_the_text(options: dict[str, Any], text: Any) -> None:
    model = build("llama")
    with fv.attach(model, *methods(), regions=R) as run:
        got = model.generate(**GIVEN, **GREEDY, **options)
    assert torch.equal(got, text[0])
    if "use_cache" not in options:
        alike(run, text[1])


def test_embeddings_instead_of_ids(text: Any) -> None:
    model = build("llama")
    embeds = model.get_input_embeddings()(GIVEN["input_ids"])
    with fv.attach(model, *methods(), regions=R) as run:
        got = model.generate(inputs_embeds=embeds, **GREEDY)
    assert torch.equal(got, text[0][:, 11:])
    alike(run, text[1])


def test_a_second_turn_on_the_same_cache(text: Any) -> None:
    """`decode` holds the last turn; its numbers are those of the whole text in one prefill."""
    from transformers import DynamicCache

    model = build("llama")
    cache = DynamicCache(config=model.config)
    with fv.attach(model, *methods(), regions=R) as run:
        first = model.generate(**GIVEN, **GREEDY, past_key_values=cache)
        more = torch.cat([first, GIVEN["input_ids"][:, :4]], dim=1)
        options = GREEDY | {"max_new_tokens": 3, "attention_mask": torch.ones_like(more)}
        second = model.generate(more, **options, past_key_values=cache)
    with fv.attach(model, *methods(), regions=R) as whole:
        model(second[:, :-1])
    mass, want = run.results["mass:r"], whole.results["mass:r"].prefill
    assert mass.steps == [1, 2] and torch.allclose(mass.decode, want[..., -2:], atol=1e-5)
    assert mass.positions.tolist() == [*range(11), *range(15, 20)]
    assert torch.allclose(mass.prefill, want[..., mass.positions], atol=1e-5)


class Looks:
    """A method that asks for the call's tensors, as fv.ACT does."""

    scope, looks = Scope(), True

    def rewrite(self, program: Any, site: Any, call: Any) -> Any:
        return program


def drafts(way: str) -> dict[str, Any]:
    return (
        {"assistant_model": build("qwen3")} if way == "model" else {"prompt_lookup_num_tokens": 3}
    )


@pytest.mark.parametrize("way", ["model", "lookup"])
def test_assisted_decoding(way: str) -> None:
    """Gains: the same text. What counts steps is refused before the first forward."""
    model, given = build("llama"), inputs("llama", batch=1)
    options = GREEDY | {"max_new_tokens": 14}
    with fv.attach(model, fv.Emphasize("r", 5.0), fv.Ablate(heads=[1]), regions=R):
        want = model.generate(**given, **options)
        got = model.generate(**given, **options, **drafts(way))
    assert torch.equal(got, want)
    bare = model.generate(**given, **options, **drafts(way))
    with fv.attach(model):
        assert torch.equal(model.generate(**given, **options, **drafts(way)), bare)
    for method in (
        fv.Measure(fv.entropy()),
        fv.Emphasize("r", 5.0, phase="decode"),
        fv.Emphasize("r", 5.0, steps=[0, 1]),
        fv.Emphasize("generated", 2.0),
        Looks(),
    ):
        with pytest.raises(fv.FoveateError, match=r"Assisted decoding.*leave the assistant out"):
            with fv.attach(model, method, regions=R) as run:
                model.generate(**given, **options, **drafts(way))
        assert run.calls == []
    assert torch.equal(model.generate(**given, **options, **drafts(way)), bare)


def test_assisted_decoding_by_the_models_own_first_layers() -> None:
    model, given = build("llama"), inputs("llama", batch=1)
    with pytest.raises(fv.FoveateError, match="reached 1 of 2 attention sites"):
        with fv.attach(model, fv.Emphasize("r", 5.0), regions=R):
            model.generate(**given, **GREEDY, assistant_early_exit=1)


def test_guidance_by_a_second_prompt_is_refused() -> None:
    model = build("llama")
    want = model.generate(**GIVEN, **GREEDY, guidance_scale=1.5)
    for method in methods():
        with pytest.raises(fv.FoveateError, match=r"guidance_scale.*unconditional prompt"):
            with fv.attach(model, method, regions=R):
                model.generate(**GIVEN, **GREEDY, guidance_scale=1.5)
    with fv.attach(model):
        assert torch.equal(model.generate(**GIVEN, **GREEDY, guidance_scale=1.5), want)
    with fv.attach(model, *methods(), regions=R):
        model.generate(**GIVEN, **GREEDY, guidance_scale=1.0)


def test_continuous_batching_is_refused_where_it_is_asked_for() -> None:
    """Not on the worker thread, whose errors transformers only logs."""
    import transformers

    model, rows = build("llama"), GIVEN["input_ids"].tolist()
    config = transformers.GenerationConfig(**GREEDY)
    with pytest.raises(fv.FoveateError, match=r"Continuous batching.*model.generate"):
        with fv.attach(model, *methods(), regions=R):
            model.generate_batch(inputs=rows, generation_config=config)
    with pytest.raises(fv.FoveateError, match="Continuous batching"):
        with fv.attach(model, *methods(), regions=R):
            model.generate(**GIVEN, **GREEDY, cache_implementation="paged")


def test_the_attentions_of_generate_are_refused() -> None:
    model = build("llama")
    with pytest.raises(fv.FoveateError, match="output_attentions"):
        with fv.attach(model, *methods(), regions=R):
            model.generate(**GIVEN, **GREEDY, return_dict_in_generate=True, output_attentions=True)


def test_scores_and_hidden_states_of_generate(text: Any) -> None:
    model, options = build("llama"), GREEDY | {"return_dict_in_generate": True}
    with fv.attach(model, *methods(), regions=R):
        got = model.generate(**GIVEN, **options, output_scores=True, output_hidden_states=True)
    assert torch.equal(got.sequences, text[0])
    assert torch.equal(torch.stack([s.argmax(-1) for s in got.scores], 1), text[0][:, 11:])
    assert len(got.hidden_states) == 5


def test_a_loop_of_ones_own(text: Any) -> None:
    """custom_generate, and whatever the hub loads into it, calls the model's forward."""

    def loop(model: Any, input_ids: Tensor, generation_config: Any, **options: Any) -> Tensor:
        cache = None
        for _ in range(generation_config.max_new_tokens):
            new = input_ids if cache is None else input_ids[:, -1:]
            output = model(new, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            input_ids = torch.cat([input_ids, output.logits[:, -1:].argmax(-1)], dim=1)
        return input_ids

    model = build("llama")
    with torch.no_grad(), fv.attach(model, *methods(), regions=R) as run:
        got = model.generate(GIVEN["input_ids"], **GREEDY, custom_generate=loop)
    assert torch.equal(got, text[0])
    alike(run, text[1])


# -- pipelines, streams and threads ----------------------------------------------------------------
def test_a_pipeline_and_a_stream(smollm2: Any) -> None:
    """The text of a pipeline, and of a stream read while another thread generates."""
    import transformers

    model, tokenizer = smollm2
    prompt = fv.Prompt(tokenizer, "The keeper of the lighthouse said that").mark("k", "keeper")
    ways = (fv.Emphasize("k", 4.0), fv.Measure(fv.mass("k")))
    options = {"max_new_tokens": 6, "do_sample": False}
    with fv.attach(model, *ways, prompt=prompt) as want:
        ids = model.generate(**prompt.inputs, **options)
    said = tokenizer.decode(ids[0, prompt.length :])

    pipe = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    with fv.attach(model, *ways, prompt=prompt) as run:
        found = pipe(prompt.texts[0], return_full_text=False, **options)
    assert found[0]["generated_text"] == said
    key = "mass:k"
    assert torch.allclose(run.results[key].decode, want.results[key].decode, atol=1e-5)

    streamer = transformers.TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    with fv.attach(model, *ways, prompt=prompt) as run:
        given = {**prompt.inputs, **options, "streamer": streamer}
        thread = threading.Thread(target=model.generate, kwargs=given)
        thread.start()
        pieces = list(streamer)
        thread.join()
    assert "".join(pieces) == said and len(pieces) > 1
    assert torch.allclose(run.results[key].decode, want.results[key].decode, atol=1e-5)


def in_threads(count: int, work: Callable[[], Any]) -> list[BaseException]:
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_gains_in_several_threads_at_once(text: Any) -> None:
    model = build("llama")

    def work() -> None:
        for _ in range(4):
            assert torch.equal(model.generate(**GIVEN, **GREEDY), text[0])

    with fv.attach(model, fv.Emphasize("r", 5.0), regions=R) as run:
        assert in_threads(3, work) == []
    assert len(run.calls) == 60


def test_measures_of_two_sequences_at_once_are_refused() -> None:
    """Thread A prefills, thread B prefills, A decodes: its steps would be counted behind B's."""
    model, gone = build("llama"), threading.Event()

    def second() -> None:
        with torch.no_grad():
            model(**GIVEN)
        gone.set()

    def first() -> Any:
        cache = model(**GIVEN, use_cache=True).past_key_values
        threading.Thread(target=second).start()
        gone.wait(30)
        return model(GIVEN["input_ids"][:, :1], past_key_values=cache)

    with torch.no_grad():
        with pytest.raises(fv.FoveateError, match=r"Two threads.*a lock around generate"):
            with fv.attach(model, *methods(), regions=R):
                first()
        gone.clear()
        with fv.attach(model, fv.Emphasize("r", 5.0), regions=R):
            first()


def test_threads_that_take_turns_are_measured(text: Any) -> None:
    model = build("llama")
    with fv.attach(model, *methods(), regions=R) as run:
        for _ in range(3):
            assert in_threads(1, lambda: model.generate(**GIVEN, **GREEDY)) == []
    alike(run, text[1])


# -- compiled, traced, copied ----------------------------------------------------------------------
def test_a_compiled_wrapper_is_refused() -> None:
    model = build("llama")
    with pytest.raises(fv.FoveateError, match=r"compiled model.*_orig_mod"):
        fv.attach(torch.compile(model, backend="eager"))  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["whole", "layers", "wrapped layers"])
@torch.no_grad()
def test_what_is_compiled_in_place(way: str, plain: Any) -> None:
    model = build("llama")
    if way == "whole":
        model.compile(backend="eager")
    else:
        for i, layer in enumerate(model.model.layers):
            if way == "layers":
                layer.compile(backend="eager")
            else:
                model.model.layers[i] = torch.compile(layer, backend="eager")
    bare = logits(model(**GIVEN))
    got, run = forward(model)
    assert torch.allclose(got, plain[0], atol=1e-5)
    alike(run, plain[1])
    assert torch.equal(logits(model(**GIVEN)), bare)


@pytest.mark.parametrize("way", ["trace", "export"])
@pytest.mark.filterwarnings("ignore")
def test_tracing_an_attached_model_is_refused(way: str) -> None:
    model, ids = build("llama"), GIVEN["input_ids"]
    model.config.return_dict = False
    with pytest.raises(Exception, match="traced or exported while it is attached") as caught:
        with fv.attach(model, *methods(), regions=R):
            if way == "trace":
                torch.jit.trace(model, (ids,), strict=False)
            else:
                torch.export.export(model, (ids,), strict=False)
    assert isinstance(caught.value, fv.FoveateError)


@torch.no_grad()
def test_functional_calls(plain: Any) -> None:
    model = build("llama")
    twice = {name: value * 2 for name, value in model.named_parameters()}
    with fv.attach(model, *methods(), regions=R) as run:
        weights = dict(model.named_parameters())
        got = torch.func.functional_call(model, weights, (), GIVEN)
        other = torch.func.functional_call(model, twice, (), GIVEN)
    assert torch.equal(logits(got), plain[0]) and not torch.equal(logits(other), plain[0])
    assert len(run.calls) == 2


def test_transforms_of_functions_are_refused() -> None:
    model = build("llama")
    weights = dict(model.named_parameters())

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, weights, (), GIVEN).logits.square().mean()

    want = torch.func.grad(loss)(weights)
    with fv.attach(model):
        got = torch.func.grad(loss)(weights)
    assert all(torch.equal(got[name], want[name]) for name in want)
    for transform in (torch.func.grad, lambda f: lambda w: torch.func.jvp(f, (w,), (w,))):
        with pytest.raises(fv.FoveateError, match=r"torch\.func.*torch\.autograd\.grad"):
            with fv.attach(model, *methods(), regions=R):
                transform(loss)(weights)


def deepcopied(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)


def pickled(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("twin_of", [deepcopied, pickled, saved])
@torch.no_grad()
def test_a_copy_of_an_attached_model_is_the_model_alone(
    twin_of: Callable[[nn.Module], nn.Module],
) -> None:
    model = build("llama")
    bare, want = logits(model(**GIVEN)), model.generate(**GIVEN, **GREEDY)
    with fv.attach(model, *methods(), fv.Ablate(heads=[0]), regions=R) as run:
        twin: Any = twin_of(model)
        assert torch.equal(logits(twin(**GIVEN)), bare)
        assert torch.equal(twin.generate(**GIVEN, **GREEDY), want)
        assert run.calls == []
    assert torch.equal(logits(twin(**GIVEN)), bare)
    assert not any(isinstance(value, Standin) for value in vars(twin).values())
    with fv.attach(twin, *methods(), regions=R) as run:
        twin.generate(**GIVEN, **GREEDY)
    assert len(run.calls) == 5


@torch.no_grad()
def test_saving_an_attached_model(tmp_path: Path) -> None:
    import transformers

    model = build("llama")
    with fv.attach(model, *methods(), regions=R):
        model.save_pretrained(tmp_path)
    assert "foveate" not in (tmp_path / "config.json").read_text("utf-8")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again(**GIVEN)), logits(build("llama")(**GIVEN)))


# -- afterwards ------------------------------------------------------------------------------------
def test_results_outlive_the_block_and_the_model(tmp_path: Path) -> None:
    model = build("llama")
    with fv.attach(model, *methods(), regions=R) as run:
        model.generate(**GIVEN, **GREEDY)
    want = run.results["mass:r"].decode.clone()
    del model
    assert torch.equal(run.results["mass:r"].decode, want)
    again = type(run.results).load(run.results.save(tmp_path / "r.safetensors"))
    assert torch.equal(again["mass:r"].decode, want) and list(again) == list(run.results)
    assert "mass:r" in run._repr_html_()


def test_the_table_of_the_documentation_is_this_file() -> None:
    """Every row of docs/day-one.md names a test, and every test of a way has a row."""
    page = Path(__file__).parents[2] / "docs" / "day-one.md"
    rows = [line.split("|")[1:-1] for line in page.read_text("utf-8").splitlines()]
    named = {row[3].strip(" `") for row in rows if len(row) == 4} - {"", "test", "---"}
    here = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    here -= {
        "the_table_of_the_documentation_is_this_file",
        "results_outlive_the_block_and_the_model",
    }
    assert named == here


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(level)
