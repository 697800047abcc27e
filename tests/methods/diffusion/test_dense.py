"""DenseDiffusion in pipelines: whose rows, which steps, several layouts, bad input."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import foveate as fv
from denoisers import denoiser, given, stable_diffusion
from foveate.attach.denoising import Moment

TEXT = "red circle and blue square"
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def asked(pipe: Any, texts: Any = TEXT) -> fv.Prompt:
    prompt = fv.Prompt(pipe.tokenizer, texts, padding_side="right")
    prompt = prompt.mark("circle", "circle").mark("square", "square")
    return prompt.mark("again", "circle")


def drawn(pipe: Any, *methods: Any, texts: Any = TEXT, **options: Any) -> torch.Tensor:
    with fv.attach(pipe, *methods, prompt=asked(pipe, texts)):
        return pipe(
            texts, num_inference_steps=4, output_type="latent", generator=noise(), **options
        ).images


@torch.no_grad()
def test_words_go_to_their_segments_and_the_negative_prompt_does_not() -> None:
    pipe = stable_diffusion()
    read = fv.Measure(fv.mass("circle"), stack="unet.down.0.cross", steps=[0])
    # two steps begin at half of the time, where its fifth power is 0.03
    method = fv.DenseDiffusion({"circle": LEFT, "square": RIGHT}, on_text=40.0, stack="cross")
    found = []
    for methods in ((read,), (method, read)):
        with fv.attach(pipe, *methods, prompt=asked(pipe)) as run:
            pipe(TEXT, num_inference_steps=2, output_type="latent", generator=noise())
        mass = run.results["mass:circle"].prefill.mean((0, 2)).unflatten(-1, (8, 8))
        found.append(mass)
    before, after = found
    assert float(after[1, :, :4].mean()) > float(before[1, :, :4].mean())
    assert float(after[1, :, 4:].mean()) < float(before[1, :, 4:].mean())
    assert not bool(after[0].any())  # the negative prompt has no such words


@torch.no_grad()
def test_it_acts_in_the_first_steps_or_in_those_named() -> None:
    pipe = stable_diffusion()
    segments = {"circle": LEFT, "square": RIGHT}
    plain = drawn(pipe)
    assert not torch.equal(drawn(pipe, fv.DenseDiffusion(segments)), plain)
    assert torch.equal(drawn(pipe, fv.DenseDiffusion(segments, until=0.0)), plain)
    assert torch.equal(
        drawn(pipe, fv.DenseDiffusion(segments, until=0.25)),
        drawn(pipe, fv.DenseDiffusion(segments, steps=0)),
    )


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_image_to_image_acts_in_shares_of_what_is_left(scheduler: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    own = getattr(diffusers, scheduler)(steps_offset=1)
    parts = stable_diffusion().components | {"scheduler": own}
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    options = {"image": torch.full((1, 3, 16, 16), 0.5), "strength": 0.5, "num_inference_steps": 8}

    def edited(method: Any) -> list[bool]:
        with fv.attach(pipe, method, prompt=asked(pipe)) as run:
            pipe(TEXT, **options, output_type="latent", generator=noise())
        return [call.edited > 0 for call in run.calls if "text_encoder" not in call.sites]

    segments = {"circle": LEFT, "square": RIGHT}
    assert edited(fv.DenseDiffusion(segments, until=0.5)) == [True, True, False, False]  # of 8: 4
    excite = fv.AttendAndExcite(["circle", "square"], step_size=1.0, thresholds={}, until=0.5)
    edited(excite)
    assert list(excite.losses) == [0, 1]


def test_the_last_of_a_thousand_is_no_beginning() -> None:
    method = fv.DenseDiffusion({"circle": LEFT})

    def share(times: list[float], time: float, step: int, steps: int | None = None) -> float:
        scheduler = SimpleNamespace(timesteps=torch.tensor(times))
        method._pipeline = SimpleNamespace(scheduler=scheduler)
        return method._share(time, Moment(step=step, steps=steps))

    assert share([501, 1], 501, 0) == 0.501
    assert share([501, 1], 1, 1) == 0.001  # the share it is of, not all of it
    assert share([1000, 500, 1], 1, 0) == 1  # Flux tells the denoiser a share
    assert share([1.0, 0.5], 0.5, 1) == 0.5
    assert share([801, 501, 1], 1, 1, steps=2) == 0.001  # begun late, by a strength
    method._pipeline = None
    assert method._share(500, Moment()) == 0.5
    with pytest.raises(fv.FoveateError, match="no shares"):
        share([1.1, -1.6], 1.1, 0)


@torch.no_grad()
def test_each_prompt_has_its_own_layout() -> None:
    pipe, texts = stable_diffusion(), [TEXT, "blue circle and red square"]
    left, right = torch.zeros(2, 8, 8), torch.zeros(2, 8, 8)
    left[0, :, :4] = left[1, :, 4:] = 1
    right[0, :, 4:] = right[1, :, :4] = 1
    both = drawn(pipe, fv.DenseDiffusion({"circle": left, "square": right}), texts=texts)
    first = drawn(pipe, fv.DenseDiffusion({"circle": left[0], "square": right[0]}), texts=texts)
    assert torch.allclose(both[0], first[0], atol=1e-4 * float(first.abs().max()))
    assert not torch.allclose(both[1], first[1], atol=1e-2)
    with pytest.raises(fv.FoveateError, match="2 layouts"):
        drawn(pipe, fv.DenseDiffusion({"circle": left, "square": right}))


@torch.no_grad()
def test_with_attend_and_excite() -> None:
    pipe = stable_diffusion()
    dense = fv.DenseDiffusion({"circle": LEFT, "square": RIGHT})
    excite = fv.AttendAndExcite(["circle", "square"], step_size=1.0, thresholds={})
    both = drawn(pipe, dense, excite)
    assert bool(both.isfinite().all())
    assert not torch.equal(both, drawn(pipe, dense))


def test_patches_belong_to_the_segment_that_covers_most_of_them() -> None:
    small, large = torch.zeros(8, 8), torch.zeros(8, 8)
    small[0, 0] = 1  # a quarter of a patch: it is the best there is
    large[2:6, :3] = 1  # whole patches, and halves
    masks = (
        fv.DenseDiffusion({"a": small, "b": large}, background=False)
        ._masks((4, 4))[0]
        .unflatten(0, (4, 4))
    )
    assert masks[..., 0].nonzero().tolist() == [[0, 0]]
    assert masks[..., 1].nonzero().tolist() == [[1, 0], [1, 1], [2, 0], [2, 1]]


@torch.no_grad()
def test_where_it_cannot_work() -> None:
    pipe, model = stable_diffusion(), denoiser("unet")
    with (
        pytest.raises(fv.FoveateError, match="steps="),
        fv.attach(model, fv.DenseDiffusion({"circle": LEFT})),
    ):
        pass
    with pytest.raises(fv.FoveateError, match="not of the prompt"):
        drawn(pipe, fv.DenseDiffusion({"triangle": LEFT}))
    with pytest.raises(fv.FoveateError, match="two segments"):
        drawn(pipe, fv.DenseDiffusion({"circle": LEFT, "again": RIGHT, "square": RIGHT}))
    words = {"circle": torch.arange(7) == 2}
    with fv.attach(model, fv.DenseDiffusion({"circle": LEFT}, steps=0), regions=words):
        model(**given("unet"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"segments": {}},
        {"segments": ["a"]},
        {"segments": {"a": (0.5, 0, 0.2, 1)}},
        {"segments": {"a": (0, 0, 32, 32)}},
        {"segments": {"a": torch.zeros(4, 4)}},
        {"segments": {"a": torch.ones(4)}},
        {"segments": {"a": "left"}},
        {"segments": {"a": 2 * torch.ones(4, 4)}},
        {"on_text": -1},
        {"on_image": float("inf")},
        {"until": 1.5},
    ],
)
def test_what_is_no_layout(wrong: dict[str, Any]) -> None:
    with pytest.raises(fv.FoveateError):
        fv.DenseDiffusion(**({"segments": {"a": LEFT}} | wrong))
