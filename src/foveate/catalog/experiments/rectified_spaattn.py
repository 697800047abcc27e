"""Rectified SpaAttn: sparse joint attention of a diffusion transformer against dense, by density.

Queries, keys and values are recorded from a small SD3 transformer with random weights, whose
latents are smooth in space as those of images are. The same blocks are attended to with and without
rectification; the output's error is read at the image's tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...attach import attach
from ...engine.attention import attention
from ...errors import FoveateError
from ...methods.heads import Capture
from ...methods.sparse import RectifiedSpaAttn
from ...methods.sparse._pooled import chosen, implicit
from ._trial import Trial

SEEDS, SIDE, TEXT, BLOCK = 5, 48, 40, 32
DENSITIES = (0.1, 0.2, 0.4)


def run(progress: Callable[[str], None]) -> Trial:
    """Try it."""
    model = _model()
    plain: dict[float, list[float]] = {d: [] for d in DENSITIES}
    fixed: dict[float, list[float]] = {d: [] for d in DENSITIES}
    every: dict[float, list[float]] = {d: [] for d in DENSITIES}
    masses: dict[str, list[float]] = {"dense": [], "rectified": []}
    for seed in range(SEEDS):
        progress(f"latents {seed + 1} of {SEEDS}")
        for q, k, v, text in _recorded(model, seed):
            image = ~text
            dense = attention(q, k, v).out[:, :, image]
            for density in DENSITIES:
                how: dict[str, Any] = {"block": BLOCK, "density": density, "mass": 0.0}
                for gain, errors in ((True, fixed), (False, every)):
                    rectified = RectifiedSpaAttn(density, 0.0, block=BLOCK, gain=gain)
                    out = attention(q, k, v, regions={"text": text}, operators=[rectified]).out
                    errors[density].append(_error(out[:, :, image], dense))
                scale = q.shape[-1] ** -0.5
                found = implicit(
                    q[:, :, image], k[:, :, image], k[:, :, text], None, None,
                    scale=scale, gain=True, **how,
                )  # fmt: skip
                at = image.nonzero()[:, 0], text.nonzero()[:, 0]
                out, _ = chosen(
                    q[:, :, image], k, v, *at, None, found.critical, scale, BLOCK
                )  # fmt: skip
                plain[density].append(_error(out, dense))
                if density == DENSITIES[1]:
                    masses["dense"].append(_mass(q, k, image, found.critical))
                    given = (found.mass * found.restored).sum(-1)
                    masses["rectified"].append(float((1 - given).mean()))
    middle = DENSITIES[1]
    return Trial(
        baseline=(f"relative error, the top {middle:.0%} of blocks", plain[middle]),
        method=("relative error, the same blocks rectified", fixed[middle]),
        better="lower",
        seeds=tuple(range(SEEDS)),
        details={
            "items": len(plain[middle]),
            "tokens": {"image": (SIDE // 2) ** 2, "text": TEXT},
            "relative error by density": {
                name: {f"{d:g}": _mean(errors[d]) for d in DENSITIES}
                for name, errors in (
                    ("top blocks", plain),
                    ("rectified", fixed),
                    ("rectified, every block given back", every),
                )
            },
            "mass of the blocks attended to and the text": {
                "dense": _mean(masses["dense"]),
                "top blocks": 1.0,
                "rectified": _mean(masses["rectified"]),
            },
        },
    )


def _model() -> Any:
    try:
        from diffusers import SD3Transformer2DModel
    except ImportError as error:
        raise FoveateError(
            "This experiment needs diffusers: pip install 'foveate[diffusion]'."
        ) from error
    torch.manual_seed(0)
    model = SD3Transformer2DModel(
        sample_size=SIDE, patch_size=2, in_channels=4, out_channels=4, num_layers=4,
        attention_head_dim=16, num_attention_heads=4, caption_projection_dim=64,
        joint_attention_dim=32, pooled_projection_dim=32, pos_embed_max_size=SIDE,
    ).eval()  # fmt: skip
    with torch.no_grad():  # initial weights make every attention uniform
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and any(part in name for part in ("to_q", "to_k", "add_")):
                parameter.normal_(std=0.25)
    return model


@torch.no_grad()
def _recorded(model: Any, seed: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """``(q, k, v, text)`` of each joint layer on smooth latents."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 4, SIDE // 6, SIDE // 6, generator=g)
    latents = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic")
    latents = latents + 0.2 * torch.randn(latents.shape, generator=g)
    parts = [Capture(part, stack="joint") for part in ("q", "k", "v")]
    with attach(model, *parts):
        model(
            hidden_states=latents,
            timestep=torch.tensor([300.0]),
            encoder_hidden_states=torch.randn(1, TEXT, 32, generator=g),
            pooled_projections=torch.randn(1, 32, generator=g),
        )
    found = []
    for layer in range(model.config.num_layers):
        q, k, v = (part[layer] for part in parts)
        found.append((q, k, v, torch.arange(k.shape[2]) >= k.shape[2] - TEXT))
    return found


def _mass(q: Tensor, k: Tensor, image: Tensor, critical: Tensor) -> float:
    """What the critical blocks and the text hold of the image's rows under full attention."""
    p = (q[:, :, image] @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    rows = critical.repeat_interleave(BLOCK, -2)[:, :, : p.shape[2]]
    cols = rows.repeat_interleave(BLOCK, -1)[..., : int(image.sum())]
    return float((p[..., image] * cols).sum(-1).add(p[..., ~image].sum(-1)).mean())


def _error(got: Tensor, dense: Tensor) -> float:
    return float((got - dense).norm() / dense.norm())


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4)
