"""Sparse attention against the other ways to it that run on a CPU; float32, H = 9, D = 64.

``python -m benchmarks.peers_sparse [LENGTH ...]`` writes ``results/peers_sparse.json``. Candidates
run in turns, each after its own warm-up and compilation. It wants, where they are to take part,
``attn-gym``, ``natten``, ``local-attention`` (with ``einops`` and ``hyper-connections``), and a
C++ compiler for compiled FlexAttention; what is missing is left out and said so.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import foveate as fv
from foveate.patterns import Neighborhood, Pattern, SlidingWindow

from .harness import RESULTS, interleave, machine

HEADS, WIDTH, WINDOW, SINKS, KERNEL = 9, 64, 256, 4, 13
SIDES = (64, 128)
NATTEN_LIMIT = 64
LENGTHS = (4096, 8192, 32768)
MASK_LIMIT = 8192  # tokens up to which a dense mask is tried
ROUNDS = 3
Run = Callable[[], Tensor]


def planned(pattern: Pattern, causal: bool, q: Tensor, k: Tensor, v: Tensor) -> Run:
    """Ours, planned and cut beforehand."""
    plan = fv.plan(fv.Program(pattern=pattern, causal=causal), fv.Shapes.of(q, k, v))
    return lambda: plan.run(q, k, v).out


def flex(block_mask: Any, q: Tensor, k: Tensor, v: Tensor) -> Run:
    """FlexAttention, compiled for this mask."""
    from torch.nn.attention.flex_attention import flex_attention

    torch.compiler.reset()
    run = torch.compile(flex_attention, dynamic=False)
    return lambda: run(q, k, v, block_mask=block_mask)


def gym_window(tokens: int, q: Tensor, k: Tensor, v: Tensor) -> Run:
    """attention-gym's sliding window (``q - kv <= size``), without sinks, on FlexAttention."""
    if tokens > MASK_LIMIT:
        raise MemoryError(
            f"create_block_mask holds {8 * tokens**2 / 1e9:.0f} GB of indices, not tried"
        )
    masks = importlib.import_module("attn_gym.masks")
    from torch.nn.attention.flex_attention import create_block_mask

    mod = masks.generate_sliding_window(WINDOW - 1)
    return flex(create_block_mask(mod, None, None, tokens, tokens, device="cpu"), q, k, v)


def local_attention(q: Tensor, k: Tensor, v: Tensor) -> Run:
    """lucidrains' windows that look back by one, cut to the exact window; without sinks."""
    made = importlib.import_module("local_attention").LocalAttention(
        window_size=WINDOW - 1, causal=True, exact_windowsize=True, autopad=True,
        use_rotary_pos_emb=False, dim=None,
    )  # fmt: skip
    return lambda: made(q, k, v)


def natten(side: int, q: Tensor, k: Tensor, v: Tensor) -> Run:
    """NATTEN's own 2-D neighbourhood: without a GPU it runs on FlexAttention, uncompiled.

    (Compiled, it takes half precision only.) That holds all scores, several times.
    """
    if side > NATTEN_LIMIT:
        raise MemoryError(f"it would hold {4 * HEADS * side**4 / 1e9:.0f} GB of scores, not tried")
    na2d = importlib.import_module("natten").na2d
    q, k, v = (x.transpose(1, 2).unflatten(1, (side, side)).contiguous() for x in (q, k, v))

    def run() -> Tensor:
        out = na2d(q, k, v, kernel_size=(KERNEL, KERNEL), backend="flex-fna")
        return out.flatten(1, 2).transpose(1, 2)

    return run


def packaged(name: str) -> str:
    """A package's version; empty where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def compare(
    what: str, makers: dict[tuple[str, str], Callable[[], Run]], apart: set[str]
) -> list[dict[str, Any]]:
    """Rows of candidates ``(name, package)``; those in ``apart`` compute something else."""
    runs: dict[str, Run] = {}
    rows: dict[str, dict[str, Any]] = {}
    ours: Tensor | None = None
    for (name, package), make in makers.items():
        row: dict[str, Any] = {"name": name, "version": packaged(package), "size": what}
        rows[name] = row
        try:
            start = time.perf_counter()
            run = make()
            got = run()  # compiles
            row["first_seconds"] = time.perf_counter() - start
        except Exception as error:  # whatever a peer does not take: the row says so
            why = str(error).strip().splitlines() or [""]
            row["absent"] = f"{type(error).__name__}: {why[0][:120]}"
            print(f"  {what}: {name}: {row['absent']}", flush=True)
            continue
        ours = got if name.startswith("foveate") else ours
        if ours is not None and name not in apart:
            row["largest difference"] = float((got - ours).abs().max())
        del got
        runs[name] = run
    with torch.no_grad():
        found = interleave(runs, rounds=ROUNDS)
        for name, run in runs.items():
            timing, row = found[name], rows[name]
            row |= {"seconds": timing.seconds_median, "of ours": timing.ratio}
            print(
                f"  {what:<28} {name:<58} {timing.seconds_median:8.3f} s {timing.ratio:7.2f} × ours"
                f"  {row.get('largest difference', '')}",
                flush=True,
            )
    return list(rows.values())


def windows(tokens: int) -> list[dict[str, Any]]:
    """A causal window with sinks."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, tokens, WIDTH) for _ in range(3))
    pattern = SlidingWindow(WINDOW, sinks=SINKS)

    def dense_mask() -> Run:
        if tokens > MASK_LIMIT:
            raise MemoryError(f"a mask of {tokens}² was not tried")
        mask = (pattern & fv.patterns.Causal()).mask(tokens)
        return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    makers: dict[tuple[str, str], Callable[[], Run]] = {
        ("foveate, window 256 + 4 sinks", "foveate"): lambda: planned(pattern, True, q, k, v),
        ("SDPA, dense", "torch"): lambda: (
            lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)
        ),
        ("SDPA with the window as a dense mask", "torch"): dense_mask,
        ("FlexAttention compiled, window 256 + 4 sinks", "torch"): lambda: flex(
            pattern.block_mask(tokens), q, k, v
        ),
        ("FlexAttention compiled, attention-gym's window 256", "attn-gym"): lambda: gym_window(
            tokens, q, k, v
        ),
        ("local-attention, window 256", "local-attention"): lambda: local_attention(q, k, v),
    }
    other = {
        "SDPA, dense", "FlexAttention compiled, attention-gym's window 256",
        "local-attention, window 256",
    }  # fmt: skip
    return compare(f"window, {tokens:,} tokens", makers, other)


def neighbourhoods(side: int) -> list[dict[str, Any]]:
    """A window of 13×13 on a square grid."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, side**2, WIDTH) for _ in range(3))
    pattern = Neighborhood((side, side), KERNEL)
    makers: dict[tuple[str, str], Callable[[], Run]] = {
        ("foveate, neighbourhood", "foveate"): lambda: planned(pattern, False, q, k, v),
        ("SDPA, all to all", "torch"): lambda: lambda: F.scaled_dot_product_attention(q, k, v),
        ("FlexAttention compiled, the same mask", "torch"): lambda: flex(
            pattern.block_mask(side**2), q, k, v
        ),
        ("NATTEN, na2d on FlexAttention uncompiled", "natten"): lambda: natten(side, q, k, v),
    }
    what = f"{KERNEL}×{KERNEL} on {side}×{side}"
    return compare(what, makers, {"SDPA, all to all"})


def main() -> None:
    """Measure all and write the result."""
    torch.set_num_threads(2)
    lengths = [int(one) for one in sys.argv[1:]] or list(LENGTHS)
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for tokens in lengths:
            rows += windows(tokens)
        for side in SIDES:
            rows += neighbourhoods(side)
    payload = {
        "title": "Sparse attention, float32, 9 heads of 64, one call planned or compiled before",
        "command": "python -m benchmarks.peers_sparse",
        "machine": machine(),
        "rows": rows,
        "note": (
            "All in one process, in turns. "
            "Differences are from foveate's output; dense attention and windows without sinks "
            "compute something else and have none. What the first call took, compiling included, "
            "is in the result's file (`first_seconds`)."
        ),
    }
    path = RESULTS / "peers_sparse.json"
    path.write_text(json.dumps(payload, indent=1, ensure_ascii=False) + "\n")
    print(path)


if __name__ == "__main__":
    main()
