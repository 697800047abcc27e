"""Peak extra memory of ``inspect`` at 8,192 tokens against the plain SDPA forward."""

from __future__ import annotations

from .harness import Timing, in_fresh_process, write

TOKENS = 8192


def main() -> None:
    """Measure and write ``results/memory.json``."""
    found = {
        name: in_fresh_process("benchmarks.prefill", name, str(TOKENS))
        for name in ("sdpa", "emphasize", "inspect")
    }
    base = found["sdpa"]["extra_mb"]
    rows = []
    for name, figures in found.items():
        ratio = figures["extra_mb"] / base
        row = Timing(f"{name}: peak extra memory", 0.0, 0.0, ratio)
        row.note = f"{figures['extra_mb']:.0f} MB"
        if name != "sdpa":
            row.target, row.met = "≤ 1.5 ×", ratio <= 1.5
        rows.append(row)
    write("memory", f"SmolLM2-135M, {TOKENS} tokens, logits_to_keep=1, float32", rows)
