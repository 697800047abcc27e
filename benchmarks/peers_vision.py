"""Maps over a picture against eager attention with ``output_attentions`` and its gradients.

``python -m benchmarks.peers_vision`` writes ``results/peers_vision.json``. The model is random, of
LLaVA's class, with 24 × 24 image tokens a picture as LLaVA-1.5 has. Times are of one thread; each
candidate runs in a process of its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .harness import in_fresh_process, peak_extra_mb, save_peers

SIDE, PATCH = 24, 4  # patches of a picture in each direction, and pixels of a patch
PICTURES = (1, 4)
GENERAL = "describe the picture."


def setting(
    pictures: int, implementation: str | None = None, side: int = SIDE
) -> tuple[Any, Any, Any]:
    """The model, and the two prompts of rel-att with so many pictures."""
    from transformers import LlavaForConditionalGeneration

    import foveate as fv
    from foveate.tasks.shapes import Scene, Thing, render

    torch.set_num_threads(1)
    small, processor = fv.load("shapes-vlm")
    config = small.config
    config.vision_config.image_size = side * PATCH
    decoder = config.text_config
    decoder.hidden_size, decoder.intermediate_size, decoder.head_dim = 256, 512, 32
    decoder.num_attention_heads, decoder.num_key_value_heads = 8, 8
    decoder.num_hidden_layers, decoder.max_position_embeddings = 8, 4096
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    if implementation is not None:
        model.set_attn_implementation(implementation)
    shape = {"height": side * PATCH, "width": side * PATCH}
    processor.image_processor.size = processor.image_processor.crop_size = shape
    scene = Scene((Thing("cross", "red", 10, 30, 60), Thing("circle", "cyan", 10, 60, 20)), size=96)
    shown = [{"type": "image", "image": render(scene)}] * pictures
    prompts = [
        fv.Prompt(
            processor, [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]
        )
        for text in ("what colour is the cross?", GENERAL)
    ]
    return model, *prompts


def first(prompt: Any, seen: Tensor) -> Tensor:
    """What of ``[S]`` stands on the first picture."""
    found: Tensor = prompt.grids[0].picture(seen)
    return found


# -- candidates: a map ``[rows, columns]`` over the first picture ------------------------------
def rel_written_out(model: Any, prompt: Any, general: Any) -> Tensor:
    """The last row of every map there is, for the question and for the general one."""
    maps = []
    for asked in (prompt, general):
        with torch.no_grad():
            found = model(**asked.inputs, output_attentions=True, use_cache=False).attentions
        maps.append(first(asked, torch.stack([layer[0, :, -1] for layer in found]).mean((0, 1))))
    return maps[0] / maps[1]


def rel_ours(model: Any, prompt: Any, general: Any) -> Tensor:
    """The same through foveate."""
    from foveate.find.where_to_look import rel_att

    return rel_att(model, prompt, general)[0]


def grad_written_out(model: Any, prompt: Any, general: Any) -> Tensor:
    """Every map and its gradient; parameters want none, as lean as it gets."""
    model.requires_grad_(False)
    inputs = dict(prompt.inputs)
    inputs["pixel_values"] = inputs["pixel_values"].clone().requires_grad_()
    output = model(**inputs, output_attentions=True, use_cache=False, logits_to_keep=1)
    value = output.logits[0, -1].log_softmax(-1).max()
    grads = torch.autograd.grad(value, output.attentions)
    seen = [
        (attention.detach() * gradient.clamp(min=0))[0, :, -1].mean(0)
        for attention, gradient in zip(output.attentions, grads, strict=True)
    ]
    return first(prompt, torch.stack(seen).mean(0))


def grad_ours(model: Any, prompt: Any, general: Any) -> Tensor:
    """The same through foveate."""
    from foveate.find.where_to_look import grad_att

    return grad_att(model, prompt)[0]


CANDIDATES: dict[str, tuple[Callable[..., Tensor], str | None]] = {
    "rel-att, output_attentions": (rel_written_out, "eager"),
    "rel-att, foveate": (rel_ours, None),
    "grad-att, eager maps and gradients": (grad_written_out, "eager"),
    "grad-att, foveate": (grad_ours, None),
}
# ours to theirs, said before the first run: seconds, extra MB
PREDICTED = {
    ("rel-att", 1): (0.9, 0.3), ("rel-att", 4): (0.5, 0.1),
    ("grad-att", 1): (1.0, 0.6), ("grad-att", 4): (0.5, 0.3),
}  # fmt: skip


def one(name: str, pictures: int) -> None:
    """Run one candidate in this process: seconds, memory, the map, as JSON on the last line."""
    function, implementation = CANDIDATES[name]
    function(*setting(1, implementation, side=8))  # imports and first times
    model, prompt, general = setting(pictures, implementation)
    kept: list[Tensor] = []
    start = time.perf_counter()
    memory = peak_extra_mb(lambda: kept.append(function(model, prompt, general)))
    found = {
        "seconds": time.perf_counter() - start, "extra_mb": memory,
        "tokens": prompt.inputs["input_ids"].shape[1], "map": kept[0].flatten().tolist(),
    }  # fmt: skip
    print(json.dumps(found))


def compared(group: str, pictures: int) -> list[dict[str, Any]]:
    """The rows of one kind of map, with so many pictures."""
    names = [name for name in CANDIDATES if name.startswith(group + ",")]
    found = {
        name: in_fresh_process("benchmarks.peers_vision", name, str(pictures)) for name in names
    }
    theirs, ours = (torch.tensor(found[name].pop("map")) for name in names)
    apart = float((theirs - ours).abs().max() / theirs.abs().max())
    rows = []
    for name, row in found.items():
        rows.append({"name": name, **row, "largest difference, relative": apart})
        print(
            f"  {name:<36} {row['tokens']:5} tokens {row['seconds']:7.2f} s "
            f"{row['extra_mb']:7.0f} MB  difference {apart:.1e}",
            flush=True,
        )
    theirs_row, ours_row = rows
    seconds, memory = PREDICTED[group, pictures]
    ours_row["told"] = (
        f"{group} at {ours_row['tokens']} tokens: "
        f"seconds {ours_row['seconds'] / theirs_row['seconds']:.2f} ({seconds:g}), memory "
        f"{ours_row['extra_mb'] / max(theirs_row['extra_mb'], 1):.2f} ({memory:g})"
    )
    return rows


def main() -> None:
    """Measure all and write the file."""
    torch.set_num_threads(1)
    rows = [
        row for group in ("rel-att", "grad-att") for n in PICTURES for row in compared(group, n)
    ]
    told = "; ".join(row.pop("told") for row in rows if "told" in row)
    save_peers(
        "peers_vision",
        "Where a vision–language model looks, float32, one question",
        rows,
        f"A random model of LLaVA's class, {SIDE} × {SIDE} image tokens a picture "
        f"({' and '.join(map(str, PICTURES))} pictures), a decoder of 8 layers with 8 heads of 32. "
        "foveate's share of their seconds and memory, with what had been predicted before the "
        f"first run: {told}.",
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        one(sys.argv[1], int(sys.argv[2]))
    else:
        main()
