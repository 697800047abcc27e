"""diffusers: denoisers reached through their processors; steps, layouts, guidance."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import denoisers
import foveate as fv
from denoisers import IMAGE, TEXT, denoiser, given
from foveate.adapters.processors import processor_of, reach_of, twin
from foveate.adapters.sites import sites, unreachable
from foveate.attach.denoising import Denoising
from foveate.errors import FoveateError
from foveate.methods._method import Method

pytest.importorskip("diffusers")

NAMES = list(denoisers.DENOISERS)
TEXTS = {"unet": "cross", "sd3": "joint", "flux": ("joint", "single"), "wan": "cross"}
FIRST = {"sd3": "image", "flux": "text"}
WORD = torch.zeros(TEXT, dtype=torch.bool)
WORD[2:4] = True


def total(name: str) -> int:
    """Keys of a site at which the text takes part."""
    return TEXT + IMAGE[name] if name in FIRST else TEXT


def spans(name: str) -> dict[str, slice]:
    """Text and image among the tokens of joint attention."""
    if FIRST[name] == "text":
        return {"text": slice(0, TEXT), "image": slice(TEXT, None)}
    return {"image": slice(0, IMAGE[name]), "text": slice(IMAGE[name], None)}


def state(model: nn.Module) -> dict[str, Any]:
    return {
        name: (type(module), dict(vars(module)), *(dict(vars(module)[t]) for t in TABLES))
        for name, module in model.named_modules()
    }


TABLES = ("_modules", "_forward_hooks", "_forward_pre_hooks", "_buffers")


class Oracle:
    """Attention written out in float64: a gain on keys at the sites that have as many."""

    def __init__(self, gains: dict[int, Tensor]) -> None:
        self.gains = gains
        self.maps: list[Tensor] = []

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
        dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, **rest: Any,
    ) -> Tensor:  # fmt: skip
        assert not is_causal and dropout_p == 0.0
        scores = query.double() @ key.double().mT * (scale or query.shape[-1] ** -0.5)
        if attn_mask is not None:
            scores = scores + attn_mask.double()
        if key.shape[-2] in self.gains:
            scores = scores + self.gains[key.shape[-2]].double().log()[:, None, None]
        probabilities = scores.softmax(-1)
        self.maps.append(probabilities)
        return (probabilities @ value.double()).to(value.dtype)


# -- what is reached -------------------------------------------------------------------------------
# Why the others are not reached, by a word of their name or their base's.
UNREACHED = {
    "XFormers": "a kernel of its own",
    "Natten": "a kernel of its own",
    "SanaLinear": "no softmax",
    "SanaMultiscale": "no softmax",
    "Sliced": "slices of heads that nothing tells apart",
}


def processors(modules: list[str]) -> dict[str, type]:
    """The classes of files of diffusers' that are called as a processor is."""
    import importlib

    found: dict[str, type] = {}
    for name in modules:
        try:
            module = importlib.import_module(name)
        except ImportError:  # flax and others that are not installed
            continue
        for name, cls in vars(module).items():
            if isinstance(cls, type) and "Processor" in name and callable(cls.__call__):
                names = inspect.signature(cls.__call__).parameters
                if "attn" in names and cls.__module__.startswith("diffusers."):
                    found[name] = cls
    return found


def shares(found: dict[str, type]) -> tuple[int, int, list[str]]:
    how = {name: reach_of(object.__new__(cls)) for name, cls in found.items()}
    others = [name for name, reach in how.items() if reach is None]
    for name in others:
        assert any(word in name or "SanaLinear" in name for word in UNREACHED), name
    counts = [list(how.values()).count(way) for way in ("rebound", "intercepted")]
    return counts[0], counts[1], others


def test_most_processors_are_covered() -> None:
    rebound, watched, others = shares(processors(["diffusers.models.attention_processor"]))
    assert rebound >= 27 and watched == 4 and len(others) <= 12
    assert rebound + watched >= 0.7 * (rebound + watched + len(others))


@pytest.mark.slow
def test_the_share_of_all_processors() -> None:
    import pkgutil

    import diffusers.models

    walked = pkgutil.walk_packages(diffusers.models.__path__, "diffusers.models.")
    rebound, watched, others = shares(processors([info.name for info in walked]))
    # 102, 6 and 13 in diffusers 0.42.1
    assert rebound + watched >= 108 and len(others) <= 13


STACKS = {
    "unet": {
        "unet.down.0.self": 1, "unet.down.0.cross": 1, "unet.mid.self": 1, "unet.mid.cross": 1,
        "unet.up.1.self": 2, "unet.up.1.cross": 2,
    },
    "sd3": {"joint": 2, "self": 1},
    "flux": {"joint": 1, "single": 2},
    "wan": {"self": 2, "cross": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_stacks(name: str) -> None:
    found = sites(denoiser(name))
    assert {site.stack: site.depth for site in found} == STACKS[name]
    assert {site.reach for site in found} == {"rebound"} and all(s.denoiser for s in found)
    assert {site.kind for site in found} == {stack.split(".")[-1] for stack in STACKS[name]}
    assert {site.order for site in found} == {
        {"sd3": "image first", "flux": "text first"}.get(name)
    }


def test_stacks_are_named_by_beginning_kind_and_pattern() -> None:
    found = sites(denoiser("unet"))

    def chosen(stack: Any) -> set[str]:
        return {site.stack for site in fv.Measure(fv.entropy(), stack=stack).scope.select(found, 0)}

    assert chosen("unet.down") == {"unet.down.0.self", "unet.down.0.cross"}
    assert chosen("unet.mid.self") == {"unet.mid.self"}
    assert chosen("cross") == {s for s in STACKS["unet"] if s.endswith("cross")}
    assert chosen("unet.*.self") == {s for s in STACKS["unet"] if s.endswith("self")}
    assert chosen(["unet.mid", "unet.up"]) == {s for s in STACKS["unet"] if "down" not in s}
    with pytest.raises(FoveateError, match=r"names a stack 'unet\.m'; the stacks"):
        chosen("unet.m")
    with pytest.raises(FoveateError, match="does not say which stack"):
        chosen(None)


# -- passthrough -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_passthrough_is_bitwise_and_leaves_nothing(name: str) -> None:
    model, inputs = denoiser(name), given(name)
    before, want = state(model), model(**inputs)[0]
    with fv.attach(model) as run:
        assert torch.equal(model(**inputs)[0], want)
        for site in sites(model):  # what diffusers asks of a processor
            ours, own = site.module.processor, processor_of(site.module)
            assert type(ours) is not type(own) and isinstance(ours, type(own))
            assert type(ours).__name__ == type(own).__name__
            assert inspect.signature(ours.__call__) == inspect.signature(own.__call__)
    assert state(model) == before
    assert run.calls[0].sites == STACKS[name] and run.calls[0].edited == 0
    with pytest.raises(RuntimeError), fv.attach(model, fv.Measure(fv.entropy(), stack="all")):
        model(**inputs | {"encoder_hidden_states": torch.zeros(2, TEXT, 3)})
    assert state(model) == before
    assert torch.equal(model(**inputs)[0], want)


def test_one_processor_may_serve_many_modules() -> None:
    from diffusers.models.attention_processor import AttnProcessor2_0

    model = denoiser("unet")
    model.set_attn_processor(AttnProcessor2_0())
    assert len({id(site.module.processor) for site in sites(model)}) == 1
    before = state(model)
    with torch.no_grad(), fv.attach(model, fv.Measure(fv.max(), stack="all")) as run:
        model(**given("unet"))
    assert len(run.coverage.touched) == 8 and state(model) == before


@torch.no_grad()
def test_attachments_nest_and_copies_are_plain() -> None:
    model, inputs = denoiser("flux"), given("flux")
    want, before = model(**inputs)[0], state(model)
    with fv.attach(model, fv.Emphasize("text", 3.0, stack="joint")) as outer:
        once = model(**inputs)[0]
        with fv.attach(model, fv.Emphasize("text", 3.0, stack="joint")):
            twice = model(**inputs)[0]
        assert torch.equal(model(**inputs)[0], once)
        twin_model = copy.deepcopy(model)
        assert torch.equal(twin_model(**inputs)[0], want)
        processor = model.transformer_blocks[0].attn.processor
        assert type(pickle.loads(pickle.dumps(processor))) is type(processor).__mro__[1]
    with fv.attach(model, fv.Emphasize("text", 9.0, stack="joint")):
        assert torch.allclose(model(**inputs)[0], twice, atol=1e-6)
    assert state(model) == before and len(outer.calls) == 3


def test_a_twin_shares_its_state() -> None:
    class Processor:
        def __init__(self) -> None:
            self.scale = 1.0

        def __call__(self, attn: Any, x: Tensor) -> Tensor:
            return self.scale * nn.functional.scaled_dot_product_attention(x, x, x)

    own = Processor()
    made = twin(own, {"scaled_dot_product_attention": lambda q, k, v: q + 1})
    x = torch.zeros(1, 1, 2, 2)
    assert torch.equal(made(None, x), x + 1) and torch.equal(own(None, x), x)
    made.scale = 2.0
    assert own.scale == 2.0 and torch.equal(made(None, x), 2 * (x + 1))


# -- edits and measures ----------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_what_is_kept_alone_is_what_is_kept_beside_an_edit(name: str) -> None:
    model, inputs = denoiser(name), given(name)
    kept = []
    for edit in ([], [fv.Emphasize("word", gain=1.0, stack=TEXTS[name])]):
        capture = fv.Capture(stack=TEXTS[name])
        with fv.attach(model, *edit, capture, regions={"word": WORD}):
            model(**inputs)
        kept.append(capture.tensors)
    assert kept[0] and kept[0].keys() == kept[1].keys()
    for key, (alone,) in kept[0].items():
        assert alone.dim() == 4 and torch.allclose(alone, kept[1][key][0], atol=1e-5), key


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_gain_equals_attention_written_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = denoiser(name), given(name)
    plain = model(**inputs)[0]
    for mask in (WORD, torch.stack([WORD, ~WORD])):
        with fv.attach(
            model, fv.Emphasize("w", 6.0, stack=TEXTS[name]), regions={"w": mask}
        ) as run:
            got = model(**inputs)[0]
        gain = torch.ones(mask.shape[0] if mask.dim() == 2 else 1, total(name))
        at = spans(name)["text"] if name in FIRST else slice(None)
        gain[:, at] = torch.where(mask, 6.0, 1.0)
        oracle = Oracle({total(name): gain})
        with monkeypatch.context() as patch:
            patch.setattr(nn.functional, "scaled_dot_product_attention", oracle)
            want = model(**inputs)[0]
        assert torch.allclose(got, want, atol=2e-5 * float(want.abs().max()))
        assert not torch.allclose(got, plain, rtol=1e-2)
        assert run.calls[0].edited == sum(
            depth for stack, depth in STACKS[name].items() if stack.split(".")[-1] in TEXTS[name]
        )


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_measures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = denoiser(name), given(name)
    reads = (fv.mass("text"), fv.mass("image"), fv.mass("w"), fv.max())
    with fv.attach(model, fv.Measure(*reads, stack="all"), regions={"w": WORD}) as run:
        model(**inputs)
    oracle = Oracle({})
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", oracle)
    model(**inputs)
    for stack in STACKS[name]:
        keys = {"cross": TEXT, "self": None}.get(stack.split(".")[-1], total(name))
        largest = run.results["max"].stack(stack).prefill
        maps = [m for m in oracle.maps if m.shape[2] == largest.shape[-1]]
        maps = [m for m in maps if m.shape[3] == (keys or m.shape[2])]
        peaks = [(m, m.amax(-1).float()) for m in maps]
        alike = [m for m, p in peaks if any(torch.allclose(p, x, atol=1e-5) for x in largest)]
        here = torch.stack(alike)
        assert len(here) == len(largest)
        if name in FIRST and stack in ("joint", "single"):
            text = run.results["mass:text"].stack(stack).prefill
            image = run.results["mass:image"].stack(stack).prefill
            assert torch.allclose(text + image, torch.ones(()), atol=1e-5)
            parts = spans(name)  # the four blocks
            for queries in parts.values():
                for keys_of, mass in (("text", text), ("image", image)):
                    want = here[..., queries, parts[keys_of]].sum(-1).float()
                    assert torch.allclose(mass[..., queries], want, atol=1e-5)
            word = here[..., parts["text"]][..., WORD].sum(-1).float()
        elif keys == TEXT:
            word = here[..., WORD].sum(-1).float()
        else:
            continue
        assert torch.allclose(run.results["mass:w"].stack(stack).prefill, word, atol=1e-5)


@torch.no_grad()
def test_the_eager_processor_gives_the_same() -> None:
    from diffusers.models.attention_processor import AttnProcessor

    model, inputs = denoiser("unet"), given("unet")
    methods = fv.Emphasize("w", 6.0, stack="cross"), fv.Measure(fv.mass("w"), stack="cross")

    def ran() -> tuple[Tensor, Any]:
        with fv.attach(model, *methods, regions={"w": torch.stack([WORD, ~WORD])}) as run:
            return model(**inputs)[0], run.results["mass:w"].stack("unet.mid.cross").prefill

    want, mass = ran()
    model.set_attn_processor(AttnProcessor())
    plain, before = model(**inputs)[0], state(model)
    assert {site.reach for site in sites(model)} == {"intercepted"}
    with fv.attach(model):
        assert torch.equal(model(**inputs)[0], plain)
    got, eager = ran()
    assert torch.allclose(got, want, atol=1e-5) and torch.allclose(eager, mass, atol=1e-5)
    assert state(model) == before
    with (
        pytest.raises(FoveateError, match="head outputs"),
        fv.attach(model, fv.Ablate(heads=[0], stack="unet.mid.self")),
    ):
        model(**inputs)


def test_slices_of_heads_are_refused() -> None:
    model = denoiser("unet")
    model.set_attention_slice(1)
    assert sites(model) == []
    assert {kind for _, kind in unreachable(model)} == {"Attention with SlicedAttnProcessor"}
    with pytest.raises(FoveateError, match="Attention with SlicedAttnProcessor"):
        fv.attach(model)


@torch.no_grad()
def test_masks_of_the_text_hide_it() -> None:
    model, inputs = denoiser("unet"), given("unet")
    seen = torch.ones(2, TEXT)
    seen[1, 4:] = 0
    inputs["encoder_attention_mask"] = seen
    want = model(**inputs)[0]
    with fv.attach(model, fv.Measure(fv.rows(range(64)), stack="unet.down.0.cross")) as run:
        assert torch.allclose(model(**inputs)[0], want, atol=1e-5)
    rows = run.results["rows"].prefill
    assert float(rows[:, 1, ..., 4:].max()) < 1e-6 < float(rows[:, 0, ..., 4:].max())


# -- regions ---------------------------------------------------------------------------------------
class Look(Method):
    """Keeps what a method is told."""

    def __init__(self, **scope: Any) -> None:
        super().__init__(**scope)
        self.calls: list[Any] = []

    def rewrite(self, program: Any, site: Any, call: Any) -> Any:
        self.calls.append(call)
        return program


@pytest.mark.parametrize("name", ["sd3", "flux"])
@torch.no_grad()
def test_regions_fit_the_part_they_are_as_long_as(name: str) -> None:
    size = IMAGE[name]
    box = torch.zeros(size, dtype=torch.bool)
    box[5] = True
    whole = torch.zeros(TEXT + size, dtype=torch.bool)
    whole[8:10] = True
    look = Look(stack="joint")
    model = denoiser(name)
    with fv.attach(model, look, regions={"w": WORD, "box": box, "whole": whole}):
        model(**given(name))
    call, parts = look.calls[0], spans(name)
    for region, mask in (("w", WORD), ("box", box)):
        part = parts["text" if region == "w" else "image"]
        assert torch.equal(call.views[region][part], mask)
        assert int(call.views[region].sum()) == int(mask.sum())
        assert torch.equal(call.queries(region), call.views[region])
    assert torch.equal(call.views["whole"], whole)
    assert int(call.queries("image").sum()) == size == int(call.views["image"].sum())
    assert bool(call.views["text"][parts["text"]].all())


@torch.no_grad()
def test_image_regions_are_the_queries_of_cross_attention() -> None:
    model, look = denoiser("unet"), Look(stack="unet.mid.cross")
    box = torch.arange(16) < 4
    with fv.attach(model, look, regions={"box": box, "w": WORD}):
        model(**given("unet"))
    (call,) = look.calls
    assert torch.equal(call.queries("box"), box) and torch.equal(call.views["w"], WORD)
    assert "box" not in call.views and bool(call.queries("image").all())
    with pytest.raises(FoveateError, match="no such queries"):
        call.queries("w")


@torch.no_grad()
def test_regions_that_cannot_be_placed() -> None:
    model = denoiser("sd3")
    inputs = given("sd3")
    with pytest.raises(FoveateError, match=r"acts nowhere.*5 positions, the site 23"):
        with fv.attach(
            model, fv.Emphasize("r", 2.0, stack="joint"), regions={"r": torch.ones(5).bool()}
        ):
            model(**inputs)
    alike = inputs | {"encoder_hidden_states": torch.randn(2, 16, 32)}
    with pytest.raises(FoveateError, match="as many as the text and as the image"):
        with fv.attach(
            model, fv.Emphasize("r", 2.0, stack="joint"), regions={"r": torch.ones(16).bool()}
        ):
            model(**alike)
    with pytest.raises(FoveateError, match="is foveate's own"):
        fv.attach(model, regions={"image": torch.ones(16).bool()})
    four = given("sd3", batch=4)
    with pytest.raises(FoveateError, match=r"only a pipeline tells .*give the region 4 rows"):
        with fv.attach(
            model, fv.Emphasize("r", 2.0, stack="joint"), regions={"r": torch.stack([WORD, ~WORD])}
        ):
            model(**four)


# -- steps -----------------------------------------------------------------------------------------
@torch.no_grad()
def test_each_new_time_is_the_next_step() -> None:
    model = denoiser("wan")
    with fv.attach(model, fv.Measure(fv.mass("text"), stack="cross", steps=[1])) as run:
        for time in (900.0, 900.0, 500.0, 100.0, 900.0, 500.0):
            model(**given("wan", time=time))
    assert [call.step for call in run.calls] == [0, 0, 1, 2, 0, 1]
    assert [call.edited for call in run.calls] == [0, 0, 2, 0, 0, 2]
    assert {call.phase for call in run.calls} == {"prefill"}
    assert run.results["mass:text"].prefill.shape == (2, 2, 2, 32)  # the last step's alone


class Model(nn.Module):
    config: dict[str, Any] = {}
    register_to_config = None

    def forward(self, sample: Tensor, timestep: Any, encoder_hidden_states: Any = None) -> None: ...


def steps(pipe: Any, times: list[Any]) -> list[int]:
    told, model = Denoising(pipe), Model()
    return [told.moment(model, (torch.zeros(1, 1), time), {}).step for time in times]


def test_steps_of_a_schedule() -> None:
    def pipe(times: list[float], begin: int | None = None) -> Any:
        config = SimpleNamespace(num_train_timesteps=1000)
        return SimpleNamespace(
            scheduler=SimpleNamespace(
                timesteps=torch.tensor(times), begin_index=begin, config=config
            )
        )

    assert steps(pipe([999.0, 666.0, 333.0]), [666.0, torch.tensor([333.0, 333.0])]) == [1, 2]
    assert steps(pipe([1000.0, 750.0, 250.0]), [1.0, 0.75, 0.25]) == [0, 1, 2]  # Flux
    assert steps(pipe([1000.0, 750.0, 250.0]), [0.0, 0.25, 0.75]) == [0, 1, 2]  # Lumina
    assert steps(pipe([999, 666, 666, 333, 333]), [999, 666, 666, 333]) == [0, 1, 1, 2]  # Heun
    assert steps(pipe([999.0, 666.0, 333.0], begin=1), [666.0, 333.0]) == [0, 1]  # image to image
    assert steps(pipe([999.0, 666.0]), [123.0, 45.0]) == [0, 1]  # not its own: counted
    half = torch.tensor(958.0).bfloat16()
    assert steps(pipe([999.0, 958.2, 917.0]), [half]) == [1]


def test_where_image_to_image_begins_without_a_begin_index() -> None:
    def pipe(times: list[int], made: int | None = None) -> Any:
        scheduler = SimpleNamespace(
            timesteps=torch.tensor(times), config=SimpleNamespace(num_train_timesteps=1000)
        )
        made_of = {} if made is None else {"_num_timesteps": made}
        return SimpleNamespace(scheduler=scheduler, get_timesteps=print, **made_of)

    times = [801, 601, 401, 201, 1]
    assert steps(pipe(times), [401, 401, 201, 1]) == [0, 0, 1, 2]  # where the first forward is
    assert steps(pipe(times, 3), [401, 201, 1]) == [0, 1, 2]
    assert steps(pipe(times, 3), [201, 1]) == [1, 2]  # attached within a run
    assert steps(pipe(times, 2), [401, 201]) == [0, 1]  # the schedule's end is left out
    assert steps(pipe([801, 601, 601, 401, 201], 4), [601, 401, 201]) == [0, 1, 2]  # PNDM
    assert steps(pipe([1000, 500, 1], 1), [1]) == [0]  # not the share 1 of 1000
    several = pipe(times)
    told, model = Denoising(several), Model()
    for time, step, left in ((401, 0, 3), (201, 1, 3)):
        moment = told.moment(model, (torch.zeros(1, 1), time), {})
        assert (moment.step, moment.steps) == (step, left)
    several.scheduler.timesteps = torch.tensor(times)  # the next run
    moment = told.moment(model, (torch.zeros(1, 1), 801), {})
    assert (moment.step, moment.steps) == (0, 5)


# -- pipelines -------------------------------------------------------------------------------------
@cache
def stable_diffusion() -> Any:
    return denoisers.stable_diffusion()


def drawn(pipe: Any, **options: Any) -> Tensor:
    options = {"num_inference_steps": 3, "guidance_scale": 5.0, "height": 16, "width": 16} | options
    generator = torch.Generator().manual_seed(0)
    return pipe(**options, output_type="latent", generator=generator)[0]


PROMPT = "a red circle and a blue square"


def test_a_pipeline_with_guidance() -> None:
    pipe = stable_diffusion()
    prompt = fv.Prompt(pipe.tokenizer, PROMPT)
    prompt.mark("red", "red circle")
    want = drawn(pipe, prompt=PROMPT)
    before = state(pipe.unet)
    with fv.attach(pipe) as run:
        assert torch.equal(drawn(pipe, prompt=PROMPT), want)
    assert [call.step for call in run.calls] == [0, 0, 0, 1, 2]  # two of the text encoder
    assert [call.batch for call in run.calls] == [1, 1, 2, 2, 2]
    assert run.calls[0].sites == {"text_encoder": 2}
    emphasis = fv.Emphasize("red", 8.0, stack="cross", steps=[1, 2])
    measure = fv.Measure(fv.mass("red"), fv.mass("text"), stack="unet.mid.cross")
    with fv.attach(pipe, emphasis, measure, prompt=prompt) as run:
        got = drawn(pipe, prompt=PROMPT)
    assert not torch.allclose(got, want, rtol=1e-2)
    assert [call.edited for call in run.calls] == [0, 0, 1, 4, 4]
    mass = run.results["mass:red"].prefill
    assert float(mass[:, 0].max()) == 0.0 < float(mass[:, 1].min())  # the negative prompt's half
    assert torch.allclose(run.results["mass:text"].prefill, torch.ones(()), atol=1e-5)
    # by hand, on the denoiser alone: a row for each row of the batch
    region = torch.zeros(2, 12, dtype=torch.bool)
    region[1, : prompt.regions["red"].shape[-1]] = prompt.regions["red"]
    with fv.attach(pipe.unet, emphasis, regions={"red": region}):
        again = drawn(pipe, prompt=PROMPT)
    assert torch.allclose(again, got, atol=1e-4 * float(want.abs().max()))
    assert state(pipe.unet) == before


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"])
def test_image_to_image_counts_from_where_it_begins(scheduler: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    parts = stable_diffusion().components
    pndm = {"skip_prk_steps": True} if scheduler == "PNDMScheduler" else {}
    own = getattr(diffusers, scheduler)(steps_offset=1, **pndm)
    pipe = diffusers.StableDiffusionImg2ImgPipeline(
        **parts | {"scheduler": own}, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    image = torch.full((1, 3, 16, 16), 0.5)
    with fv.attach(pipe, fv.Measure(fv.mass("text"), stack="cross", steps=[0])) as run:
        pipe(PROMPT, image=image, strength=0.5, num_inference_steps=8, output_type="latent")
    calls = [call for call in run.calls if "text_encoder" not in call.sites]
    made = 5 if pndm else 4  # one of its times is visited twice, before
    assert [call.step for call in calls] == list(range(made))
    assert "mass:text" in run.results


def test_several_pictures_of_several_prompts() -> None:
    pipe, look = stable_diffusion(), Look(stack="unet.mid.cross")
    region = torch.stack([torch.arange(12) == 1, torch.arange(12) == 2])
    with fv.attach(pipe, look, regions={"r": region}):
        drawn(pipe, prompt=[PROMPT, "red"], num_images_per_prompt=2, num_inference_steps=1)
    none = torch.zeros(12, dtype=torch.bool)
    rows = [none] * 4 + [region[0]] * 2 + [region[1]] * 2
    assert torch.equal(look.calls[0].views["r"], torch.stack(rows))
    with pytest.raises(FoveateError, match="2 of them are the prompt's: give the region 4 rows"):
        with fv.attach(pipe, Gain("r"), regions={"r": torch.stack([region[0]] * 3)}):
            drawn(pipe, prompt=[PROMPT, "red"], num_inference_steps=1)


def Gain(region: str) -> Any:
    return fv.Emphasize(region, 2.0, stack="cross")


@torch.no_grad()
def test_an_mm_dit_with_guidance() -> None:
    pipe = denoisers.stable_diffusion_3()
    generator = torch.Generator().manual_seed(2)
    sizes = {"prompt_embeds": (1, TEXT, 32), "pooled_prompt_embeds": (1, 64)}
    embeds = {
        f"{sign}{name}": torch.randn(*size, generator=generator)
        for sign in ("", "negative_")
        for name, size in sizes.items()
    }
    want = drawn(pipe, **embeds)
    with fv.attach(pipe) as run:
        assert torch.equal(drawn(pipe, **embeds), want)
    assert [call.step for call in run.calls] == [0, 1, 2]
    with fv.attach(
        pipe, fv.Emphasize("w", 5.0, stack="joint", steps=0),
        fv.Measure(fv.mass("w"), stack="joint"), regions={"w": WORD},
    ) as run:  # fmt: skip
        assert not torch.allclose(drawn(pipe, **embeds), want, rtol=1e-3)
    mass = run.results["mass:w"].prefill
    assert float(mass[:, 0].max()) == 0.0 < float(mass[:, 1].min())
    with fv.attach(pipe, fv.Measure(fv.entropy(), stack="joint")) as run:  # leaves out a layer
        drawn(
            pipe, **embeds, skip_guidance_layers=[1], skip_layer_guidance_stop=1.0,
            skip_layer_guidance_start=0.0,
        )  # fmt: skip
    assert [call.sites["joint"] for call in run.calls] == [2, 2, 1, 2, 1]
    assert run.results["entropy"].prefill.shape == (2, 2, 4, 23)


@torch.no_grad()
def test_a_negative_prompt_in_a_forward_of_its_own() -> None:
    pipe = denoisers.wan()
    generator = torch.Generator().manual_seed(2)
    embeds = {
        name: torch.randn(1, TEXT, 16, generator=generator)
        for name in ("prompt_embeds", "negative_prompt_embeds")
    }
    for _ in range(2):  # the second begins anew
        options: dict[str, Any] = embeds | {"num_frames": 5}
        with fv.attach(pipe, Gain("w"), regions={"w": WORD}) as run:
            drawn(pipe, **options)
            drawn(pipe, **options, num_inference_steps=1)
        assert [call.step for call in run.calls] == [0, 0, 1, 1, 2, 2, 0, 0]
        assert [call.edited for call in run.calls] == [2, 0] * 4


# -- what else runs through it ---------------------------------------------------------------------
def with_image_prompts() -> tuple[Any, dict[str, Any]]:
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
    from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection

    model = denoiser("unet")
    torch.manual_seed(3)
    found = {}
    for name, processor in model.attn_processors.items():
        size = 32 if name.startswith("mid") else 16
        if "attn2" in name:
            processor = IPAdapterAttnProcessor2_0(size, cross_attention_dim=32, num_tokens=(TEXT,))
        found[name] = processor
    model.set_attn_processor(found)
    projection = ImageProjection(8, cross_attention_dim=32, num_image_text_embeds=TEXT)
    model.encoder_hid_proj = MultiIPAdapterImageProjection([projection])
    model.config.encoder_hid_dim_type = "ip_image_proj"
    inputs = given("unet")
    inputs["added_cond_kwargs"] = {"image_embeds": [torch.randn(2, 1, 8)]}
    return model, inputs


@torch.no_grad()
def test_image_prompts_are_left_as_they_are() -> None:
    model, inputs = with_image_prompts()
    before, want = state(model), model(**inputs)[0]
    assert isinstance(
        model.mid_block.attentions[0].transformer_blocks[0].attn2.processor, nn.Module
    )
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    with fv.attach(model):
        assert torch.equal(model(**inputs)[0], want)
        assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    assert state(model) == before
    assert {site.reach for site in sites(model)} == {"rebound"} and len(sites(model)) == 8
    measure = fv.Measure(fv.mass("text"), stack="cross")
    with fv.attach(model, measure, Gain("w"), regions={"w": WORD}) as run:
        got = model(**inputs)[0]
    assert not torch.allclose(got, want, rtol=1e-3)
    assert {one.calls for one in run.coverage} == {1}


@torch.no_grad()
def test_quantised_layers() -> None:
    class Rounded(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            step = self.weight.abs().max() / 127
            return nn.functional.linear(x, (self.weight / step).round() * step, self.bias)

    model, inputs = denoiser("sd3"), given("sd3")
    for site in sites(model):
        for name, layer in list(site.module.named_modules()):
            if type(layer) is nn.Linear:
                layer.__class__ = Rounded
    want = model(**inputs)[0]
    with fv.attach(model):
        assert torch.equal(model(**inputs)[0], want)
    with fv.attach(model, fv.Emphasize("w", 1.0 + 1e-9, stack="joint"), regions={"w": WORD}):
        assert torch.allclose(model(**inputs)[0], want, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_under_checkpointing(name: str) -> None:
    inputs = given(name)

    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        model = denoiser(name).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        scope = {"stack": TEXTS[name], "steps": 0}
        with fv.attach(model, fv.Emphasize("w", 6.0, **scope), fv.Emphasize("text", 0.5, **scope),
                       regions={"w": WORD}):  # fmt: skip
            for time in (900.0, 500.0):
                inputs["timestep"] = given(name, time=time)["timestep"]
                model(**inputs)[0].square().sum().backward()
        return {k: p.grad for k, p in model.named_parameters() if p.grad is not None}

    want, got = gradients(False), gradients(True)
    assert want.keys() == got.keys() and len(want) > 20
    for key, value in want.items():
        assert torch.allclose(got[key], value, atol=1e-6 * float(value.abs().max()) + 1e-12), key


def test_a_recomputation_that_nothing_places_is_refused() -> None:
    model = denoiser("wan").train()
    model.enable_gradient_checkpointing()
    with pytest.raises(FoveateError, match="recomputed after several forwards"):
        with fv.attach(model, Gain("text")):
            loss = sum(model(**given("wan", time=t))[0].sum() for t in (900.0, 500.0))
            loss.backward()


@torch.no_grad()
def test_compiled_models() -> None:
    torch._dynamo.reset()
    model, inputs = denoiser("wan", num_layers=1), given("wan")
    compiled: Callable[..., Any] = torch.compile(model, backend="eager")
    plain = compiled(**inputs)[0]
    with fv.attach(model, Gain("text"), Gain("w"), regions={"w": WORD}):
        want = model(**inputs)[0]
    with fv.attach(model, Gain("text"), Gain("w"), regions={"w": WORD}) as run:
        assert torch.equal(compiled(**inputs)[0], want)
    assert run.calls[0].edited == 1 and not torch.allclose(want, plain)
    assert torch.equal(compiled(**inputs)[0], plain)
    with pytest.raises(FoveateError, match="compiled model"):
        fv.attach(compiled)
    pipe = SimpleNamespace(components={"transformer": compiled})
    with pytest.raises(FoveateError, match="pipeline's transformer is compiled"):
        fv.attach(pipe)
    torch._dynamo.reset()


@torch.no_grad()
def test_attention_in_parts_on_several_devices_is_refused() -> None:
    model = denoiser("wan")
    for site in sites(model):
        site.module.processor._parallel_config = object()
    with pytest.raises(FoveateError, match="context parallelism"):
        with fv.attach(model, Gain("text")):
            model(**given("wan"))


def test_a_pipeline_is_loaded(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stable_diffusion().save_pretrained(tmp_path / "pipe")
    pipe, nothing = fv.load(tmp_path / "pipe", dtype="float32")
    assert nothing is None and type(pipe).__name__ == "StableDiffusionPipeline"
    pipe.set_progress_bar_config(disable=True)
    assert torch.equal(drawn(pipe, prompt=PROMPT), drawn(stable_diffusion(), prompt=PROMPT))
    with pytest.raises(FoveateError, match="set_attention_backend"):
        fv.load(tmp_path / "pipe", attn_implementation="eager")
    (tmp_path / "pipe" / "unet" / "config.json").unlink()
    with pytest.raises(FoveateError, match="Cannot load the pipeline"):
        fv.load(tmp_path / "pipe")
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "diffusers" else find(n)
    )
    with pytest.raises(FoveateError, match=r"pip install 'foveate\[diffusion\]'"):
        fv.load(tmp_path / "pipe")
