"""PAG, head by head and softly: against attention written out, and diffusers' own guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import foveate as fv
from denoisers import IMAGE, denoiser, given, stable_diffusion, stable_diffusion_3
from foveate.methods._method import Method

Make = Callable[..., Any]
Edit = Callable[[int, Tensor], Tensor]


def baseline(*args: Any, stack: Any = None, **kwargs: Any) -> Any:
    """Doing nothing."""
    return Method(stack=stack)


class WrittenOut(TorchFunctionMode):
    """Attention in float64, its maps ``[B, H, Sq, Sk]`` edited call by call."""

    def __init__(self, edit: Edit) -> None:
        super().__init__()
        self.edit, self.calls = edit, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **kwargs or {})
        q, k, v = args or [kwargs[name] for name in ("query", "key", "value")]
        scores = q.double() @ k.double().transpose(-1, -2) * q.shape[-1] ** -0.5
        maps = self.edit(self.calls, scores.softmax(-1))
        self.calls += 1
        return (maps @ v.double()).to(v.dtype)


def softly(maps: Tensor, u: float, heads: list[int], image: int | None = None) -> Tensor:
    """``(1 - u) A + u I`` (paper, eq. 7); with the image's tokens first, or only theirs."""
    eye = torch.eye(maps.shape[-1], dtype=maps.dtype).expand_as(maps)
    if image is not None:
        kept = maps.clone()
        kept[..., :image, :image] *= eye[..., :image, :image]
        eye = kept / kept.sum(-1, keepdim=True)
    new = maps.clone()
    new[:, heads] = (1 - u) * maps[:, heads] + u * eye[:, heads]
    return new


def check(make: Make) -> None:
    """``e + w (e - e_weak)`` with the weak forward's maps written out in float64."""
    # denoiser, options, scope, the calls in their order and the heads of each that this means
    joint = "sd3", {"dual_attention_layers": ()}
    unet = "unet", {}
    cases: list[tuple[Any, dict[str, Any], dict[int, list[int]], float, float]] = [
        (joint, {}, {0: [0, 1, 2, 3], 1: [0, 1, 2, 3]}, 2.0, 1.0),
        (joint, {"layers": 1}, {1: [0, 1, 2, 3]}, 3.0, 0.4),
        (joint, {"heads": [(0, 2), (1, 0), (1, 3)]}, {0: [2], 1: [0, 3]}, 1.5, 0.7),
        (joint, {"layers": 0, "tokens": "image"}, {0: [0, 1, 2, 3]}, 2.0, 1.0),
        (joint, {"heads": {1: [1]}, "tokens": "image"}, {1: [1]}, 2.0, 0.3),
        (unet, {"stack": "unet.down.0.self"}, {0: [0, 1]}, 2.0, 1.0),
        (unet, {"stack": "self", "heads": [1]}, {0: [1], 2: [1], 4: [1], 6: [1]}, 2.0, 0.5),
        (joint, {"layers": 1}, {}, 2.0, 0.0),
    ]
    for (name, options), scope, edited, w, u in cases:
        model, told = denoiser(name, **options), given(name)
        image = IMAGE[name] if scope.get("tokens") == "image" else None

        def edit(
            call: int,
            maps: Tensor,
            edited: Any = edited,
            u: float = u,
            image: int | None = image,
        ) -> Tensor:
            return softly(maps, u, edited[call], image) if call in edited else maps

        with torch.no_grad():
            strong = model(**told).sample
            with WrittenOut(edit):
                weak = model(**told).sample
            with fv.attach(model, make(w, u, **scope)):
                got = model(**told).sample
        want = strong + w * (strong - weak)
        assert u == 0 or not torch.allclose(strong, want, atol=1e-3), (name, scope)
        assert torch.allclose(got, want, atol=1e-4), (name, scope, float((got - want).abs().max()))


def test_it_is_the_papers_formula() -> None:
    check(fv.PAG)


# --- peers: diffusers' own guidance, on the same parts and the same noise


def drawn(pipe: Any, guidance: float, *methods: Any, **options: Any) -> Tensor:
    """Pictures of a tiny pipeline, with ``methods`` attached where there are any."""
    g = torch.Generator().manual_seed(1)
    told: dict[str, Any] = {"prompt": ["red circle", "blue square"]}
    if pipe.tokenizer is None:
        shapes = {"prompt_embeds": (2, 7, 32), "pooled_prompt_embeds": (2, 64)}
        told = {
            f"{negative}{name}": torch.randn(shape, generator=g)
            for name, shape in shapes.items()
            for negative in ("", "negative_")
        }
    told |= {"num_inference_steps": 3, "guidance_scale": guidance, "output_type": "pt"}
    told |= {"height": 16, "width": 16, "generator": torch.Generator().manual_seed(0)}
    if not methods:
        return pipe(**told, **options).images
    with fv.attach(pipe, *methods):
        return pipe(**told, **options).images


@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_a_whole_layer_is_the_pag_of_diffusers_on_a_unet(guidance: float) -> None:
    from diffusers import StableDiffusionPAGPipeline

    pipe = stable_diffusion()
    peer = StableDiffusionPAGPipeline(
        **pipe.components, requires_safety_checker=False, pag_applied_layers=["down_blocks.0"]
    )
    peer.set_progress_bar_config(disable=True)
    want = drawn(peer, guidance, pag_scale=2.0)
    assert not torch.allclose(drawn(pipe, guidance), want, atol=1e-2)
    got = drawn(pipe, guidance, fv.PAG(2.0, stack="unet.down.0.self"))
    assert torch.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_it_is_the_pag_of_diffusers_on_stable_diffusion_3(guidance: float) -> None:
    from diffusers import StableDiffusion3PAGPipeline

    pipe = stable_diffusion_3()
    # theirs leaves the norms of queries and keys out: without those they are the same
    transformer = denoiser("sd3", qk_norm=None, dual_attention_layers=())
    pipe.register_modules(transformer=transformer)
    parts = {name: pipe.components[name] for name in _PARTS}
    peer = StableDiffusion3PAGPipeline(**parts, pag_applied_layers=[r"transformer_blocks\.1\."])
    peer.set_progress_bar_config(disable=True)
    want = drawn(peer, guidance, pag_scale=2.0)
    assert not torch.allclose(drawn(pipe, guidance), want, atol=1e-2)
    got = drawn(pipe, guidance, fv.PAG(2.0, tokens="image", layers=1))
    assert torch.allclose(got, want, atol=1e-5)


_PARTS = (
    *(f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")),
    *("transformer", "scheduler", "vae"),
)


@torch.no_grad()
def test_over_all_tokens_it_is_what_the_guiders_of_diffusers_do() -> None:
    from diffusers.hooks.layer_skip import AttentionScoreSkipFunctionMode

    model, told = denoiser("sd3", dual_attention_layers=()), given("sd3")
    strong = model(**told).sample
    with fv.attach(model, fv.PAG(2.0, layers=1)):
        got = model(**told).sample
    attention = model.transformer_blocks[1].attn
    own = attention.forward

    def skipped(*args: Any, **kwargs: Any) -> Any:  # as their hook, which does not know SD3's class
        with AttentionScoreSkipFunctionMode():
            return own(*args, **kwargs)

    attention.forward = skipped
    weak = model(**told).sample
    assert not torch.allclose(weak, strong, atol=1e-3)
    assert torch.allclose(got, strong + 2 * (strong - weak), atol=1e-5)
