"""Attend-and-Excite against diffusers' own pipeline, on the same parts and the same noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import foveate as fv
from denoisers import stable_diffusion
from foveate.methods.diffusion.neglect import neglect

Make = Callable[..., Any]
TEXTS = ["red circle and blue square", "blue circle and red square"]


def baseline(subjects: str, **_: Any) -> Any:
    """The plain sampler."""
    return fv.Measure(fv.entropy(), stack="cross")


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def check(make: Make) -> None:
    """Latents of two pictures after five steps under guidance, without thresholds and with one."""
    from diffusers import StableDiffusionAttendAndExcitePipeline

    pipe = stable_diffusion()
    pipe.unet.double()
    pipe.text_encoder.double()
    parts = {key: part for key, part in pipe.components.items() if key != "image_encoder"}
    peer = StableDiffusionAttendAndExcitePipeline(**parts, requires_safety_checker=False)
    peer.set_progress_bar_config(disable=True)
    prompt = fv.Prompt(pipe.tokenizer, TEXTS, padding_side="right")
    prompt.mark("subjects", "circle").mark("subjects", "square")
    places = [prompt.positions("subjects", item) for item in range(2)]
    kind: dict[str, Any] = {"guidance_scale": 3.0, "output_type": "latent"}
    for thresholds in ({}, {0: 0.1}):
        want = peer(
            TEXTS, places, num_inference_steps=5, generator=noise(), attn_res=(8, 8),
            max_iter_to_alter=2, scale_factor=3, thresholds=thresholds, **kind,
        ).images  # fmt: skip
        shares = {step / 5: value for step, value in thresholds.items()}
        method = make("subjects", step_size=3.0, until=0.4, thresholds=shares)
        with fv.attach(pipe, method, prompt=prompt):
            got = pipe(TEXTS, num_inference_steps=5, generator=noise(), **kind).images
        assert torch.allclose(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


def test_it_is_the_authors_pipeline() -> None:
    check(fv.AttendAndExcite)


@torch.no_grad()
def test_a_step_of_nothing_is_the_plain_sampler() -> None:
    pipe = stable_diffusion()
    prompt = fv.Prompt(pipe.tokenizer, TEXTS[0]).mark("subjects", "circle")
    given = {"num_inference_steps": 3, "output_type": "latent"}
    want = pipe(TEXTS[0], generator=noise(), **given).images
    with fv.attach(pipe, fv.AttendAndExcite("subjects", step_size=0.0), prompt=prompt):
        got = pipe(TEXTS[0], generator=noise(), **given).images
    assert torch.equal(got, want)


def written_out(maps: Tensor, subjects: Tensor) -> list[float]:
    """The loss of one picture after another, in loops."""
    losses = []
    for picture, marked in zip(maps.double(), subjects, strict=True):
        rows, columns, tokens = picture.shape
        best = []
        for token in [t for t in range(tokens) if marked[t]]:
            share = torch.empty(rows, columns, dtype=torch.float64)
            for i in range(rows):
                for j in range(columns):
                    words = (100 * (picture[i, j, 1:-1] - picture[i, j, 1:-1].max())).exp()
                    share[i, j] = words[token - 1] / words.sum()
            smooth = torch.zeros_like(share)
            bell = {-1: torch.e**-1, 0: 1.0, 1: torch.e**-1}  # exp(-(d / (2 * 0.5)) ** 2)
            for i in range(rows):
                for j in range(columns):
                    for di, wi in bell.items():
                        for dj, wj in bell.items():
                            a, b = abs(i + di), abs(j + dj)  # reflected at the edge
                            a, b = min(a, 2 * rows - 2 - a), min(b, 2 * columns - 2 - b)
                            smooth[i, j] += wi * wj * share[a, b] / sum(bell.values()) ** 2
            best.append(float(smooth.max()))
        losses.append(max(0.0, 1 - min(best)))
    return losses


@given(st.integers(0, 2**31), st.integers(2, 4), st.integers(2, 4), st.integers(4, 6))
@settings(max_examples=6, deadline=None)
def test_the_loss_is_the_formula(seed: int, rows: int, columns: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(2, rows, columns, tokens, generator=generator).double() / 20
    subjects = torch.zeros(2, tokens, dtype=torch.bool)
    subjects[:, 1 : tokens - 1] = torch.rand(2, tokens - 2, generator=generator) < 0.5
    subjects[:, 1] = True
    assert torch.allclose(
        neglect(maps, subjects), torch.tensor(written_out(maps, subjects), dtype=torch.float64)
    )


def test_nothing_is_lost_where_every_subject_has_a_place() -> None:
    maps = torch.zeros(1, 6, 6, 5, dtype=torch.float64)
    maps[:, :3, :, 1] = maps[:, 3:, :, 2] = 1.0
    both = torch.tensor([[False, True, True, False, False]])
    assert float(neglect(maps, both)) == pytest.approx(0.0, abs=1e-12)
    maps[:, 3:, :, 2], maps[:, 3:, :, 3] = 0.0, 1.0
    assert float(neglect(maps, both)) == pytest.approx(1.0)


def test_its_gradient_is_that_of_finite_differences() -> None:
    maps = torch.rand(2, 3, 4, 5, generator=noise()).double().div_(20).requires_grad_()
    subjects = torch.tensor([[False, True, False, True, False]] * 2)
    assert torch.autograd.gradcheck(lambda m: neglect(m, subjects), maps)
