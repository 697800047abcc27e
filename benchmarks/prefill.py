"""SmolLM2 over 4,096 tokens: steered and inspected against its own SDPA and eager attention.

Each candidate runs in a fresh process (so that its peak memory is its own), the quick ones also in
turn in one process, where the ratios are taken.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import foveate as fv

from .harness import Timing, at_most, in_fresh_process, interleave, peak_extra_mb, write

TOKENS = 4096


def long_prompt(tokenizer: Any, tokens: int) -> fv.Prompt:
    """A prompt of so many tokens of plain text, a twentieth of them the region ``evidence``."""
    say = "In {} the harbour of port {} took in {} ships, and the light on the mole was mended. "
    text = "".join(say.format(1500 + n, n % 97, 7 * n % 311) for n in range(tokens // 20 + 9))
    ends = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    prompt = fv.Prompt(tokenizer, text[: ends[tokens - 1][1]])
    assert prompt.length == tokens, prompt.length
    return prompt.mark("evidence", tokens=(tokens // 2, tokens // 2 + tokens // 20))


def candidate(name: str, tokens: int) -> Callable[[], Any]:
    """A function that runs one forward of the named kind."""
    eager = name.startswith("eager")
    model, tokenizer = fv.load("smollm2", attn_implementation="eager" if eager else None)
    prompt = long_prompt(tokenizer, tokens)
    keep: dict[str, Any] = {"logits_to_keep": 1, "use_cache": False}

    def plain() -> Any:
        with torch.no_grad():
            return model(**prompt.inputs, **keep)

    def maps() -> Any:
        with torch.no_grad():
            return model(**prompt.inputs, **keep, output_attentions=True)

    def emphasize() -> Any:
        steer = fv.attach(model, fv.Emphasize("evidence", gain=5.0), prompt=prompt)
        with torch.no_grad(), steer:
            return model(**prompt.inputs, **keep)

    def inspect() -> Any:
        return fv.inspect(model, prompt, use_cache=False)

    return {
        "sdpa": plain,
        "eager": plain,
        "eager-maps": maps,
        "emphasize": emphasize,
        "inspect": inspect,
    }[name]


def main(rounds: int = 3) -> None:
    """Measure and write ``results/prefill.json``."""
    torch.set_num_threads(2)
    quick = {name: candidate(name, TOKENS) for name in ("sdpa", "emphasize", "inspect")}
    found = interleave(quick, rounds)
    # The slow ones side by side with what they are compared to, once each.
    pairs = (("emphasize", "eager"), ("inspect", "eager-maps"))
    paired = {
        name: interleave({name: quick[name], other: candidate(other, TOKENS)}, 1, warmup=0)
        for name, other in pairs
    }
    alone = {
        name: in_fresh_process("benchmarks.prefill", name, str(TOKENS))
        for name in ("sdpa", "emphasize", "inspect", "eager", "eager-maps")
    }

    def against(name: str, other: str, note: str, faster: float) -> Timing:
        slow = paired[name][other]
        ratio = slow.ratio or 0.0
        row = Timing(note, slow.seconds_min, slow.seconds_median, ratio, f"≥ {faster:g} ×")
        row.met, row.note = ratio >= faster, f"{other}; {name} {slow.seconds_min / ratio:.3g} s"
        return row

    memory = alone["eager-maps"]["extra_mb"] / alone["inspect"]["extra_mb"]
    rows = [
        found["sdpa"],
        at_most(found["emphasize"], 1.05),
        found["inspect"],
        against("emphasize", "eager", "emphasize: how much faster than eager", 4),
        against("inspect", "eager-maps", "inspect: how much faster than eager with maps", 3),
        Timing(
            "inspect: how much less extra memory than eager with maps",
            *(0.0, 0.0, memory),
            *("≥ 20 ×", memory >= 20),
        ),
    ]
    extra = {"peak extra MB, each in a fresh process": {n: f["extra_mb"] for n, f in alone.items()}}
    write("prefill", f"SmolLM2-135M, prefill of {TOKENS} tokens, float32, 2 threads", rows, extra)
    for name, figures in alone.items():
        print(f"  {name:<12} +{figures['extra_mb']:.0f} MB")


if __name__ == "__main__":
    torch.set_num_threads(2)
    run = candidate(sys.argv[1], int(sys.argv[2]))
    if not sys.argv[1].startswith("eager"):
        with torch.no_grad():
            candidate("sdpa", 64)()  # the first forward of a process pays for its set-up
    start = time.perf_counter()
    extra_mb = peak_extra_mb(run)
    print(json.dumps({"seconds": time.perf_counter() - start, "extra_mb": extra_mb}))
