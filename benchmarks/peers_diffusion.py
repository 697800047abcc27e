"""Attend-and-Excite and PAG against diffusers' own pipelines, on the same parts and noise.

``python -m benchmarks.peers_diffusion`` writes ``results/peers_diffusion.json``. The parts are
random: a UNet of Stable Diffusion's blocks and a transformer of Stable Diffusion 3's, with few
channels. Times are of one thread; each candidate runs in a process of its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .harness import in_fresh_process, peak_extra_mb, save_peers

TEXT = "red circle and blue square"
SUBJECTS = [2, 5]  # circle and square, behind the token that begins the text
LENGTH = 77  # tokens of the text, as in Stable Diffusion
STEPS, GUIDED = 3, 2  # denoising steps, and those in which the latents are moved
PIXELS = 2  # of the picture a latent, in each direction
ENOUGH, REPEATS = 4, 5  # seconds behind which nothing is drawn again, and most drawings


# -- the parts ---------------------------------------------------------------------------------
def spread(model: nn.Module) -> Any:
    """Random weights under which attention is not even."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and any(part in name for part in ("to_q", "to_k", "add_")):
                weight.normal_(std=2 * weight.shape[1] ** -0.5)
    return model.eval()


def vae() -> Any:
    """An autoencoder that halves each side; pictures are not decoded here."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4, 4), norm_num_groups=2, sample_size=16, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip


def clip() -> tuple[Any, Any]:
    """A CLIP text encoder, and a tokenizer to which each word of the text is a token."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    vocabulary = {chr(code): code - 97 for code in range(97, 123)}
    vocabulary |= {f"{letter}</w>": 26 + at for letter, at in vocabulary.items()}
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys(TEXT.split()):
        left, *rest = *word[:-1], f"{word[-1]}</w>"
        for right in rest:
            if (left, right) not in merges:
                merges.append((left, right))
            left += right
            vocabulary.setdefault(left, len(vocabulary))
    first, last = len(vocabulary), len(vocabulary) + 1
    vocabulary |= {"<|startoftext|>": first, "<|endoftext|>": last}
    config = CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=LENGTH, bos_token_id=first,
        eos_token_id=last, pad_token_id=last,
    )  # fmt: skip
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)
    return CLIPTextModel(config).eval(), tokenizer


def unet_parts() -> dict[str, Any]:
    """What Stable Diffusion's pipelines are made of: four places, two heads at each."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    encoder, tokenizer = clip()
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64, 128, 128), attention_head_dim=2, cross_attention_dim=32,
        sample_size=64, norm_num_groups=8,
    )  # fmt: skip
    return {
        "unet": spread(unet), "vae": vae(), "text_encoder": encoder, "tokenizer": tokenizer,
        "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1),
        "safety_checker": None, "feature_extractor": None,
    }  # fmt: skip


def joint_parts() -> dict[str, Any]:
    """What Stable Diffusion 3's pipelines are made of; its texts come as embeddings.

    Without norms of queries and keys, which diffusers' PAG leaves out.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=128, patch_size=2, in_channels=4, out_channels=4, num_layers=4,
        attention_head_dim=16, num_attention_heads=4, caption_projection_dim=64,
        joint_attention_dim=32, pooled_projection_dim=64, pos_embed_max_size=64,
    )  # fmt: skip
    absent = (f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3"))
    return dict.fromkeys(absent) | {
        "transformer": spread(transformer), "vae": vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
    }  # fmt: skip


# -- candidates: latents of one picture, drawn under classifier-free guidance --------------------
def told(side: int, steps: int) -> dict[str, Any]:
    """What every pipeline is called with."""
    return {
        "height": PIXELS * side, "width": PIXELS * side, "num_inference_steps": steps,
        "guidance_scale": 4.0, "output_type": "latent",
        "generator": torch.Generator().manual_seed(3),
    }  # fmt: skip


def embedded() -> dict[str, Tensor]:
    """A prompt and a negative one as Stable Diffusion 3 has them."""
    g = torch.Generator().manual_seed(1)
    shapes = {"prompt_embeds": (1, LENGTH, 32), "pooled_prompt_embeds": (1, 64)}
    return {
        f"{negative}{name}": torch.randn(shape, generator=g)
        for name, shape in shapes.items()
        for negative in ("", "negative_")
    }


def quiet(pipeline: Any) -> Any:
    """Without a progress bar."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def plain() -> Any:
    """Stable Diffusion's pipeline."""
    from diffusers import StableDiffusionPipeline

    return quiet(StableDiffusionPipeline(**unet_parts(), requires_safety_checker=False))


def plain_joint() -> Any:
    """Stable Diffusion 3's pipeline."""
    from diffusers import StableDiffusion3Pipeline

    return quiet(StableDiffusion3Pipeline(**joint_parts()))


Draw = Callable[[int, int], Tensor]


def alone() -> Draw:
    """No method."""
    pipeline = plain()
    return lambda side, steps: pipeline(TEXT, **told(side, steps)).images


def alone_joint() -> Draw:
    """No method, on the transformer."""
    pipeline = plain_joint()
    return lambda side, steps: pipeline(**embedded(), **told(side, steps)).images


def excite_theirs() -> Draw:
    """Every attention, the image's own too, written out as a map."""
    from diffusers import StableDiffusionAttendAndExcitePipeline

    pipeline = quiet(
        StableDiffusionAttendAndExcitePipeline(**unet_parts(), requires_safety_checker=False)
    )
    return lambda side, steps: pipeline(
        TEXT, SUBJECTS, attn_res=(16, 16), max_iter_to_alter=GUIDED, thresholds={},
        **told(side, steps),
    ).images  # fmt: skip


def excite_ours() -> Draw:
    """The same through foveate, on the plain pipeline."""
    import foveate as fv

    pipeline = plain()
    prompt = fv.Prompt(pipeline.tokenizer, TEXT).mark("subjects", "circle")
    prompt = prompt.mark("subjects", "square")

    def draw(side: int, steps: int) -> Tensor:
        method = fv.AttendAndExcite("subjects", until=GUIDED / STEPS, thresholds={}, resolution=256)
        with fv.attach(pipeline, method, prompt=prompt):
            found: Tensor = pipeline(TEXT, **told(side, steps)).images
        return found

    return draw


def pag_theirs() -> Draw:
    """Three rows a forward: negative, prompt, prompt with the identity in the middle block."""
    from diffusers import StableDiffusionPAGPipeline

    pipeline = quiet(
        StableDiffusionPAGPipeline(
            **unet_parts(), requires_safety_checker=False, pag_applied_layers="mid"
        )
    )
    return lambda side, steps: pipeline(TEXT, pag_scale=3.0, **told(side, steps)).images


def pag_ours() -> Draw:
    """Two forwards a step: of two rows, and of the prompt's."""
    import foveate as fv

    pipeline = plain()

    def draw(side: int, steps: int) -> Tensor:
        with fv.attach(pipeline, fv.PAG(3.0, stack="unet.mid.self")):
            found: Tensor = pipeline(TEXT, **told(side, steps)).images
        return found

    return draw


def joint_theirs() -> Draw:
    """The image sees itself and the text, by a dense mask, in two of four layers."""
    from diffusers import StableDiffusion3PAGPipeline

    layers = [r"transformer_blocks\.1\.", r"transformer_blocks\.2\."]
    pipeline = quiet(StableDiffusion3PAGPipeline(**joint_parts(), pag_applied_layers=layers))
    return lambda side, steps: pipeline(
        **embedded(), pag_scale=3.0, **told(side, steps)
    ).images  # fmt: skip


def joint_ours() -> Draw:
    """The same through foveate."""
    import foveate as fv

    pipeline = plain_joint()

    def draw(side: int, steps: int) -> Tensor:
        with fv.attach(pipeline, fv.PAG(3.0, tokens="image", layers=[1, 2])):
            found: Tensor = pipeline(**embedded(), **told(side, steps)).images
        return found

    return draw


# name -> how to build it; in threes: the plain pipeline, theirs, ours
CANDIDATES: dict[str, dict[str, Callable[[], Draw]]] = {
    "Attend-and-Excite, UNet": {
        "no method": alone, "diffusers": excite_theirs, "foveate": excite_ours
    },
    "PAG, UNet": {"no method": alone, "diffusers": pag_theirs, "foveate": pag_ours},
    "PAG, joint": {
        "no method": alone_joint, "diffusers": joint_theirs, "foveate": joint_ours
    },
}  # fmt: skip
SIDES = {"Attend-and-Excite, UNet": (16, 64), "PAG, UNet": (16, 64), "PAG, joint": (32, 128)}
# ours to theirs, said before the first run: seconds, extra MB
PREDICTED = {
    ("Attend-and-Excite, UNet", 16): (1.2, 1.0), ("Attend-and-Excite, UNet", 64): (0.4, 0.25),
    ("PAG, UNet", 16): (1.2, 1.0), ("PAG, UNet", 64): (1.0, 0.8),
    ("PAG, joint", 32): (1.1, 1.0), ("PAG, joint", 128): (0.95, 0.7),
}  # fmt: skip


def one(group: str, name: str, side: int) -> None:
    """Run one candidate in this process: seconds, memory, latents, as JSON on the last line."""
    torch.set_num_threads(1)
    draw = CANDIDATES[group][name]()
    draw(16, 2)  # imports and first times
    kept: list[Tensor] = []
    seconds: list[float] = []

    def timed() -> None:
        start = time.perf_counter()
        kept.append(draw(side, STEPS))
        seconds.append(time.perf_counter() - start)

    memory = peak_extra_mb(timed)
    while sum(seconds) < ENOUGH and len(seconds) < REPEATS:
        timed()
    latents = kept[0].detach().flatten().tolist()
    print(json.dumps({"seconds": min(seconds), "extra_mb": memory, "latents": latents}))


def compared(group: str, side: int) -> list[dict[str, Any]]:
    """The rows of one group at one size of latents."""
    size = f"latents {side}×{side}"
    found = {
        name: in_fresh_process("benchmarks.peers_diffusion", group, name, str(side))
        for name in CANDIDATES[group]
    }
    base, theirs, ours = (torch.tensor(row.pop("latents")) for row in found.values())
    apart = float((theirs - ours).abs().max() / ours.abs().max())
    moved = float((base - ours).abs().max() / ours.abs().max())
    assert moved > 100 * apart, f"{group} at {size}: moved by {moved:.1e}, apart by {apart:.1e}"
    rows = []
    for name, row in found.items():
        error = moved if name == "no method" else apart
        key = "largest difference, relative"
        rows.append({"name": f"{group}, {name}", "size": size, **row, key: error})
        print(
            f"  {rows[-1]['name']:<36} {size:<16} {row['seconds']:7.2f} s "
            f"{row['extra_mb']:7.0f} MB  difference {error:.1e}",
            flush=True,
        )
    return rows


def told_before(rows: list[dict[str, Any]]) -> str:
    """What was predicted, and what came."""
    by = {(row["name"], row["size"]): row for row in rows}
    parts = []
    for (group, side), (seconds, memory) in PREDICTED.items():
        size = f"latents {side}×{side}"
        if (f"{group}, foveate", size) not in by:
            continue
        theirs, ours = (by[f"{group}, {name}", size] for name in ("diffusers", "foveate"))
        parts.append(
            f"{group} at {side}×{side}: seconds {ours['seconds'] / theirs['seconds']:.2f} "
            f"({seconds:g}), memory {ours['extra_mb'] / max(theirs['extra_mb'], 1):.2f} "
            f"({memory:g})"
        )
    return "; ".join(parts)


def write(rows: list[dict[str, Any]]) -> None:
    """Write the file with what there is."""
    import diffusers

    save_peers(
        "peers_diffusion",
        "Attend-and-Excite and PAG, float32, one picture, "
        f"{STEPS} steps under classifier-free guidance",
        rows,
        f"diffusers {diffusers.__version__}; random parts, two heads in the UNet (Stable "
        "Diffusion has eight), four in the transformer. The difference is that of the latents at "
        "the end, relative to the largest; without a method it is what the method changes. "
        f"Seconds are the best of up to {REPEATS} drawings, memory is the first's. "
        f"Attend-and-Excite moves the latents in {GUIDED} of the steps, without thresholds. "
        "foveate's share of diffusers' seconds and memory, with what had been predicted before the "
        f"first run: {told_before(rows)}.",
    )


def main() -> None:
    """Measure all; the file is written behind each comparison."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for group, sides in SIDES.items():
        for side in sides:
            rows += compared(group, side)
            write(rows)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        one(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main()
