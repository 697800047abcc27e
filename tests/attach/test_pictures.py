"""Attached wherever a picture is: in towers, projectors, decoders and denoisers.

A gain of 3 on a region that had the share m gives it 3m / (1 + 2m), in the first layer of a stack,
whose inputs it does not change: the same formula at every kind of site.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate as fv
import pictured
from denoisers import TEXT, denoiser, given
from foveate.methods._scope import Scope
from pictured import noise, processor

pytest.importorskip("PIL")


def shares(model: Any, inputs: Mapping[str, Any], *methods: Any, stack: str, **how: Any) -> Tensor:
    """What the region ``box`` has in the first layer of a stack: ``[B, H, Sq]``."""
    seen = fv.Measure(fv.mass("box"), stack=stack, layers=0)
    with torch.no_grad(), fv.attach(model, *methods, seen, **how) as run:
        model(**inputs)
    return run.results["mass:box"].stack(stack).prefill[0]


def check_gain(model: Any, inputs: Mapping[str, Any], stack: str, **how: Any) -> None:
    before = shares(model, inputs, stack=stack, **how)
    gain = fv.Emphasize("box", 3.0, stack=stack, layers=0)
    after = shares(model, inputs, gain, stack=stack, **how)
    where = before > 0
    assert where.any() and (before < 1).any()
    torch.testing.assert_close(after, 3 * before / (1 + 2 * before), rtol=1e-4, atol=1e-5)


def llava() -> tuple[Any, fv.Prompt]:
    content = [{"type": "image", "image": noise(16, 16)}, {"type": "text", "text": "what?"}]
    prompt = fv.Prompt(processor("llava"), [{"role": "user", "content": content}])
    return pictured.model("llava"), prompt.mark_box("box", (4, 0, 12, 8))


def test_the_decoder_of_a_model_that_sees() -> None:
    model, prompt = llava()
    check_gain(model, prompt.inputs, "decoder", prompt=prompt)


def test_the_tower_inside_it() -> None:
    model, prompt = llava()
    grid = fv.Grid(4, 4, width=16, height=16, lead=1)
    check_gain(model, prompt.inputs, "vision", regions={"box": grid.mask((4, 0, 12, 8))})


def test_a_tower_alone() -> None:
    tower = pictured.model("llava").model.vision_tower
    picture = fv.Picture(processor("llava"), noise(40, 64), tower)
    picture.mark_box("box", (0, 0, 32, 20))
    assert picture.positions("box") == [1, 2, 5, 6] and picture.length == 17
    check_gain(tower, picture.inputs, "vision", prompt=picture)


def test_a_projector_that_asks_the_picture() -> None:
    """Learned queries look at the patches by cross-attention (Q-Former)."""
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    own = Blip2QFormerConfig(
        **size, intermediate_size=32, encoder_hidden_size=16, cross_attention_frequency=1
    )
    model = Blip2QFormerModel(own).eval()
    inputs = {
        "query_embeds": torch.randn(2, 3, 16),
        "encoder_hidden_states": torch.randn(2, 17, 16),
    }
    grid = fv.Grid(4, 4, lead=1)
    check_gain(model, inputs, "cross", regions={"box": grid.mask((0, 0, 2, 3))})


@pytest.mark.parametrize(
    ("name", "stack", "side"),
    [("unet", "unet.down.0.self", 8), ("sd3", "joint", 4), ("sd3", "self", 4)],
)
def test_a_denoisers_picture(name: str, stack: str, side: int) -> None:
    grid = fv.Grid(side, side, width=32, height=32)
    box = {"box": grid.mask((0, 0, 16, 8))}
    model = denoiser(name)
    check_gain(model, given(name), stack, regions=box)
    # a region of the image fits nowhere else
    with (
        torch.no_grad(),
        fv.attach(model, fv.Measure(fv.mass("box"), stack="all"), regions=box) as run,
    ):
        model(**given(name))
    assert stack in run.results["mass:box"].stacks


def test_the_words_a_unet_looks_at() -> None:
    words = torch.arange(TEXT) == 2
    check_gain(denoiser("unet"), given("unet"), "unet.down.0.cross", regions={"box": words})


@dataclass(eq=False)
class Block:
    """A gain on one of the four blocks of joint attention: on what looks, and what is looked at."""

    looks: str
    at: str
    gain: float

    def __post_init__(self) -> None:
        self.scope = Scope.of(layers=0, stack="joint")
        self.regions = (self.looks, self.at)

    def rewrite(self, program: Any, site: Any, call: Any) -> Any:
        asks = call.queries(self.looks)
        return program.with_gain(self.at, torch.where(asks, self.gain, 1.0).expand(2, 4, -1))


@pytest.mark.parametrize("looks", ["text", "image"])
@pytest.mark.parametrize("at", ["text", "image"])
def test_the_four_blocks_of_joint_attention(looks: str, at: str) -> None:
    model, inputs = denoiser("sd3"), given("sd3")
    parts = {"image": slice(None, -TEXT), "text": slice(-TEXT, None)}

    def read(*methods: Any) -> dict[str, Tensor]:
        seen = fv.Measure(fv.mass("text"), fv.mass("image"), stack="joint", layers=0)
        with torch.no_grad(), fv.attach(model, *methods, seen) as run:
            model(**inputs)
        return {part: run.results[f"mass:{part}"].prefill[0] for part in parts}

    before, after = read(), read(Block(looks, at, 3.0))
    torch.testing.assert_close(before["text"] + before["image"], torch.ones(2, 4, 16 + TEXT))
    own = before[at][..., parts[looks]]
    wanted = 3 * own / (1 + 2 * own)
    torch.testing.assert_close(after[at][..., parts[looks]], wanted, rtol=1e-4, atol=1e-5)
    (other,) = set(parts) - {looks}
    rest = parts[other]
    torch.testing.assert_close(after[at][..., rest], before[at][..., rest], rtol=1e-5, atol=1e-6)


def test_steps_of_a_region_of_the_picture() -> None:
    model = denoiser("unet")
    box = {"box": fv.Grid(8, 8).mask((0, 0, 4, 4))}
    gain = fv.Emphasize("box", 3.0, stack="unet.down.0.self", steps=[1])
    times = (900.0, 500.0, 100.0)
    with torch.no_grad():
        plain = [model(**given("unet", time=time)).sample for time in times]
        with fv.attach(model, gain, regions=box):
            turned = [model(**given("unet", time=time)).sample for time in times]
    same = [torch.allclose(a, b) for a, b in zip(plain, turned, strict=True)]
    assert same == [True, False, True]


def test_the_model_that_draws() -> None:
    """Words and places of the shipped MM-DiT, in its pipeline, under guidance, at one step."""
    pytest.importorskip("diffusers")
    pipe, _ = fv.load("shapes-dit")
    pipe.set_progress_bar_config(disable=True)
    text = "a red circle and a blue square"
    prompt = fv.Prompt(pipe.tokenizer, text).mark("red", "red circle")
    left = {"left": fv.Grid(8, 8, width=32, height=32).mask((0, 0, 16, 32))}
    seen = fv.Measure(fv.mass("red"), fv.mass("left"), fv.mass("text"), stack="joint")

    def draw(*methods: Any) -> tuple[Any, Any]:
        with fv.attach(pipe, *methods, seen, prompt=prompt, regions=left) as run:
            drawn = pipe(
                text, num_inference_steps=2, guidance_scale=4.0, output_type="np",
                generator=torch.Generator().manual_seed(0),
            ).images  # fmt: skip
        return torch.from_numpy(drawn), run

    plain, run = draw()
    length = run.results["mass:text"].prefill.shape[-1] - 64
    assert run.results["mass:red"].prefill.shape == (4, 2, 4, 64 + length)
    for region in ("red", "left"):  # the first half of the batch is the negative prompt's
        mass = run.results[f"mass:{region}"].prefill
        assert not mass[:, 0].any() and (mass[:, 1] > 0).all()
    assert run.results["mass:text"].prefill.amin() > 0
    turned, _ = draw(fv.Emphasize("red", 5.0, stack="joint", steps=[1]))
    assert not torch.equal(turned, plain)
    never, _ = draw(fv.Emphasize("red", 5.0, stack="joint", steps=[7]))
    assert torch.equal(never, plain)
