"""Predicted against measured: what ``pattern.cost`` says, and what the executor then takes.

H = 8, D = 64, float32, two threads. The machine is calibrated first; all is predicted before
anything is timed. Patterns chosen by content are timed with their selection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

import foveate as fv
from foveate.patterns import (
    DHSA,
    BiLevel,
    Clusters,
    CrossShaped,
    Dilated,
    Documents,
    Halo,
    HiP,
    MoBA,
    MultiWindow,
    Neighborhood,
    Pattern,
    PowerAttention,
    PrefixLM,
    ShiftedGroups,
    SlidingWindow,
    Strided,
    VerticalSlash,
    Windows,
    calibrate,
)
from foveate.patterns.cost import Cost

from .harness import Timing, interleave, write

HEADS, WIDTH = 8, 64  # even: half of the heads see rows of stripes, half columns
PICTURE = Path(__file__).parent.parent / "docs" / "figures" / "pattern_cost.svg"
SIDES = {1024: 32, 4096: 64, 16384: 128}


def centroids(tokens: int) -> torch.Tensor:
    """One a 256 tokens, the same for all heads."""
    return torch.randn(tokens // 256, WIDTH, generator=torch.Generator().manual_seed(1))


def cases(tokens: int) -> list[tuple[str, str, bool, Pattern]]:
    """``(name, family, causal, pattern)`` of one length."""
    side = SIDES[tokens]
    grid = (side, side)
    return [
        ("window 256, 4 sinks", "sequence", True, SlidingWindow(256, sinks=4)),
        ("window 1024", "sequence", True, SlidingWindow(1024)),
        ("dilated 64 × 16", "sequence", True, Dilated(64, 16)),
        ("strided 128", "sequence", True, Strided(128)),
        ("4 documents", "sequence", True, Documents([tokens // 4] * 4)),
        ("prefix 256", "sequence", False, PrefixLM(256)),
        ("power 128", "sequence", True, PowerAttention(128, 2, 1)),
        ("shifted groups", "sequence", True, ShiftedGroups(tokens // 4, HEADS, sinks=4)),
        (
            "window a head",
            "sequence",
            False,
            MultiWindow([64 * 2 ** (h % 4) for h in range(HEADS)]),
        ),
        ("neighbourhood 13", "grid", False, Neighborhood(grid, 13)),
        ("neighbourhood 7, dilated 2", "grid", False, Neighborhood(grid, 7, dilation=2)),
        ("halo 8 + 3", "grid", False, Halo(grid, 8, 3)),
        ("windows 8, shifted", "grid", False, Windows(grid, 8, shift=4)),
        ("stripes 8", "grid", False, CrossShaped(grid, 8, heads=HEADS)),
        ("MoBA 128, top 4", "content", True, MoBA(128, 4)),
        ("HiP 512", "content", True, HiP(k=512, block_q=128, block_k=8, window=256)),
        ("DHSA", "content", True, DHSA()),
        ("vertical-slash", "content", True, VerticalSlash(128, 256)),
        ("clusters", "content", True, Clusters(centroids(tokens))),
        ("bi-level 8 × 8", "content", False, BiLevel(grid, (8, 8), top=4)),
    ]


def call(pattern: Pattern, causal: bool, q: Any, k: Any, v: Any) -> Callable[[], Any]:
    """Planned and cut beforehand; chosen by content every time."""
    program = fv.Program(pattern=pattern, causal=causal)
    return partial(fv.plan(program, fv.Shapes.of(q, k, v)).run, q, k, v)


def main() -> None:
    """Calibrate, predict, measure; write ``results/cost.json`` and the picture."""
    torch.set_num_threads(2)
    machine = calibrate()
    predicted: dict[tuple[int, str], Cost] = {}
    for tokens in SIDES:
        for name, _, causal, pattern in cases(tokens):
            predicted[tokens, name] = pattern.cost(
                tokens, heads=HEADS, head_dim=WIDTH, causal=causal, machine=machine
            )
    rows: list[Timing] = []
    points: list[dict[str, Any]] = []
    for tokens in SIDES:
        torch.manual_seed(0)
        q, k, v = (torch.randn(1, HEADS, tokens, WIDTH) for _ in range(3))
        for causal in (True, False):
            mine = [case for case in cases(tokens) if case[2] == causal]
            calls: dict[str, Callable[[], Any]] = {
                "dense": partial(F.scaled_dot_product_attention, q, k, v, is_causal=causal)
            }
            calls |= {name: call(pattern, causal, q, k, v) for name, _, _, pattern in mine}
            found = interleave(calls, rounds=3 if tokens > 8192 else 5)
            for name, family, _, pattern in mine:
                timing, guess = found[name], predicted[tokens, name]
                assert timing.ratio is not None
                timing.name, timing.ratio = f"{name}, {tokens:,} tokens", 1 / timing.ratio
                off = guess.speedup / timing.ratio
                timing.note = (
                    f"predicted {guess.speedup:.2f} × ({off:.2f} of what was measured); by "
                    f"{guess.by}, {guess.share:.1%} of the pairs"
                )
                rows.append(timing)
                points.append(
                    {
                        "name": name,
                        "family": family,
                        "tokens": tokens,
                        "pattern": repr(pattern),
                        "by": guess.by,
                        "share": guess.share,
                        "predicted_seconds": guess.seconds,
                        "predicted_dense_seconds": guess.dense_seconds,
                        "predicted": guess.speedup,
                        "measured": timing.ratio,
                        "measured_seconds": timing.seconds_median,
                        "measured_dense_seconds": found["dense"].seconds_median,
                    }
                )
    apart = [abs(math.log(p["predicted"] / p["measured"])) for p in points]
    within = sum(o <= math.log(1.25) for o in apart) / len(apart)
    errors = {"median_factor": math.exp(median(apart)), "worst_factor": math.exp(max(apart))}
    rows.append(
        Timing(
            f"all {len(apart)}: predicted and measured apart by a factor of (median)",
            0.0,
            0.0,
            errors["median_factor"],
            note=f"at most {errors['worst_factor']:.2f}; {within:.0%} within 1.25",
        )
    )
    title = "What a pattern costs: speed-up over dense SDPA, measured and predicted"
    extra = {"points": points, "constants": vars(machine), **errors, "within_1.25": within}
    write("cost", title, rows, extra)
    PICTURE.write_text(svg(points))
    print(f"\nmedian factor {errors['median_factor']:.2f}, {within:.0%} within 1.25; {PICTURE}")


# -- the picture -----------------------------------------------------------------------------------
COLOURS = {"sequence": "#1f77b4", "grid": "#2ca02c", "content": "#e87814"}
MARKS = {1024: 3.0, 4096: 4.5, 16384: 6.5}
SIZE, LEFT, TOP = 440, 60, 34


def svg(points: list[dict[str, Any]]) -> str:
    """Measured (across) against predicted speed-up (up), both logarithmic."""
    values = [p[key] for p in points for key in ("predicted", "measured")]
    low, high = math.log2(min(values)) - 0.3, math.log2(max(values)) + 0.3

    def at(value: float) -> float:
        return (math.log2(value) - low) / (high - low) * SIZE

    def place(measured: float, predicted: float) -> tuple[float, float]:
        return round(LEFT + at(measured), 1), round(TOP + SIZE - at(predicted), 1)

    first, last = 2**low, 2**high
    corners = [
        (first, first * 1.25), (last / 1.25, last), (last, last), (last, last / 1.25),
        (first * 1.25, first), (first, first),
    ]  # fmt: skip
    band = " ".join("{},{}".format(*place(*c)) for c in corners)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {TOP + SIZE + 56}" '
        'font-family="system-ui,sans-serif" font-size="13" fill="#777">',
        f'<text x="{LEFT}" y="18">Speed-up over dense attention: predicted and measured</text>',
        f'<polygon points="{band}" fill="#777" fill-opacity=".15"/>',
        f'<rect x="{LEFT}" y="{TOP}" width="{SIZE}" height="{SIZE}" fill="none" stroke="#777" '
        'stroke-opacity=".5"/>',
    ]
    for power in range(math.ceil(low), math.floor(high) + 1):
        x, y = place(2**power, 2**power)
        parts.append(
            f'<path d="M{x} {TOP}v{SIZE}M{LEFT} {y}h{SIZE}" stroke="#777" stroke-opacity=".25"/>'
            f'<text x="{x}" y="{TOP + SIZE + 18}" text-anchor="middle">{2.0**power:g}</text>'
            f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{2.0**power:g}</text>'
        )
    middle, right = LEFT + SIZE / 2, LEFT + SIZE + 24
    parts.append(
        f'<text x="{middle}" y="{TOP + SIZE + 42}" text-anchor="middle">measured</text>'
        f'<text transform="translate(16,{TOP + SIZE / 2}) rotate(-90)" text-anchor="middle">'
        "predicted</text>"
    )
    for p in points:
        x, y = place(p["measured"], p["predicted"])
        about = escape(
            f"{p['name']}, {p['tokens']:,} tokens: predicted {p['predicted']:.2f}, measured "
            f"{p['measured']:.2f}"
        )
        parts.append(
            f'<circle cx="{x}" cy="{y}" r="{MARKS[p["tokens"]]}" fill="{COLOURS[p["family"]]}" '
            f'fill-opacity=".75"><title>{about}</title></circle>'
        )
    legend = [(5.0, COLOURS[family], family) for family in COLOURS]
    legend += [(MARKS[tokens], "#777", f"{tokens:,} tokens") for tokens in MARKS]
    for n, (radius, colour, text) in enumerate(legend):
        y = TOP + 12 + 22 * n + 14 * (n >= len(COLOURS))
        parts.append(f'<circle cx="{right}" cy="{y}" r="{radius}" fill="{colour}"/>')
        parts.append(f'<text x="{right + 14}" y="{y + 4}">{text}</text>')
    parts.append(f'<text x="{right - 6}" y="{TOP + 190}">band: within 1.25</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
