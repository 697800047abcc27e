"""timm's vision transformers: fused and written-out attention, windows, channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import foveate as fv
from foveate.adapters.sites import sites
from timm_alone import imported


@pytest.fixture(scope="module")
def timm() -> Iterator[Any]:
    with imported() as found:
        yield found


SMALL: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
}
SWIN: dict[str, Any] = {"img_size": 32, "patch_size": 4, "embed_dim": 16, "window_size": 4}
MODELS: dict[str, tuple[str, dict[str, Any], dict[tuple[str, str], int]]] = {
    "ViT": ("vit_tiny_patch16_224", SMALL, {("vision", "rebound"): 2}),
    "DeiT III": ("deit3_small_patch16_224", SMALL, {("vision", "rebound"): 2}),
    "BEiT": ("beit_base_patch16_224", SMALL, {("vision", "rebound"): 2}),
    "CaiT": (
        "cait_xxs24_224",
        SMALL,
        {("vision", "intercepted"): 2, ("vision.blocks_token_only", "rebound"): 2},
    ),
    "Swin": (
        "swin_tiny_patch4_window7_224",
        SWIN | {"depths": (2, 2), "num_heads": (2, 4)},
        {("vision", "intercepted"): 4},
    ),
}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_vision_transformers(timm: Any, name: str) -> None:
    architecture, options, want = MODELS[name]
    torch.manual_seed(0)
    model = timm.create_model(architecture, pretrained=False, num_classes=5, **options).eval()
    image = torch.randn(2, 3, 32, 32)
    assert dict(Counter((site.stack, site.reach) for site in sites(model))) == want
    plain = model(image)
    with fv.attach(model) as run:
        assert torch.equal(model(image), plain)
    assert run.calls[0].sites == dict(Counter(site.stack for site in sites(model)))
    everything = {stack: n for (stack, _), n in want.items()}
    for stack in everything:
        measure = fv.Measure(fv.entropy(), fv.received(), stack=stack)
        with fv.attach(model, measure) as run:
            assert torch.allclose(model(image), plain, atol=1e-5)
        for layer in run.coverage:
            assert layer.state == ("touched" if layer.stack == stack else "passed over")
    assert torch.equal(model(image), plain)


@torch.no_grad()
def test_registers_and_patches_as_regions(timm: Any) -> None:
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, **SMALL).eval()
    image = torch.randn(2, 3, 32, 32)
    seen: list[torch.Tensor] = []
    handle = model.blocks[0].attn.register_forward_hook(lambda m, a, out: seen.append(out))
    patches = torch.arange(17) >= 1  # a class token, then 4 × 4 patches
    with fv.attach(model, fv.Measure(fv.mass("patches")), regions={"patches": patches}) as run:
        plain = model(image)
    with fv.attach(model, fv.Emphasize("patches", gain=1e6), regions={"patches": patches}):
        turned = model(image)
    handle.remove()
    mass = run.results["mass:patches"].prefill
    assert mass.shape == (2, 2, 4, 17) and bool((mass > 0).all()) and bool((mass < 1).all())
    assert not torch.allclose(plain, turned, atol=1e-4)
    # the first layer by hand: all probability on the patches
    attn = model.blocks[0].attn
    x = model.blocks[0].norm1(model._pos_embed(model.patch_embed(image)))
    q, k, v = attn.qkv(x).view(2, 17, 3, 4, 8).permute(2, 0, 3, 1, 4)
    P = (q @ k.mT / 8**0.5)[..., 1:].softmax(-1)
    want = attn.proj((P @ v[:, :, 1:]).transpose(1, 2).flatten(2))
    assert torch.allclose(seen[1], want, atol=1e-4)


@torch.no_grad()
def test_channels_over_channels_are_refused(timm: Any) -> None:
    model = timm.create_model("xcit_nano_12_p16_224", pretrained=False, img_size=32).eval()
    image = torch.randn(1, 3, 32, 32)
    plain = model(image)
    with fv.attach(model):
        assert torch.equal(model(image), plain)
    with pytest.raises(fv.FoveateError, match=r"blocks\.0\.attn \(XCA\).*no softmax over keys"):
        with fv.attach(model, fv.Measure(fv.entropy(), stack="vision")):
            model(image)
