"""The pipelines of the world of shapes: diffusers' loops without an autoencoder."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import denoisers
import foveate as fv
from foveate.errors import FoveateError

pytest.importorskip("diffusers")

PROMPT = "a red circle and a blue square"
NAMES = ("dit", "unet")
SIDE = {"dit": 8, "unet": 16}  # of a picture
WIDE = 12  # tokens of a prompt, the padding included


def fresh(name: str) -> Any:
    """A pipeline with random weights."""
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    from foveate.models.pipelines import ShapesDiTPipeline, ShapesUNetPipeline

    encoder, tokenizer = denoisers.clip()
    rest = {"text_encoder": encoder, "tokenizer": tokenizer}
    if name == "dit":
        channels = {"in_channels": 3, "out_channels": 3, "pooled_projection_dim": 32}
        transformer = denoisers.denoiser("sd3", **channels, dual_attention_layers=())
        pipe: Any = ShapesDiTPipeline(transformer, FlowMatchEulerDiscreteScheduler(), **rest)
    else:
        unet = denoisers.denoiser("unet", in_channels=12, out_channels=12)
        scheduler = DDIMScheduler(clip_sample=False, prediction_type="v_prediction")
        pipe = ShapesUNetPipeline(unet, scheduler, **rest)
    pipe.set_progress_bar_config(disable=True)
    return pipe


made = cache(fresh)


def drawn(pipe: Any, prompt: Any = PROMPT, **options: Any) -> Tensor:
    options = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "pt"} | options
    seeded = {"generator": torch.Generator().manual_seed(0)} if "latents" not in options else {}
    return pipe(prompt, **seeded, **options).images


@pytest.mark.parametrize("fold", [1, 2, 4])
def test_pixels_come_back_as_they_were(fold: int) -> None:
    from foveate.models.pipelines import Pixels

    pictures, coder = torch.randn(2, 3, 8, 16), Pixels(fold)
    latents = coder.encode(pictures)
    assert latents.shape == (2, 3 * fold**2, 8 // fold, 16 // fold)
    assert torch.equal(latents[:, :, 0, 0].view(2, 3, fold, fold), pictures[:, :, :fold, :fold])
    assert torch.equal(coder.decode(latents, return_dict=False)[0], pictures)
    assert 2 ** (len(coder.config.block_out_channels) - 1) == fold


@pytest.mark.parametrize("name", NAMES)
def test_pictures(name: str) -> None:
    pipe, side = made(name), SIDE[name]
    (picture,) = drawn(pipe, output_type="pil")
    assert picture.size == (side, side) and picture.mode == "RGB"
    one = drawn(pipe)
    assert one.shape == (1, 3, side, side)
    assert torch.equal(one, drawn(pipe))
    for other in ({"guidance_scale": 1.0}, {"negative_prompt": "red"}, {"num_inference_steps": 2}):
        assert not torch.allclose(one, drawn(pipe, **other), atol=1e-3)
    assert not torch.allclose(one, drawn(pipe, "a blue square"), atol=1e-3)
    several = drawn(pipe, [PROMPT, "red"], negative_prompt=["", "blue"], num_images_per_prompt=2)
    assert several.shape == (4, 3, side, side)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_loop_written_out(name: str) -> None:
    from foveate.models.pipelines import encoded

    pipe = made(name)
    latents = torch.randn(2, *((3, 8, 8) if name == "dit" else (12, 8, 8)))
    got = drawn(pipe, [PROMPT, "red"], latents=latents, output_type="latent")
    texts, pooled = encoded(pipe.text_encoder, pipe.tokenizer, ["", "", PROMPT, "red"])
    pipe.scheduler.set_timesteps(3)
    x = latents * (1.0 if name == "dit" else pipe.scheduler.init_noise_sigma)
    for time in pipe.scheduler.timesteps:
        twice = torch.cat([x, x])
        if name == "dit":
            out = pipe.transformer(twice, texts, pooled, time.expand(4)).sample
        else:
            out = pipe.unet(twice, time, encoder_hidden_states=texts).sample
        without, given = out.chunk(2)
        x = pipe.scheduler.step(without + 4.0 * (given - without), time, x).prev_sample
    assert torch.allclose(got, x, atol=1e-5 * float(x.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_a_callback_sees_each_step_and_may_change_it(name: str) -> None:
    pipe, steps = made(name), []

    def at_end(pipe: Any, step: int, time: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(step)
        return {"latents": torch.zeros_like(given["latents"])}

    got = drawn(pipe, callback_on_step_end=at_end)
    assert steps == [0, 1, 2]
    assert torch.equal(got, torch.full_like(got, 0.5))


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_for_prompts(name: str) -> None:
    from foveate.models.pipelines import encoded

    pipe = made(name)
    texts, pooled = encoded(pipe.text_encoder, pipe.tokenizer, [PROMPT, "red"])
    embedded = {"prompt_embeds": texts.detach()}
    if name == "dit":
        embedded["pooled_prompt_embeds"] = pooled.detach()
    else:
        embedded["negative_prompt_embeds"] = encoded(pipe.text_encoder, pipe.tokenizer, ["", ""])[
            0
        ].detach()
    assert torch.allclose(drawn(pipe, None, **embedded), drawn(pipe, [PROMPT, "red"]), atol=1e-5)


def test_prompts_that_nobody_reads() -> None:
    with pytest.raises(FoveateError, match="one text encoder"):
        drawn(made("dit"), prompt_2="a blue square")
    assert torch.equal(drawn(made("dit"), prompt_2=PROMPT), drawn(made("dit")))
    with pytest.raises(FoveateError, match="2 negative prompts were given for 1 prompts"):
        drawn(made("dit"), [PROMPT], negative_prompt=["red", "blue"])


@pytest.mark.parametrize("name", NAMES)
def test_saved_in_half_and_loaded(name: str, tmp_path: Any) -> None:
    import copy

    half = copy.deepcopy(made(name)).to(torch.bfloat16)
    half.save_pretrained(tmp_path)
    pipe, nothing = fv.load(tmp_path)
    assert nothing is None and type(pipe) is type(half)
    assert set(pipe.components) == set(half.components)
    pipe.set_progress_bar_config(disable=True)
    assert torch.equal(drawn(pipe), drawn(half.to(torch.float32)))


# -- through the engine ----------------------------------------------------------------------------
def prompted(pipe: Any) -> fv.Prompt:
    prompt = fv.Prompt(pipe.tokenizer, PROMPT)
    prompt.mark("red", "red circle")
    return prompt


STACK = {"dit": "joint", "unet": "cross"}


@pytest.mark.parametrize("name", NAMES)
def test_being_attached_changes_nothing(name: str) -> None:
    pipe = made(name)
    want = drawn(pipe)
    with fv.attach(pipe) as run:
        assert torch.equal(drawn(pipe), want)
    assert [call.step for call in run.calls if call.batch == 2] == [0, 1, 2]
    assert torch.equal(drawn(pipe), want)


@pytest.mark.parametrize("name", NAMES)
def test_a_region_is_the_prompts_alone(name: str) -> None:
    """These classes do not hold the loop themselves, so who is guided is read one class up."""
    pipe = made(name)
    with fv.attach(
        pipe, fv.Measure(fv.mass("red"), stack=STACK[name]), prompt=prompted(pipe)
    ) as run:
        drawn(pipe)
    result = run.results["mass:red"]
    mass = (result if name == "dit" else result.stack("unet.mid.cross")).prefill
    assert float(mass[:, 0].abs().max()) == 0.0 < float(mass[:, 1].min())


@pytest.mark.parametrize("name", NAMES)
def test_methods_act_at_the_steps_they_are_for(name: str) -> None:
    pipe, seen = made(name), []

    def keep(pipe: Any, step: int, time: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(given["latents"].clone())
        return {}

    drawn(pipe, callback_on_step_end=keep)
    plain, seen = seen, []
    method = fv.Emphasize("red", 8.0, stack=STACK[name], steps=[1])
    with fv.attach(pipe, method, prompt=prompted(pipe)) as run:
        drawn(pipe, callback_on_step_end=keep)
    edited = [call.edited > 0 for call in run.calls if call.batch == 2]
    assert edited == [False, True, False]
    assert torch.equal(plain[0], seen[0])
    assert not torch.allclose(plain[1], seen[1], rtol=1e-3)


def test_the_four_blocks_of_joint_attention() -> None:
    pipe = made("dit")
    image = (SIDE["dit"] // pipe.transformer.config.patch_size) ** 2
    both = [fv.mass("text"), fv.mass("image")]
    with fv.attach(pipe, fv.Measure(*both, stack="joint")) as run:
        drawn(pipe)
    text, picture = (run.results[f"mass:{part}"].prefill for part in ("text", "image"))
    assert text.shape[-1] == image + WIDE  # the image's queries come first
    assert torch.allclose(text + picture, torch.ones(()), atol=1e-5)
    before = picture[..., :image].mean()
    with fv.attach(
        pipe, fv.Emphasize("image", 9.0, stack="joint"), fv.Measure(*both, stack="joint")
    ) as run:
        drawn(pipe)
    assert float(run.results["mass:image"].prefill[..., :image].mean()) > float(before)
