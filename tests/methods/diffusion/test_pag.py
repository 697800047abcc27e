"""PAG beside other methods, measures, steps and pipelines; what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
from denoisers import TEXT, denoiser, given, stable_diffusion_3, wan

WORDS = torch.arange(TEXT) < 2


def embeds(seed: int = 1) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    shapes = {"prompt_embeds": (2, TEXT, 32), "pooled_prompt_embeds": (2, 64)}
    return {
        f"{negative}{name}": torch.randn(shape, generator=g)
        for name, shape in shapes.items()
        for negative in ("", "negative_")
    }


def drawn(pipe: Any, *methods: Any, guidance: float = 4.0, steps: int = 3, **regions: Any) -> Any:
    options = {"height": 16, "width": 16, "output_type": "latent"}
    noise = torch.Generator().manual_seed(0)
    with fv.attach(pipe, *methods, regions=regions or None) as run:
        images = pipe(
            **embeds(),
            **options,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=noise,
        ).images
    return images, run


@pytest.fixture(scope="module")
def pipe() -> Any:
    return stable_diffusion_3()


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_measures_and_calls_are_those_of_the_models_own_forwards(
    pipe: Any, guidance: float
) -> None:
    measure = fv.Measure(fv.mass("words"), stack="joint")
    steps = {"steps": [0]}  # the later forwards are of other latents
    plain, before = drawn(pipe, measure, guidance=guidance, steps=1, words=WORDS)
    guided, after = drawn(
        pipe, fv.PAG(5.0, stack="joint", **steps), measure, guidance=guidance, steps=1, words=WORDS
    )
    assert not torch.allclose(plain, guided, atol=1e-3)
    first, second = (run.results["mass:words"].prefill for run in (before, after))
    assert torch.equal(first, second)
    assert [(c.step, c.batch) for c in after.calls] == [(c.step, c.batch) for c in before.calls]


def test_attachments_around_and_inside_record_their_own_forwards_alone(pipe: Any) -> None:
    def measure() -> fv.Measure:
        return fv.Measure(fv.mass("image"), stack="joint")

    plain, one = drawn(pipe, measure(), steps=1)
    pull = fv.PAG(5.0, stack="joint")
    with (
        fv.attach(pipe, measure()) as around,
        fv.attach(pipe, pull),
        fv.attach(pipe, measure()) as i,
    ):
        guided, _ = drawn(pipe, steps=1)
    assert not torch.allclose(plain, guided, atol=1e-3)
    for run in (around, i):
        assert len(run.calls) == len(one.calls)
        assert torch.equal(run.results["mass:image"].prefill, one.results["mass:image"].prefill)


@pytest.mark.parametrize("tokens", ["all", "image"])
def test_a_batch_is_its_prompts_one_by_one(pipe: Any, tokens: str) -> None:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    method = fv.PAG(3.0, 0.6, tokens=tokens, heads=[(0, 1), (1, 2)], stack="joint")

    def some(rows: slice) -> Tensor:
        told = {name: value[rows] for name, value in embeds().items()}
        with fv.attach(pipe, method):
            return pipe(
                **told, latents=latents[rows], num_inference_steps=2, guidance_scale=4.0,
                height=16, width=16, output_type="latent",
            ).images  # fmt: skip

    alone = torch.cat([some(slice(0, 1)), some(slice(1, 2))])
    assert torch.allclose(some(slice(0, 2)), alone, atol=1e-4)


@torch.no_grad()
def test_a_forward_that_failed_leaves_nothing_to_the_next() -> None:
    model, told = denoiser("sd3", dual_attention_layers=()), given("sd3")
    later = given("sd3", time=400.0)
    want = model(**later).sample

    def fail(*args: Any) -> None:
        raise KeyboardInterrupt

    with fv.attach(model, fv.PAG(5.0, steps=[0])):
        hook = model.proj_out.register_forward_pre_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            model(**told)
        hook.remove()
        assert torch.equal(model(**later).sample, want)  # step 1, in which nothing is guided


def test_steps_are_those_named(pipe: Any) -> None:
    plain, _ = drawn(pipe)
    late, _ = drawn(pipe, fv.PAG(5.0, stack="joint", steps=[7]))
    some, _ = drawn(pipe, fv.PAG(5.0, stack="joint", steps=[0, 2]))
    every, _ = drawn(pipe, fv.PAG(5.0, stack="joint"))
    assert torch.equal(plain, late)
    assert not torch.allclose(plain, some, atol=1e-3)
    assert not torch.allclose(every, some, atol=1e-3)


@pytest.mark.parametrize("nothing", [{"scale": 0.0}, {"strength": 0.0}])
def test_nothing_to_do_is_bitwise_nothing(pipe: Any, nothing: dict[str, float]) -> None:
    assert torch.equal(drawn(pipe)[0], drawn(pipe, fv.PAG(stack="joint", **nothing))[0])


@torch.no_grad()
def test_the_pull_grows_with_the_scale_and_with_the_strength() -> None:
    model, told = denoiser("sd3", dual_attention_layers=()), given("sd3")
    strong = model(**told).sample

    def pull(*args: float) -> Tensor:
        with fv.attach(model, fv.PAG(*args)):
            return model(**told).sample - strong

    assert torch.allclose(pull(4.0), 2 * pull(2.0), atol=1e-4)
    sizes = [float(pull(2.0, u).norm()) for u in (0.1, 0.3, 0.6, 1.0)]
    assert sizes == sorted(sizes) and sizes[0] > 0


def test_other_methods_act_in_both_forwards(pipe: Any) -> None:
    gain = fv.Emphasize("words", gain=20.0, stack="joint")
    together, run = drawn(pipe, gain, fv.PAG(2.0, stack="joint"), words=WORDS, steps=1, guidance=1)
    model = pipe.transformer
    told: dict[str, Tensor] = {}

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        told.update({k: v for k, v in kwargs.items() if isinstance(v, Tensor)})

    hook = model.register_forward_pre_hook(keep, with_kwargs=True)
    alone, _ = drawn(pipe, gain, words=WORDS, steps=1, guidance=1)
    hook.remove()
    regions = {"words": WORDS}
    with torch.no_grad():
        with fv.attach(model, gain, regions=regions):
            strong = model(**told).sample
        with fv.attach(model, gain, fv.PAG(2.0, stack="joint"), regions=regions):
            guided = model(**told).sample
    step = (together - alone) / (guided - strong)  # what the scheduler makes of the pull
    assert torch.allclose(step, step.mean().expand_as(step), rtol=1e-2)
    assert len(run.calls) == 1


def test_a_negative_prompt_in_a_forward_of_its_own_is_pulled_along() -> None:
    """``e_neg + g (e - e_neg) + w (e - e_weak)``: the pull does not depend on g."""
    video = wan()
    g = torch.Generator().manual_seed(1)
    text = {name: torch.randn(1, TEXT, 16, generator=g) for name in _NAMES}

    def one(guidance: float, *methods: Any) -> Tensor:
        with fv.attach(video, *methods):
            return video(
                **text, height=16, width=16, num_frames=5, num_inference_steps=1,
                guidance_scale=guidance, output_type="latent", return_dict=False,
                generator=torch.Generator().manual_seed(0),
            )[0]  # fmt: skip

    method = fv.PAG(2.0, stack="self")
    pulls = [one(guidance, method) - one(guidance) for guidance in (1.0, 5.0)]
    assert pulls[0].abs().max() > 1e-3
    assert torch.allclose(*pulls, atol=1e-4)


_NAMES = ("prompt_embeds", "negative_prompt_embeds")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"scale": -1.0}, "scale=-1.0 was given"),
        ({"scale": float("nan")}, "finite"),
        ({"scale": "3"}, "scale='3'"),
        ({"strength": 1.5}, "strength=1.5"),
        ({"strength": True}, "strength=True"),
        ({"tokens": "text"}, "one of all, image"),
        ({"heads": []}, "act nowhere"),
    ],
)
def test_bad_input(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(fv.FoveateError, match=sentence):
        fv.PAG(**options)


def test_what_has_no_identity_is_refused() -> None:
    unet = denoiser("unet")
    with pytest.raises(fv.FoveateError, match="no query can see itself"):
        fv.attach(unet, fv.PAG(stack="cross"))
    with pytest.raises(fv.FoveateError, match="does not say which stack"):
        fv.attach(unet, fv.PAG())
    model, _ = fv.load("shapes-vlm")
    with pytest.raises(fv.FoveateError, match="guides denoisers"):
        fv.attach(model, fv.PAG())


def test_two_on_one_denoiser_are_refused_and_nothing_stays() -> None:
    model = denoiser("sd3", dual_attention_layers=())
    both = fv.attach(model, fv.PAG(layers=0), fv.PAG(layers=1))
    with pytest.raises(fv.FoveateError, match="give one of them all heads"), both:
        pass
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_the_image_alone_wants_plain_scores(pipe: Any) -> None:
    gain = fv.Emphasize("words", gain=2.0, stack="joint")
    weak = fv.PAG(tokens="image", stack="joint")
    with pytest.raises(fv.FoveateError, match="dot products alone"):
        drawn(pipe, gain, weak, words=WORDS)
    with pytest.raises(fv.FoveateError, match="not known"):
        fv.attach(
            denoiser("sd3", dual_attention_layers=()),
            _Unordered(tokens="image"),
        )


class _Unordered(fv.PAG):
    """As in a joint model whose order is not known."""

    def check(self, site: Any) -> None:
        from dataclasses import replace

        super().check(replace(site, order=None))
