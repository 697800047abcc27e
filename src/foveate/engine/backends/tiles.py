"""Attention one tile of scores at a time: what flash kernels cannot do, never the matrix.

A tile holds the scores of a few queries against the keys they may see. It takes any term (dense,
soft-capped, patterns) and any measure (top-k, entropy, what keys receive), differentiates by
ordinary autograd (each tile is recomputed in the backward) and, being small enough to stay in
cache, costs about as much as the flash kernel itself on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..measures import Read
from ..program import Output, Program
from ..shapes import FEW, Shapes
from ..terms import Terms, hidden, log_gain, region_of
from ..value_columns import by_column, columns_of, mean_rows, split_columns, sum_rows

# Stands for -inf within a tile: finite, so that 0 * HIDDEN is 0 and not NaN.
HIDDEN = -1e30
# A tile has to stay in the last cache level, its rows of one head in a core's own: so many numbers
# and rows measured best.
TILE = 2_400_000
ROWS = 64
# A GPU is bound by the launches of small kernels instead (so many numbers: 256 MB, not yet timed).
TILES = {"cuda": 64_000_000}


@dataclass(frozen=True, eq=False)
class _Inputs:
    """The call's tensors in the dtype of the statistics, folded for batched products."""

    q: Tensor  # [B, Hq, Sq, D]
    k: Tensor  # [B * Hkv, D, Sk]
    v: Tensor | None  # [B * Hkv, Sk, Dv], with the columns beside it if ``wide``
    cols: Tensor | None  # [B, Sk, C]: those of the linear measures, then those of the maps
    wide: bool
    shapes: Shapes
    # Two flat buffers for scores and probabilities, used tile after tile (fresh memory costs more
    # than the arithmetic on it); None where a gradient is wanted.
    scratch: Tensor | None

    def buffer(self, which: int, *size: int) -> Tensor | None:
        """One of the buffers as a contiguous tensor of ``size``."""
        if self.scratch is None:
            return None
        return self.scratch[which, : math.prod(size)].view(size)


def _key_range(terms: Terms, shapes: Shapes, start: int, stop: int) -> tuple[int, int]:
    low, high = 0, shapes.Sk
    if terms.causal:
        high = min(high, stop + terms.q_offset)
    if terms.pattern is not None:
        a, b = terms.pattern.key_range(start + terms.q_offset, stop + terms.q_offset, shapes.Sk)
        low, high = max(low, a), min(high, b)
    return (low, high) if high > low else (0, 1)  # one hidden key: rows that see nothing


def row_blocks(
    terms: Terms, shapes: Shapes, only: Sequence[int] | None = None
) -> list[tuple[int, int, int, int]]:
    """``(first query, last, first key, last)`` of every tile, half open; ``only`` some queries."""
    if only is not None:
        runs: list[list[int]] = []
        for i in sorted(set(only)):
            if runs and i == runs[-1][1] and i - runs[-1][0] < 64:
                runs[-1][1] = i + 1
            else:
                runs.append([i, i + 1])
        return [(a, b, *_key_range(terms, shapes, a, b)) for a, b in runs]
    blocks, start = [], 0
    heads, tile = shapes.B * shapes.Hq, TILES.get(shapes.device.type, TILE)
    while start < shapes.Sq:
        rows = min(ROWS, shapes.Sq - start)
        for _ in range(4):  # the more rows, the more keys they see: shrink until it fits
            low, high = _key_range(terms, shapes, start, start + rows)
            cost = heads * (high - low)  # few rows read all keys again: up to 16 may exceed TILE
            rows = max(min(16, 4 * tile // cost), 1, min(rows, tile // cost))
        stop = min(start + rows, shapes.Sq)
        blocks.append((start, stop, *_key_range(terms, shapes, start, stop)))
        start = stop
    return blocks


def _scores(terms: Terms, x: _Inputs, a: int, b: int, lo: int, hi: int) -> Tensor:
    """Scores ``[B, Hq, b - a, hi - lo]`` with every term, HIDDEN where nothing is seen."""
    h, rows = x.shapes, b - a
    grouped = (x.q[:, :, a:b] * terms.scale).reshape(h.B * h.Hkv, -1, h.D)
    # In place from here on: nobody else holds the scores, and no gradient needs them as they were.
    s = torch.bmm(
        grouped, x.k[:, :, lo:hi], out=x.buffer(0, h.B * h.Hkv, grouped.shape[1], hi - lo)
    )
    s = s.view(h.B, h.Hq, rows, hi - lo)
    if terms.softcap is not None:
        if x.scratch is None:
            s = torch.tanh(s / terms.softcap) * terms.softcap
        else:
            s.div_(terms.softcap).tanh_().mul_(terms.softcap)
    for phi, psi in terms.columns:
        phi = phi if phi.shape[2] == 1 else phi[:, :, a:b]
        s += phi.to(s.dtype) @ psi[:, :, lo:hi].to(s.dtype).mT
    if terms.key_mask is not None:
        s += terms.key_mask[..., lo:hi].to(s.dtype).clamp(min=HIDDEN)
    if terms.bias is not None:
        bias = terms.bias[:, :, a:b, lo:hi]
        if bias.dtype == torch.bool:
            s.masked_fill_(~bias, HIDDEN)
        else:
            s += bias.to(s.dtype)
            s.masked_fill_(hidden(bias), HIDDEN)
    if terms.pattern is not None:
        i = torch.arange(a, b, device=s.device) + terms.q_offset
        j = torch.arange(lo, hi, device=s.device)
        s.masked_fill_(~terms.pattern.tile(i, j), HIDDEN)
    edge = max(a + terms.q_offset + 1, lo)  # the first key that some row of a causal tile misses
    if terms.causal and edge < hi:
        i = torch.arange(a, b, device=s.device)[:, None] + terms.q_offset
        later = torch.arange(edge, hi, device=s.device)[None] > i
        s[..., edge - lo :].masked_fill_(later, HIDDEN)
    return s


def _reweigh(terms: Terms, x: _Inputs, s: Tensor, block: tuple[int, int, int, int]) -> Tensor:
    """Scores with ``log g`` of the gains that read the row's own masses, and of those after."""
    a, b, lo, hi = block
    for gain, inside, of in terms.adaptive:
        if gain.adaptive:
            p = torch.softmax(s, -1, out=x.buffer(1, *s.shape))
            share: Tensor | float = 1.0
            if terms.sinks is not None:
                keys = torch.logsumexp(s, -1)
                sink = terms.sinks.to(s.dtype)[:, None].clamp(min=HIDDEN)
                share = (keys - torch.logaddexp(keys, sink)).exp()
            masses = {
                label: (p @ region[..., lo:hi].unsqueeze(-1)).squeeze(-1) * share
                for label, region in of.items()
            }
            g = gain.value(masses)  # type: ignore[operator]
            g = torch.where((g > 0) & (g < torch.inf), g, torch.ones_like(g))
            log_g = g.to(s.dtype).expand(s.shape[:-1]).log()
        else:
            log_g = log_gain(gain, s.dtype, s.device)
            log_g = log_g[..., a:b] if log_g.shape[-1] > 1 else log_g
        term = log_g.unsqueeze(-1) * inside[:, :, None, lo:hi]
        s = s + term if x.scratch is None else s.add_(term)
    return s


def _tile(
    program: Program, terms: Terms, x: _Inputs, reads: Sequence[Read], block: tuple
) -> dict[str, Tensor]:
    a, b, lo, hi = block
    h, rows = x.shapes, b - a
    s = _scores(terms, x, a, b, lo, hi)
    if terms.adaptive:
        s = _reweigh(terms, x, s, block)
    highest = s.amax(-1)
    seen = highest > HIDDEN / 2
    # Fused, row by row in cache, where exp, sum and division would each be a pass.
    p = torch.softmax(s, -1, out=x.buffer(1, *s.shape))
    total = highest - p.amax(-1).log()  # lse: the largest probability is e^(highest - lse)
    share = seen.to(s.dtype)  # of the keys; the rest is the sink's
    sink = None
    if terms.sinks is not None:
        sink = terms.sinks.to(s.dtype)[:, None].clamp(min=HIDDEN)  # one of -inf takes nothing
        keys, total = total, torch.logaddexp(total, sink)
        share = torch.where(seen, (keys - total).exp(), 0.0)
    got = {"lse": torch.where(seen, total, -torch.inf)}
    if any(r.kind == "entropy" for r in reads):  # first: it may use the scores up
        weighed = p * s if x.scratch is None else s.mul_(p)
        mean = weighed.sum(-1) * share
        if sink is not None:
            mean = mean + (sink - total).exp() * sink
        entropy = torch.where(seen, total - mean, 0.0)
    sums = None
    if x.v is not None:
        out = torch.bmm(p.view(h.B * h.Hkv, -1, hi - lo), x.v[:, lo:hi])
        got["out"] = out.view(h.B, h.Hq, rows, -1) * share.unsqueeze(-1)
        if x.wide:
            got["out"], sums = got["out"].tensor_split([h.Dv], -1)
    if x.cols is not None:
        if sums is None:
            sums = torch.bmm(p.view(h.B, h.Hq * rows, hi - lo), x.cols[:, lo:hi])
            sums = sums.view(h.B, h.Hq, rows, -1) * share.unsqueeze(-1)
        maps = [r for r in reads if r.kind == "block_map"]
        widths = [r.size or 1 for r in maps]
        got["columns"], *by_block = sums.split([sums.shape[-1] - sum(widths), *widths], -1)
        got["share"] = share
        for read, part in zip(maps, by_block, strict=True):
            got[read.key] = sum_rows(program, part, seen, block, h.Sq, part.shape[-1])
    for read in reads:
        if read.kind == "entropy":
            got[read.key] = entropy
        elif read.kind == "distance":
            i = torch.arange(a, b, device=s.device)[:, None] + terms.q_offset
            apart = (i - torch.arange(lo, hi, device=s.device)).abs().to(s.dtype)
            got[read.key] = torch.mul(p, apart, out=x.buffer(0, *p.shape)).sum(-1) * share
        elif read.kind == "mass":
            assert read.region is not None
            inside = region_of(program, read.region)[..., lo:hi].to(p.dtype)
            got[read.key] = (p @ inside.unsqueeze(-1)).squeeze(-1) * share
        elif read.kind == "max":
            got[read.key] = p.amax(-1) * share
        elif read.kind == "received":
            weight = share if program.queries is None else share * program.queries[:, None, a:b]
            got[read.key] = (weight.unsqueeze(-2) @ p).squeeze(-2)
        elif read.kind == "rows":
            assert read.index is not None
            mine = sorted(i % h.Sq - a for i in read.index if a <= i % h.Sq < b)
            if mine:
                full = torch.nn.functional.pad(p[:, :, mine], (lo, h.Sk - hi))
                got[read.key] = full * share[:, :, mine].unsqueeze(-1)
        elif read.kind == "top":
            assert read.size is not None
            k = min(read.size, hi - lo)
            values, indices = p.topk(k, -1)
            values = torch.nn.functional.pad(values * share.unsqueeze(-1), (0, read.size - k))
            indices = torch.nn.functional.pad(indices + lo, (0, read.size - k), value=-1)
            got[read.keys[0]] = values
            got[read.keys[1]] = indices.masked_fill(values == 0, -1)
    return got


def _fold(t: Tensor, dtype: torch.dtype) -> Tensor:
    """``[B, H, S, E] -> [B * H, S, E]``, without a copy where the strides allow it."""
    return t.to(dtype).reshape(-1, *t.shape[2:])


def run(
    program: Program,
    terms: Terms,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    reads: Sequence[Read],
    *,
    want_out: bool = True,
) -> Output:
    """Run a program tile by tile; ``want_out=False`` leaves the output empty (measures only)."""
    shapes = Shapes.of(q, k, v)
    dtype = shapes.stat_dtype
    linear = [r for r in reads if by_column(r, program, terms, shapes) and r.kind != "block_map"]
    others = [r for r in reads if r not in linear]
    maps = [r for r in others if r.kind == "block_map"]
    cols = columns_of(program, [*linear, *maps], shapes) if linear or maps else None
    # One product for values and columns, except where widening V would copy a cache for few rows.
    wide = cols is not None and want_out and shapes.Sq > FEW
    values = _fold(v, dtype) if want_out else None
    if wide and cols is not None:
        beside = cols.unsqueeze(1).expand(-1, shapes.Hkv, -1, -1)
        values = _fold(torch.cat([v.to(dtype), beside], -1), dtype)
    inputs = (q, k, v, *(t for pair in terms.columns for t in pair), terms.bias, terms.sinks)
    grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    only = None
    if not want_out and all(r.kind == "rows" for r in reads):
        only = [i % shapes.Sq for r in reads for i in r.index or ()]
    blocks = row_blocks(terms, shapes, only)
    scratch = None
    if not grad:
        most = max((b - a) * (hi - lo) for a, b, lo, hi in blocks)
        scratch = q.new_empty(2, shapes.B * shapes.Hq * most, dtype=dtype)
    x = _Inputs(q.to(dtype), _fold(k, dtype).mT, values, cols, wide, shapes, scratch)
    parts: dict[str, list[Tensor]] = {}
    sums: dict[str, Tensor] = {}  # over the queries: a tile adds to what there is
    for read in others:
        if read.kind == "received":
            sums[read.key] = q.new_zeros(shapes.B, shapes.Hq, shapes.Sk, dtype=dtype)
        elif read.kind == "block_map":
            n = read.size or 1
            sums[read.key] = q.new_zeros(shapes.B, shapes.Hq, n, n + 1, dtype=dtype)
    for block in blocks:
        args = (program, terms, x, others, block)
        got = checkpoint(_tile, *args, use_reentrant=False) if grad else _tile(*args)
        for key, value in got.items():
            if key in sums and value.dim() == 3:
                sums[key][..., block[2] : block[3]] += value
            elif key in sums:
                first = block[0] * (value.shape[-1] - 1) // shapes.Sq
                sums[key][:, :, first : first + value.shape[2]] += value
            else:
                parts.setdefault(key, []).append(value)
    whole = {key: ts[0] if len(ts) == 1 else torch.cat(ts, 2) for key, ts in parts.items()}
    lse = whole["lse"]
    measures = dict(sums)
    for read in others:
        if read.kind == "block_map":
            measures[read.key] = mean_rows(sums[read.key])
        for key in read.keys:
            measures.setdefault(key, whole.get(key))  # type: ignore[arg-type]
        if read.kind == "rows":
            measures[read.key] = _in_asked_order(read, measures[read.key], shapes.Sq)
    if linear:
        measures |= split_columns(
            program, linear, shapes, terms.q_offset, whole["columns"], whole["share"], lse
        )
    out = whole["out"].to(q.dtype) if want_out else q.new_empty(0)
    return Output(out, lse, measures)


def _in_asked_order(read: Read, found: Tensor, queries: int) -> Tensor:
    """Rows come in the order of the tiles; give them in the order of ``read.index``."""
    assert read.index is not None
    asked = [i % queries for i in read.index]
    order = sorted(range(len(asked)), key=lambda n: asked[n])
    back = torch.empty(len(asked), dtype=torch.long)
    back[order] = torch.arange(len(asked))
    return found[:, :, back.to(found.device)]
