"""What a pattern costs: an analytic model of the time that its executor takes.

A pattern's cut (or, where content chooses, its pieces) says how many blocks of which size there
are, what is copied to gather them, which of them have a mask and what is merged; the constants of a
:class:`~foveate.patterns.machine.Machine` turn that into seconds. Nothing is run but the choice
of patterns that go by content, which is timed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ..engine.backends import gathered, pieces, tiles
from ..engine.backends.cut import Cut, Group
from ..engine.backends.pieces import Pieces, Selected
from ..engine.planner import Plan, plan
from ..engine.program import Program
from ..engine.shapes import Shapes
from ..errors import FoveateError
from .machine import LONG, SHORT, Machine, machine

if TYPE_CHECKING:
    from ._base import Pattern

__all__ = ["Cost", "cost"]

CALL = 20  # small operations around a call of the kernel
WRITTEN = 6  # bytes moved to make a mask's pair


@dataclass(frozen=True)
class Cost:
    """Predicted time of attention under a pattern, and of dense attention.

    Attributes
    ----------
    pattern : Pattern
    Sq, Sk, heads, head_dim : int
    causal : bool
    seconds : float
        Of one call, one batch item.
    dense_seconds : float
        Of ``scaled_dot_product_attention`` on the same tensors.
    pairs, dense_pairs : float
        Pairs of query and key computed, a head on average: more than are seen, as blocks are
        computed whole.
    parts : mapping of str to float
        Where the seconds go: ``pairs`` (products and softmax), ``masks``, ``copies`` (gathering),
        ``merges``, ``calls``, ``selection`` (choosing by content).
    by : str
        What runs it: ``blocks``, ``pieces`` (chosen by content), ``tiles`` of scores, or ``dense``.
    machine : Machine
        The constants.
    """

    pattern: Any
    Sq: int
    Sk: int
    heads: int
    head_dim: int
    causal: bool
    seconds: float
    dense_seconds: float
    pairs: float
    dense_pairs: float
    parts: Mapping[str, float]
    by: str
    machine: Machine

    @property
    def speedup(self) -> float:
        """How many times faster than dense attention."""
        return self.dense_seconds / self.seconds

    @property
    def share(self) -> float:
        """The share of dense attention's pairs that is computed."""
        return self.pairs / self.dense_pairs

    def __str__(self) -> str:
        m = self.machine
        size = f"{self.Sq:,}" if self.Sq == self.Sk else f"{self.Sq:,} on {self.Sk:,}"
        kind = f"{'causal, ' * self.causal}{m.dtype}, {m.threads} thread{'s' * (m.threads > 1)}"
        often = sorted(self.parts.items(), key=lambda part: -part[1])
        parts = ", ".join(f"{name} {_time(taken)}" for name, taken in often if taken)
        known = (
            "predicted, from constants measured on this machine"
            if m.measured
            else "predicted from default constants: ± 50 %; foveate.patterns.calibrate() first "
            "where it is near 1"
        )
        return (
            f"{self.pattern!r}: {size} tokens, {self.heads} heads of {self.head_dim}, {kind}\n"
            f"  {_time(self.seconds)} against {_time(self.dense_seconds)} dense, attention alone: "
            f"{self.speedup:.2g} × {'faster' if self.speedup >= 1 else 'as fast'}\n"
            f"  {self.pairs / 1e6:.3g} of {self.dense_pairs / 1e6:.3g} million pairs a head are "
            f"computed ({self.share:.1%}), by {self.by}\n"
            f"  {parts}\n"
            f"  {known}"
        )


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def cost(
    pattern: Pattern, Sq: int, Sk: int, q_offset: int, *, heads: Any, kv_heads: Any,
    head_dim: Any, dtype: Any, causal: Any, threads: Any, on: Any,
) -> Cost:  # fmt: skip
    """See :meth:`Pattern.cost`."""
    from ._base import whole
    from .routed import Selection

    if isinstance(pattern, Selection) and heads is None:
        heads = max((p.rows.shape[1] for p in pattern.pieces), default=1)
        heads = max([heads, *(p.keys.shape[1] for p in pattern.pieces)])
        heads = heads if heads > 1 else None  # one choice may serve any number
    heads = pattern.heads or 8 if heads is None else whole("cost", "heads", heads)
    head_dim = whole("cost", "head_dim", head_dim)
    kv_heads = heads if kv_heads is None else whole("cost", "kv_heads", kv_heads)
    if heads % kv_heads:
        raise FoveateError(
            f"cost(heads={heads}, kv_heads={kv_heads}): heads must be a multiple of kv_heads."
        )
    if pattern.heads not in (None, heads):
        raise FoveateError(
            f"cost(heads={heads}): {pattern!r} tells {pattern.heads} heads apart; give as many."
        )
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise FoveateError(f"cost(dtype={dtype!r}): a floating-point torch.dtype was wanted.")
    causal = _causal(pattern) if causal is None else causal
    if not isinstance(causal, bool):
        raise FoveateError(f"cost(causal={causal!r}): True or False was wanted.")
    if on is not None and not isinstance(on, Machine):
        raise FoveateError(
            f"cost(machine={on!r}): a Machine was wanted, such as calibrate() returns."
        )
    if threads is not None:
        whole("cost", "threads", threads)
    with_ = machine(threads, dtype) if on is None else on if threads is None else on.on(threads)
    one = Shapes(
        1, heads, kv_heads, Sq, Sk, head_dim, head_dim, dtype, torch.device("cpu")
    )  # fmt: skip
    count = _Count(with_, one)
    made = plan(Program(pattern=pattern, causal=causal, q_offset=q_offset), one)
    if made.output == "routed":
        made = count.route(made)
    pairs, by = count.plan(made)
    dense_pairs, dense_seconds = _dense(with_, one, causal, q_offset)
    return Cost(
        pattern, Sq, Sk, heads, head_dim, causal, sum(count.parts.values()), dense_seconds,
        pairs, dense_pairs, dict(count.parts), by, with_,
    )  # fmt: skip


def _causal(pattern: Pattern) -> bool:
    """Whether a pattern's calls are causal: not on a grid, nor where it says otherwise."""
    parts = pattern.parts()
    return not any(hasattr(p, "grid") or getattr(p, "causal", True) is False for p in parts)


def _dense(m: Machine, s: Shapes, causal: bool, q_offset: int) -> tuple[int, float]:
    """Pairs of a head and seconds of torch's kernel, which looks at keys by blocks of its rows."""
    first = torch.arange(s.Sq) if causal else torch.full((s.Sq,), s.Sk - 1)
    seen = (first + 1 + (q_offset if causal else 0)).clamp(0, s.Sk)
    block = 256 if s.Sq >= LONG else 64 if s.Sq >= SHORT else 32
    computed = sum(int(rows.max()) * len(rows) for rows in seen.split(block))
    read = s.Hkv * s.Sk * 2 * s.D * s.dtype.itemsize * m.copy / 2
    seconds = s.Hq * (computed * m.pair(s.Sq, s.D) + s.Sq * m.row * (s.Sq < SHORT)) + read
    return int(seen.sum()), seconds + m.step


class _Count:
    """Seconds by what they are spent on, for a call of given shapes."""

    def __init__(self, machine: Machine, shapes: Shapes) -> None:
        self.machine, self.shapes = machine, shapes
        self.parts: defaultdict[str, float] = defaultdict(float)

    def plan(self, made: Plan) -> tuple[float, str]:
        """Pairs of a head, and what runs them."""
        if isinstance(made.cut, Selected):
            for piece in made.cut.pieces:
                self.piece(piece, made.cut.causal)
            return made.cut.pairs, "pieces"
        if made.cut is not None:
            self.cut(made.cut)
            return made.cut.pairs, "blocks"
        if made.output == "tiles":
            blocks = tiles.row_blocks(made.terms, made.shapes)
            pairs = sum((b - a) * (high - low) for a, b, low, high in blocks)
            m = self.machine
            pair = m.tile_softmax + self.shapes.D * m.dense_product
            self.parts["pairs"] += self.shapes.Hq * pairs * pair
            self.parts["calls"] += len(blocks) * CALL * m.step
            return pairs, "tiles"
        pairs, seconds = _dense(self.machine, self.shapes, made.terms.causal, made.terms.q_offset)
        self.parts["pairs"] += seconds
        return pairs, "dense"

    # -- blocks ----------------------------------------------------------------------------------
    def cut(self, cut: Cut) -> None:
        """A pattern that was cut."""
        s = self.shapes
        for part in cut.parts:
            mine = s.Hq if part.heads is None else len(part.heads)
            kv = max(1, mine * s.Hkv // s.Hq)
            if part.groups is None:
                one = replace(s, Hq=mine, Hkv=kv)
                self.parts["pairs"] += _dense(self.machine, one, cut.causal, cut.q_offset)[1]
                continue
            for group in part.groups:
                self.group(group, mine, kv)
        self.copied(s.Hq * s.Sq, "copies")  # the parts and batch items side by side

    def group(self, group: Group, heads: int, kv: int) -> None:
        """Blocks alike in size."""
        (N, m), n = group.rows.shape, group.keys.shape[1]
        self.kernel(N * heads, m, n)
        calls = -(-N // max(1, gathered.CHUNK // (n * kv * self.shapes.D)))
        steps = CALL * calls
        for runs, copies in ((group.key_runs, 2), (group.row_runs, 3)):  # K, V; Q, out, lse
            steps += copies * (len(runs) if runs is not None else calls)
        self.parts["calls"] += steps * self.machine.step
        closed = torch.tensor([not one for one in group.open])
        if bool(closed.any()):  # one closed mask in a call gives all of its blocks one
            self.parts["masks"] += N * heads * m * n * self.machine.mask
            if len(closed) > 1:
                self.parts["masks"] += N * m * n * WRITTEN * self.machine.copy
        for runs, width, size, count in (
            (group.key_runs, n, n, 2 * kv), (group.row_runs, m, m, heads), (None, 0, m, heads)
        ):  # fmt: skip
            if width and runs is not None and all(run.width == width for run in runs):
                continue  # a view
            picked = width > 0 and runs is None
            self.copied(N * size * count, "copies", picked)

    # -- pieces ----------------------------------------------------------------------------------
    def route(self, made: Plan) -> Plan:
        """Let a pattern choose for random queries and keys, on one head and on three.

        Its pieces are as many and as large as its parameters make them; what choosing takes is
        timed and drawn out to all heads.
        """
        s = self.shapes
        taken: dict[int, float] = {}
        told: int | None = getattr(made.program.pattern, "heads", None)
        for heads in (1, 3) if told is None else (told,):
            generator = torch.Generator().manual_seed(0)
            q = torch.randn(1, heads, s.Sq, s.D, generator=generator).to(s.dtype)
            k = torch.randn(1, heads, s.Sk, s.D, generator=generator).to(s.dtype)
            one = replace(made, shapes=replace(s, Hq=heads, Hkv=heads))
            for _ in range(3):
                start = time.perf_counter()
                chosen = one._routed(q, k)
                now = time.perf_counter() - start
                taken[heads] = min(now, taken.get(heads, now))
        whole = taken[max(taken)]
        if told is None:
            whole += max(0.0, taken[3] - taken[1]) / 2 * (s.Hq - 3)
        self.parts["selection"] += whole * torch.get_num_threads() / self.machine.threads
        return chosen

    def piece(self, piece: Pieces, causal: bool) -> None:
        """Pieces alike in size; every head has as many."""
        s, machine = self.shapes, self.machine
        N, m = piece.rows.shape[-2:]
        n = piece.keys.shape[-1] * piece.unit
        self.kernel(s.Hq * N, m, n)
        masked = (causal and not piece.past) or bool((piece.keys < 0).any())
        if masked:
            self.parts["masks"] += s.Hq * N * m * n * (machine.mask + WRITTEN * machine.copy)
        # half of the bytes: keys that many pieces read come from the cache
        self.copied(s.Hq * N * n, "copies", picked=piece.unit == 1)
        self.copied(s.Hq * N * m, "copies", picked=True)
        calls = -(-s.Hq * N // max(1, pieces.CHUNK // ((n + m) * s.D)))
        self.parts["calls"] += CALL * calls * machine.step
        self.copied(s.Hq * N * m, "merges", picked=True)
        self.copied(s.Hq * s.Sq, "merges")

    # -- both ------------------------------------------------------------------------------------
    def kernel(self, blocks: int, m: int, n: int) -> None:
        """The flash kernel on so many blocks of ``m`` queries and ``n`` keys."""
        machine = self.machine
        row = machine.row if m < SHORT else 0.0
        self.parts["pairs"] += blocks * m * (row + n * machine.pair(m, self.shapes.D))

    def copied(self, rows: int, why: str, picked: bool = False) -> None:
        """Rows of one head's features, read and written."""
        moved = 2 * rows * self.shapes.D * self.shapes.dtype.itemsize
        self.parts[why] += moved * (self.machine.pick if picked else self.machine.copy)
