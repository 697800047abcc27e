"""One attention call on a GPU in bfloat16, 8k to 64k tokens: gains and measures against the peers.

Each candidate runs in turn with torch's SDPA (FlashAttention) at the same length; what it holds is
taken alone. Before that, at a length where float64 fits, every candidate of ours is compared with
the reference. Each figure is on disk (``results/gpu.json``) as soon as it is taken.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import foveate as fv
from foveate.engine.planner import plan

from .harness import RESULTS, Timing, interleave, save

LENGTHS = (8192, 16384, 32768, 65536)
HEADS = (32, 8, 128)  # queries' heads, keys' heads, head size: those of an 8-billion-weight model
CHECKED = 1024
PEERS = ("SDPA", "FlexAttention", "SDPA with a dense mask of the gains", "eager, the whole matrix")


class Window:
    """The last ``n`` keys and the first four."""

    def __init__(self, n: int) -> None:
        self.n = n

    def tile(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        return (q_pos[:, None] - k_pos < self.n) | (k_pos < 4)

    def visible(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i - j < self.n) | (j < 4)

    def key_range(self, q_start: int, q_stop: int, keys: int) -> tuple[int, int]:
        return 0, keys


class Case:
    """The tensors of one length, and what is asked of them."""

    def __init__(self, tokens: int, heads: tuple[int, int, int], device: str) -> None:
        Hq, Hkv, D = heads
        g = torch.Generator(device).manual_seed(0)
        self.q, self.k, self.v = (
            torch.randn(1, h, tokens, D, generator=g, device=device, dtype=torch.bfloat16)
            for h in (Hq, Hkv, Hkv)
        )
        step = tokens // 8
        self.regions = {
            f"r{n}": torch.zeros(tokens, dtype=torch.bool, device=device) for n in range(8)
        }
        for n, region in enumerate(self.regions.values()):
            region[n * step : n * step + step // 2] = True
        self.gains = tuple(fv.Gain(name, 0.5 + n) for n, name in enumerate(self.regions))
        varies = torch.rand(1, Hq, tokens, generator=g, device=device) + 0.5
        base = fv.Program(causal=True, regions=self.regions)
        masses = tuple(fv.mass(name) for name in self.regions)
        window = fv.Program(causal=True, pattern=Window(max(tokens // 32, 1)))
        self.programs = {
            "nothing asked": fv.Program(causal=True),
            "eight gains on eight regions": base.evolve(gains=self.gains),
            "a gain that varies along the queries": base.with_gain("r0", varies),
            "a soft-cap": fv.Program(causal=True, softcap=30.0),
            "a window of 1/32 and four sinks": window,
            "8 masses and distance": base.with_reads(*masses, fv.distance()),
            "entropy": fv.Program(causal=True).with_reads(fv.entropy()),
            "received": fv.Program(causal=True).with_reads(fv.received()),
            "8 gains, 8 masses, distance, entropy, block map": base.evolve(
                gains=self.gains,
                reads=(*masses, fv.distance(), fv.entropy(), fv.block_map(32)),
            ),
        }

    def ours(self, name: str, backend: str = "auto") -> Callable[[], fv.Output]:
        """A program, planned once as an attached model does, ready to run."""
        made = plan(self.programs[name], fv.Shapes.of(self.q, self.k, self.v), backend)
        return lambda: made.run(self.q, self.k, self.v)

    def peer(self, name: str) -> Callable[[], Tensor]:
        """One of :data:`PEERS`."""
        q, k, v = self.q, self.k, self.v
        tokens, device = q.shape[2], q.device
        if name == "SDPA":
            return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        if name == "FlexAttention":
            return self._flex()
        if name.startswith("SDPA with"):
            inside = torch.stack(list(self.regions.values())).float()
            gains = torch.tensor([float(g.value) for g in self.gains], device=device)  # type: ignore[arg-type]

            def dense() -> Tensor:
                later = torch.ones(tokens, tokens, dtype=torch.bool, device=device).triu(1)
                mask = (gains.log() @ inside).to(q.dtype).expand(tokens, tokens)
                mask = mask.masked_fill(later, -torch.inf)
                return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)

            return dense

        def eager() -> Tensor:
            group = q.shape[1] // k.shape[1]
            scores = q @ k.repeat_interleave(group, 1).mT * q.shape[-1] ** -0.5
            later = torch.ones(tokens, tokens, dtype=torch.bool, device=device).triu(1)
            p = scores.masked_fill_(later, -torch.inf).softmax(-1, torch.float32).to(q.dtype)
            return p @ v.repeat_interleave(group, 1)

        return eager

    def _flex(self) -> Callable[[], Tensor]:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        tokens, kind = self.q.shape[2], self.q.device.type
        make = torch.compile(create_block_mask) if kind == "cuda" else create_block_mask
        mask = make(lambda b, h, i, j: i >= j, None, None, tokens, tokens, device=kind)
        run = torch.compile(flex_attention, backend="inductor" if kind == "cuda" else "eager")

        def flex() -> Tensor:
            with torch.no_grad():
                found = run(self.q, self.k, self.v, block_mask=mask, enable_gqa=True)
            return found

        return flex


def machine() -> dict[str, Any]:
    """The GPU, its driver and the versions that matter."""
    found: dict[str, Any] = {"cuda": torch.version.cuda}
    for name in ("triton", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    if torch.cuda.is_available():
        of = torch.cuda.get_device_properties(0)
        found |= {"gpu": of.name, "memory GB": round(of.total_memory / 2**30, 1)}
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
            found["driver"] = told.strip().splitlines()[0]
        except (OSError, subprocess.CalledProcessError, IndexError):
            found["driver"] = "unknown"
    return found


def _settled(run: Callable[[], Any], device: str) -> Callable[[], None]:
    """``run``, until the device has done it; what it returns is let go."""

    def once() -> None:
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    return once


def _held(run: Callable[[], Any], device: str) -> str:
    """What a run holds at most beside its inputs, output included."""
    if device != "cuda":
        return "memory not taken"
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _settled(run, device)()
    return f"holds {(torch.cuda.max_memory_allocated() - before) / 2**20:,.0f} MiB"


def _why(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"failed: {type(error).__name__}: {first[:160]}"


def checked(
    tokens: int, heads: tuple[int, int, int], device: str, backend: str
) -> Iterator[Timing]:
    """Largest error of each program's output and measures against float64."""
    case = Case(tokens, heads, device)
    for name in case.programs:
        row = Timing(f"{tokens:,} tokens, against float64: {name}", 0.0, 0.0)
        try:
            with torch.no_grad():
                got, want = case.ours(name, backend)(), case.ours(name, "reference")()
            row.note = f"output {(got.out - want.out).abs().max():.2g}" + "".join(
                f", {key} {(got.measures[key] - value).abs().max():.2g}"
                for key, value in want.measures.items()
                if not key.startswith("mass:r") or key == "mass:r0"
            )
        except Exception as error:  # what fails is a finding, and the rest goes on
            row.note = _why(error)
        yield row


def timed(
    tokens: int, heads: tuple[int, int, int], device: str, backend: str, rounds: int
) -> Iterator[Timing]:
    """Every candidate of one length, each in turn with SDPA."""
    case = Case(tokens, heads, device)
    makers: dict[str, Callable[[], Callable[[], Any]]] = {
        name: (lambda name=name: case.peer(name)) for name in PEERS
    }
    makers |= {
        f"foveate: {name}": (lambda name=name: case.ours(name, backend)) for name in case.programs
    }
    base = _settled(case.peer("SDPA"), device)
    for name, make in makers.items():
        row = Timing(f"{tokens:,} tokens: {name}", 0.0, 0.0)
        try:
            with torch.no_grad():
                run = make()
                once = _settled(run, device)
                once()  # compiles
                found = interleave({"SDPA": base, "it": once}, rounds)["it"]
                row.seconds_min, row.seconds_median = found.seconds_min, found.seconds_median
                row.ratio, row.note = found.ratio, _held(run, device)
        except Exception as error:  # what fails is a finding, and the rest goes on
            row.note = _why(error)
        run = once = None  # type: ignore[assignment]
        if device == "cuda":
            torch.cuda.empty_cache()
        yield row


def measure(
    path: Path,
    lengths: tuple[int, ...] = LENGTHS,
    heads: tuple[int, int, int] = HEADS,
    device: str = "cuda",
    backend: str = "auto",
    rounds: int = 5,
    check_at: int = CHECKED,
) -> list[Timing]:
    """Take the figures one by one and write each to ``path`` as it comes."""
    told = machine()
    title = (
        f"One causal call on {told.get('gpu', device)}, {heads[0]} heads on {heads[1]}, "
        f"head size {heads[2]}, bfloat16 (ratio: to SDPA; planned once)"
    )
    rows: list[Timing] = []

    def rows_of() -> Iterator[Timing]:
        yield from checked(check_at, heads, device, backend)
        for tokens in lengths:
            yield from timed(tokens, heads, device, backend, rounds)

    for row in rows_of():
        rows.append(row)
        save(path, title, rows, {"device": told})
        ratio = "" if row.ratio is None else f"{row.ratio:6.2f} ×"
        print(f"  {row.name:<80} {row.seconds_median * 1e3:10.3f} ms {ratio:>9}  {row.note}")
    return rows


def main() -> None:
    """Measure on the GPU at hand and write ``results/gpu.json``."""
    if not torch.cuda.is_available():
        sys.exit(
            "python -m benchmarks gpu needs a CUDA device, and torch "
            f"{torch.__version__} sees none here: run it on a machine with one."
        )
    measure(RESULTS / "gpu.json")


if __name__ == "__main__":
    main()
