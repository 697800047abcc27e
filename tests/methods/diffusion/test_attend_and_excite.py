"""Attend-and-Excite in its surroundings: schedulers, joint attention, other methods, bad input."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch

import foveate as fv
from denoisers import denoiser, stable_diffusion, stable_diffusion_3
from foveate.attach.frame import apart
from foveate.methods.diffusion._latents import Latents, grid_of
from foveate.methods.diffusion.neglect import neglect

TEXT = "red circle and blue square"


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def asked(pipe: Any) -> fv.Prompt:
    return fv.Prompt(pipe.tokenizer, TEXT).mark("s", "circle").mark("s", "square")


@torch.no_grad()
def test_in_joint_attention_the_subjects_gain_and_all_is_put_back() -> None:
    pipe = stable_diffusion_3()
    embeds, pooled = torch.randn(2, 7, 32, generator=noise()), torch.randn(2, 64, generator=noise())
    method = fv.AttendAndExcite("s", step_size=2.0, until=1.0, thresholds={})
    given = {
        "prompt_embeds": embeds[:1], "pooled_prompt_embeds": pooled[:1],
        "negative_prompt_embeds": embeds[1:], "negative_pooled_prompt_embeds": pooled[1:],
        "num_inference_steps": 4, "height": 16, "width": 16, "output_type": "latent",
    }  # fmt: skip
    own = pipe.scheduler.step
    words = {"s": torch.tensor([[False, False, True, False, False, True, False]])}
    with fv.attach(pipe, method, fv.Measure(fv.mass("s"), stack="joint"), regions=words) as run:
        pipe(**given, generator=noise())
    assert pipe.scheduler.step == own and "step" not in vars(pipe.scheduler)
    assert len(run.calls) == 4  # its own forwards are none of the pipeline's
    assert run.results["mass:s"].prefill.shape[1] == 2  # of the pipeline's batch
    losses = [float(method.losses[step]) for step in range(4)]
    assert losses[-1] < losses[0]


@torch.no_grad()
@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_schedulers_that_scale_and_that_remember(scheduler: str) -> None:
    import diffusers

    pipe = stable_diffusion()
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    method = fv.AttendAndExcite("s", step_size=1.0, thresholds={0.0: 0.9}, refine=3)
    with fv.attach(pipe, method, prompt=asked(pipe)):
        pipe(TEXT, num_inference_steps=3, generator=noise(), output_type="latent")
    assert sorted(method.losses) == [0, 1]


def test_what_was_moved_is_added_to_the_next_step_only() -> None:
    class Scheduler:
        def scale_model_input(self, sample: torch.Tensor, time: int) -> torch.Tensor:
            return sample / 4

        def step(self, out: Any, time: int, sample: torch.Tensor) -> torch.Tensor:
            return sample

    latents = Latents(Scheduler())
    (_, _, step), (_, _, scaled) = latents.instead()
    sample = torch.ones(1, 2)
    scaled(latents.scheduler.scale_model_input, sample, 0)
    assert latents.scale == pytest.approx(0.25)
    latents.move(sample)
    assert torch.equal(step(latents.scheduler.step, None, 0, sample), 2 * sample)
    assert torch.equal(step(latents.scheduler.step, None, 0, sample), sample)
    latents.move(torch.ones(1, 3))
    with pytest.raises(fv.FoveateError, match="another form"):
        step(latents.scheduler.step, None, 0, sample)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DDIMScheduler", {}),
        ("DPMSolverMultistepScheduler", {}),
        ("DPMSolverSinglestepScheduler", {}),
        ("EulerDiscreteScheduler", {}),
        ("FlowMatchHeunDiscreteScheduler", {}),
        ("HeunDiscreteScheduler", {}),
        ("KDPM2DiscreteScheduler", {}),
        ("PNDMScheduler", {}),
        ("PNDMScheduler", {"skip_prk_steps": True}),
    ],
)
def test_a_scheduler_begins_where_the_latents_are_or_says_not(
    name: str, options: dict[str, Any]
) -> None:
    """As seen from outside: of the same prediction, does a move count?"""
    import diffusers

    scheduler = getattr(diffusers, name)(**options)
    scheduler.set_timesteps(6)
    latents, x = Latents(scheduler), torch.randn(1, 4, 4, 4, generator=noise())
    if name.startswith("DPM"):  # of the same noise a moved sample makes another picture
        scheduler.register_to_config(prediction_type="sample")
    for time in scheduler.timesteps[:-1]:
        begins, other = latents.begins, deepcopy(scheduler)
        out = torch.randn(1, 4, 4, 4, generator=noise())
        if hasattr(scheduler, "scale_model_input"):
            for one in (scheduler, other):
                one.scale_model_input(x, time)
        there = other.step(out, time, x + 1, return_dict=False)[0]
        x = scheduler.step(out, time, x, return_dict=False)[0]
        assert begins == (not torch.allclose(there, x, atol=1e-4)) or float(time) > 990


def test_a_corrector_does_not_take_a_move_back() -> None:
    from diffusers import UniPCMultistepScheduler

    found = []
    for left_out in ([], [1]):
        scheduler = UniPCMultistepScheduler(disable_corrector=left_out)
        scheduler.set_timesteps(6)
        latents, x = Latents(scheduler), torch.ones(1, 4, 4, 4)
        step = next(one for _, name, one in latents.instead() if name == "step")
        for i, time in enumerate(scheduler.timesteps[:3]):
            if i == 2:
                latents.move(torch.ones_like(x))
            x = step(scheduler.step, torch.full_like(x, i), time, x, return_dict=False)[0]
        found.append(x)
    assert torch.allclose(*found)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options"),
    [("HeunDiscreteScheduler", {}), ("PNDMScheduler", {"skip_prk_steps": True})],
)
def test_every_move_counts_where_a_scheduler_looks_twice(
    name: str, options: dict[str, Any]
) -> None:
    import diffusers

    pipe = stable_diffusion()
    pipe.scheduler = getattr(diffusers, name)(**options)
    method = fv.AttendAndExcite("s", step_size=1.0, until=1.0, thresholds={})
    moves: list[bool] = []

    def spy(module: Any, args: Any, kwargs: Any) -> None:
        if method._latents is not None and not apart():
            moves.append(method._latents.moved is not None and method._latents.begins)

    with fv.attach(pipe, method, prompt=asked(pipe)):
        handle = pipe.unet.register_forward_pre_hook(spy, with_kwargs=True)
        pipe(TEXT, num_inference_steps=4, generator=noise(), output_type="latent")
    handle.remove()
    assert sum(moves) == len(method.losses) == 4


@torch.no_grad()
def test_pictures_of_another_size_in_one_block() -> None:
    pipe = stable_diffusion()
    method = fv.AttendAndExcite("s", step_size=1.0, thresholds={})
    with fv.attach(pipe, method, prompt=asked(pipe)):
        for side in (16, 24):
            pipe(TEXT, height=side, width=side, num_inference_steps=2, output_type="latent")
            assert sorted(method.losses) == [0]


def test_grids() -> None:
    assert grid_of({}, torch.zeros(1, 4, 8, 16), 32) == (4, 8)
    packed = {"img_ids": torch.tensor([[0, i, j] for i in range(2) for j in range(3)])}
    assert grid_of(packed, torch.zeros(1, 6, 4), 6) == (2, 3)
    with pytest.raises(fv.FoveateError, match="video"):
        grid_of({}, torch.zeros(1, 4, 2, 8, 8), 64)


@torch.no_grad()
def test_where_it_cannot_work() -> None:
    pipe = stable_diffusion()
    prompt = asked(pipe)
    with pytest.raises(fv.FoveateError, match="a pipeline of diffusers with a scheduler"):
        with fv.attach(pipe.unet, fv.AttendAndExcite("s"), prompt=prompt):
            pass
    with pytest.raises(fv.FoveateError, match="no such stack"):
        fv.attach(pipe.text_encoder, fv.AttendAndExcite("s"), prompt=prompt)
    with pytest.raises(fv.FoveateError, match="region 'other'"):
        fv.attach(pipe, fv.AttendAndExcite("other"), prompt=prompt)
    with fv.attach(pipe, fv.AttendAndExcite("first"), prompt=prompt):
        with pytest.raises(fv.FoveateError, match="first or the last token"):
            pipe(TEXT, num_inference_steps=1, output_type="latent")
    with (
        torch.inference_mode(),
        fv.attach(pipe, fv.AttendAndExcite("s"), prompt=prompt),
        pytest.raises(fv.FoveateError, match="inference_mode"),
    ):
        pipe(TEXT, num_inference_steps=1, output_type="latent")
    with fv.attach(pipe, fv.AttendAndExcite("s", resolution=9), prompt=prompt):
        with pytest.raises(fv.FoveateError, match="9 image tokens"):
            pipe(TEXT, num_inference_steps=1, output_type="latent")
    assert denoiser("unet").training is False


@pytest.mark.parametrize(
    "given",
    [
        {"subjects": ()},
        {"subjects": 3},
        {"step_size": -1},
        {"step_size": float("nan")},
        {"until": 2},
        {"thresholds": {0.5: 1.5}},
        {"thresholds": {3: 0.5}},
        {"refine": -1},
        {"resolution": 0},
    ],
)
def test_numbers_out_of_range(given: dict[str, Any]) -> None:
    with pytest.raises(fv.FoveateError):
        fv.AttendAndExcite(**({"subjects": "s"} | given))


def test_losses_of_nothing() -> None:
    maps, marked = torch.rand(1, 3, 3, 4), torch.tensor([[False, True, False, False]])
    with pytest.raises(fv.FoveateError, match="rows, columns"):
        neglect(maps, marked[:, :3])
    with pytest.raises(fv.FoveateError, match="2 × 2"):
        neglect(maps[:, :1], marked)
    with pytest.raises(fv.FoveateError, match="no subject"):
        neglect(maps, torch.zeros_like(marked))
