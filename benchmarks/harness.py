"""Timing that survives a noisy machine: candidates in turn, ratios pair by pair."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass
class Timing:
    """Seconds of one candidate, and its ratio to the baseline of the same round."""

    name: str
    seconds_min: float
    seconds_median: float
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""


def interleave(
    candidates: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1
) -> dict[str, Timing]:
    """Run the candidates A B C A B C …; the first is the baseline of the ratios.

    The ratio is the median over the rounds of (candidate / baseline of the same round), so a
    machine whose speed drifts disturbs both alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for n in range(warmup + rounds):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if n >= warmup:
                seconds[name].append(time.perf_counter() - start)
    base = seconds[next(iter(candidates))]
    return {
        name: Timing(
            name,
            min(taken),
            statistics.median(taken),
            statistics.median(t / b for t, b in zip(taken, base, strict=True)),
        )
        for name, taken in seconds.items()
    }


def at_most(timing: Timing, limit: float) -> Timing:
    """Note the target ``ratio <= limit``."""
    timing.target, timing.met = f"≤ {limit:g} ×", timing.ratio is not None and timing.ratio <= limit
    return timing


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    import torch
    import transformers

    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
    }


def commit() -> str:
    """Short hash of the code measured, with ``+`` if the tree was dirty."""
    here = Path(__file__).parent
    try:
        run = ["git", "-C", str(here)]
        head = subprocess.run(
            [*run, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            [*run, "status", "--porcelain", "--", "../src"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if dirty else "")


def resident_kb(field: str = "VmRSS") -> int:
    """A field of ``/proc/self/status`` in kB (``VmRSS`` now, ``VmHWM`` at its peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise OSError(f"no {field} in /proc/self/status (Linux only)")


def peak_extra_mb(run: Callable[[], Any]) -> float:
    """Peak resident memory while ``run`` runs above what was resident before it, in MB."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident_kb()
    run()
    return (resident_kb("VmHWM") - before) / 1024


def in_fresh_process(module: str, *arguments: str) -> dict[str, Any]:
    """Run ``python -m module arguments`` and read the JSON on its last line."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def save(
    path: Path, title: str, rows: list[Timing], extra: Mapping[str, Any] | None = None
) -> Path:
    """Write the rows and what they were taken on to ``path``, named after the benchmark."""
    path.parent.mkdir(exist_ok=True)
    payload = {
        "title": title,
        "command": "python -m benchmarks " + path.stem,
        "machine": machine(),
        "rows": [asdict(r) for r in rows],
        **(extra or {}),
    }
    path.write_text(json.dumps(payload, indent=1, ensure_ascii=False) + "\n")
    return path


def save_peers(name: str, title: str, rows: list[dict[str, Any]], note: str) -> None:
    """Write a comparison with other libraries to ``results/NAME.json``."""
    payload = {
        "title": title,
        "command": f"python -m benchmarks.{name}",
        "machine": machine(),
        "note": note,
        "rows": rows,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(payload, indent=1, ensure_ascii=False) + "\n")


def write(
    name: str, title: str, rows: list[Timing], extra: Mapping[str, Any] | None = None
) -> Path:
    """Write ``results/NAME.json`` and print the table."""
    path = save(RESULTS / f"{name}.json", title, rows, extra)
    print(f"\n{title}\n")
    for r in rows:
        ratio = "" if r.ratio is None else f"{r.ratio:6.2f} ×"
        met = {True: "met", False: "MISSED", None: ""}[r.met]
        print(f"  {r.name:<62} {r.seconds_median:9.4f} s {ratio:>9}  {r.target:>9} {met} {r.note}")
    return path
