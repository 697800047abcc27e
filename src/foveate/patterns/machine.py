"""What attention costs on one machine: a handful of constants, measured once and kept."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..engine.backends import tiles
from ..engine.backends.flash import flash
from ..engine.backends.runs import runs_of, take
from ..engine.program import Program
from ..engine.shapes import Shapes
from ..engine.terms import fold
from ..errors import FoveateError

__all__ = ["Machine", "calibrate", "machine"]

LONG, SHORT = 768, 192  # rows of a call from which torch's kernel cuts it into 256 (64) at a time
_HEADS = 4

# The folder in which calibrations are kept: the package's root sets it (foveate.load.home).
home: Callable[[], Path] | None = None


@dataclass(frozen=True)
class Machine:
    """Constants of :meth:`Pattern.cost`, in seconds; all heads and threads together.

    The defaults are for float32 on two threads of a server's processor with AVX-512: half of what
    one of its threads took.

    Attributes
    ----------
    threads : int
    dtype : str
    dense_softmax, dense_product : float
        A pair of query and key, in calls of many rows: what it takes, and what it takes more for
        each feature of the head.
    block_softmax, block_product : float
        The same in calls of at most 191 rows, which the kernel cuts finer.
    row : float
        A query of a block, beside its pairs.
    mask : float
        A pair under a mask, more than one without.
    copy, pick : float
        A byte copied in runs; and picked by an index, row by row.
    step : float
        A small operation of torch: each strided copy is one, a call of the kernel some twenty.
    tile_softmax : float
        A pair on tiles of scores (what no flash kernel takes), beside its products.
    measured : bool
        Whether it was measured here.
    """

    threads: int = 2
    dtype: str = "float32"
    dense_softmax: float = 1.2e-10
    dense_product: float = 2.1e-11
    block_softmax: float = 1.0e-10
    block_product: float = 2.5e-11
    row: float = 7e-8
    mask: float = 6e-11
    copy: float = 8e-11
    pick: float = 1.3e-10
    step: float = 9e-6
    tile_softmax: float = 1.1e-9
    measured: bool = False

    def pair(self, rows: int, features: int) -> float:
        """Seconds of a pair in calls of so many rows."""
        block = self.block_softmax + features * self.block_product
        dense = self.dense_softmax + features * self.dense_product
        return block if rows < SHORT else dense if rows >= LONG else (block + dense) / 2

    def on(self, threads: int) -> Machine:
        """The same machine with another number of threads, as if the work shared itself evenly."""
        if threads == self.threads:
            return self
        share = self.threads / threads
        times = {
            f.name: getattr(self, f.name) * (1.0 if f.name == "step" else share)
            for f in fields(self)
            if f.type == "float"
        }
        return Machine(**{**asdict(self), **times, "threads": threads, "measured": False})


def _key(threads: int, dtype: str) -> str:
    return f"{_cpu()}, {threads} threads, torch {torch.__version__}, {dtype}"


@cache
def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file() -> Path | None:
    return None if home is None else home() / "machine.json"


def _kept() -> dict[str, Any]:
    file = _file()
    try:
        found = {} if file is None else json.loads(file.read_text())
    except (OSError, ValueError):  # none yet, or not ours: measured anew when asked for
        return {}
    return found if isinstance(found, dict) else {}


def machine(threads: int | None = None, dtype: torch.dtype = torch.float32) -> Machine:
    """The constants of this machine, as :func:`calibrate` last kept them; else the defaults.

    Where it was calibrated for other numbers of threads only, these are scaled.
    """
    threads = torch.get_num_threads() if threads is None else threads
    name = str(dtype).removeprefix("torch.")
    kept = _kept()
    names = {f.name for f in fields(Machine)}
    for other in (threads, *sorted({t for t in range(1, 257)} - {threads})):
        found = kept.get(_key(other, name))
        if isinstance(found, dict) and set(found) == names:
            return Machine(**found).on(threads)
    return Machine(dtype=name).on(threads)


def calibrate(dtype: torch.dtype = torch.float32, *, keep: bool = True) -> Machine:
    """Measure the constants of :meth:`Pattern.cost` on this machine, in a few seconds.

    With as many threads as torch uses now. The machine should have nothing else to do meanwhile.

    Parameters
    ----------
    dtype : torch.dtype
        Of the queries, keys and values.
    keep : bool
        Whether later calls of ``cost`` use them: they are written to ``machine.json`` in the user's
        data folder (``$FOVEATE_HOME``), one entry for each processor, number of threads, version of
        torch and dtype.

    Raises
    ------
    FoveateError
        A dtype that is no floating-point one, or a folder that cannot be written.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise FoveateError(
            f"calibrate(dtype={dtype!r}): a floating-point dtype was wanted, such as torch.float32."
        )
    with torch.no_grad():
        found = _measured(dtype)
    file = _file()
    if keep and file is not None:
        kept = {**_kept(), _key(found.threads, found.dtype): asdict(found)}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(kept, indent=1) + "\n")
        except OSError as error:
            raise FoveateError(
                f"The calibration cannot be kept in {str(file)!r} ({error.strerror or error}); "
                "set FOVEATE_HOME to a folder that can be written, or give keep=False."
            ) from error
    return found


Job = Callable[[], Any]


def _seconds(jobs: dict[str, tuple[Job, float]], rounds: int = 8) -> dict[str, float]:
    """The shortest of several runs of each, in turns; by what each is to be divided."""
    best = dict.fromkeys(jobs, float("inf"))
    for turn in range(rounds + 1):
        for name, (run, _) in jobs.items():
            start = time.perf_counter()
            run()
            if turn:  # the first is not counted
                best[name] = min(best[name], time.perf_counter() - start)
    return {name: taken / jobs[name][1] for name, taken in best.items()}


def _call(dtype: torch.dtype, m: int, n: int, E: int, masked: bool = False) -> tuple[Job, float]:
    """A call of blocks of ``m × n``, and how many pairs it has."""
    N = max(1, 2**20 // (m * n))
    q, k, v = (torch.randn(N, _HEADS, size, E).to(dtype) for size in (m, n, n))
    mask = None
    if masked:
        hidden = torch.arange(n) > torch.arange(m)[:, None] + n - m
        mask = torch.zeros(1, 1, m, n, dtype=dtype).masked_fill(hidden, -torch.inf)
    return lambda: flash(q, k, v, mask=mask, scale=0.125), N * _HEADS * m * n


def _copies(dtype: torch.dtype) -> dict[str, tuple[Job, float]]:
    """Keys and values of a window's blocks, copied in runs and picked by index.

    As large as the executor's chunks, and both held at once: fresh memory is half of the price.
    """
    x = torch.randn(_HEADS, 8192, 64).to(dtype)
    index = torch.arange(0, 8192 - 412, 192)[:, None] + torch.arange(416)
    index[:, 412:] = torch.arange(4)
    runs = runs_of(index)
    small = runs_of(torch.arange(64)[:, None] ** 2 % 40 * 99 + torch.arange(40))
    assert runs is not None and small is not None
    size = index.shape[1], 0, len(index)
    shuffled = index.flatten()[torch.randperm(index.numel())]
    moved = 4 * index.numel() * _HEADS * 64 * dtype.itemsize
    return {
        "copy": (lambda: [take(x, runs, *size) for _ in "kv"], moved),
        "pick": (lambda: [x.index_select(1, shuffled) for _ in "kv"], moved),
        "step": (lambda: take(x[:1, :, :8], small, 40, 0, 64), len(small)),
    }


def _tiles(dtype: torch.dtype) -> tuple[Job, float]:
    """Tiles of scores of a causal call."""
    q, k, v = (torch.randn(1, _HEADS, 1024, 64).to(dtype) for _ in range(3))
    program, shapes = Program(causal=True), Shapes.of(q, k, v)
    terms = fold(program, shapes)
    pairs = sum((b - a) * (high - low) for a, b, low, high in tiles.row_blocks(terms, shapes))
    return lambda: tiles.run(program, terms, q, k, v, ()), _HEADS * pairs


def _measured(dtype: torch.dtype) -> Machine:
    found = _seconds(
        {
            "dense64": _call(dtype, 1024, 2048, 64),
            "dense128": _call(dtype, 1024, 2048, 128),
            "block64": _call(dtype, 128, 512, 64),
            "block128": _call(dtype, 128, 512, 128),
            "short": _call(dtype, 128, 64, 64),
            "mask": _call(dtype, 128, 512, 64, masked=True),
            **_copies(dtype),
            "tiles": _tiles(dtype),
        }
    )
    product = {name: (found[f"{name}128"] - found[f"{name}64"]) / 64 for name in ("dense", "block")}
    return Machine(
        threads=torch.get_num_threads(),
        dtype=str(dtype).removeprefix("torch."),
        dense_softmax=max(0.0, found["dense64"] - 64 * product["dense"]),
        dense_product=product["dense"],
        block_softmax=max(0.0, found["block64"] - 64 * product["block"]),
        block_product=product["block"],
        row=max(0.0, found["short"] - found["block64"]) * 64,
        mask=max(0.0, found["mask"] - found["block64"]),
        copy=found["copy"],
        pick=found["pick"],
        step=found["step"],
        tile_softmax=max(0.0, found["tiles"] - 64 * product["dense"]),
        measured=True,
    )
