"""Gathering by strided copies: blocks whose indices move in step are views of one another.

A causal window's blocks of queries see keys that move with them, and sinks that do not. Such an
index needs no gather: columns that count up and move by a fixed step from block to block are a
strided view, and a copy of one runs at the speed of memory (16 times that of ``index_select``).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

WORTH = 10  # indices that a copy must replace, on average, to be quicker than a gather


@dataclass(frozen=True)
class Run:
    """Of block ``block + i`` the columns from ``column`` on are ``start + i * step, … + width``."""

    block: int
    blocks: int
    column: int
    width: int
    start: int
    step: int

    def clip(self, first: int, last: int) -> Run | None:
        """What lies in blocks ``first … last - 1``, counted from ``first``."""
        low, high = max(self.block, first), min(self.block + self.blocks, last)
        if low >= high:
            return None
        start = self.start + (low - self.block) * self.step
        return Run(low - first, high - low, self.column, self.width, start, self.step)

    def view(self, x: Tensor) -> Tensor:
        """``[H, blocks, width, E]`` of ``x [H, S, E]``, without a copy."""
        h, s, e = x.stride()
        size = x.shape[0], self.blocks, self.width, x.shape[2]
        return x.as_strided(size, (h, self.step * s, s, e), x.storage_offset() + self.start * s)


def runs_of(index: Tensor) -> tuple[Run, ...] | None:
    """An index ``[N, n]`` as runs; None where they would be too short to be worth it."""
    N, n = index.shape
    if N * n == 0:
        return None
    moves = index[1:] - index[:-1]
    on = (moves >= 0).all(1).tolist()  # a view cannot go back
    same = [] if N < 3 else (moves[1:] == moves[:-1]).all(1).tolist()
    found: list[Run] = []
    block = 0
    while block < N:
        last = block  # the last block of those that move in step
        if block < N - 1 and on[block]:
            last = block + 1
            while last < N - 1 and same[last - 1]:
                last += 1
        blocks = last - block + 1
        start = index[block]
        step = moves[block] if blocks > 1 else torch.zeros_like(start)
        breaks = (start[1:] != start[:-1] + 1) | (step[1:] != step[:-1])
        columns = [0, *(breaks.nonzero().flatten() + 1).tolist(), n]
        if (len(found) + len(columns)) * WORTH > N * n:
            return None
        for a, b in pairwise(columns):
            found.append(Run(block, blocks, a, b - a, int(start[a]), int(step[a])))
        block += blocks
    return tuple(found)


def take(x: Tensor, runs: tuple[Run, ...], n: int, first: int, last: int) -> Tensor:
    """Blocks ``first … last - 1`` of ``x [H,S,E]``: ``[last - first, H, n, E]``, a view if it can.

    Not differentiable.
    """
    here = [run for one in runs if (run := one.clip(first, last)) is not None]
    if len(here) == 1 and here[0].width == n:
        return here[0].view(x).transpose(0, 1)
    taken = x.new_empty(x.shape[0], last - first, n, x.shape[2])
    for run in here:
        blocks, columns = slice(run.block, run.block + run.blocks), run.column
        taken[:, blocks, columns : columns + run.width] = run.view(x)
    return taken.transpose(0, 1)


def put(x: Tensor, runs: tuple[Run, ...], given: Tensor, first: int, last: int) -> None:
    """Write ``given [last - first, H, n, E]`` to where :func:`take` would read it; each place once.

    Where runs overlap within themselves (a step shorter than the width) this is not defined.
    """
    given = given.transpose(0, 1)
    for one in runs:
        run = one.clip(first, last)
        if run is not None:
            blocks, columns = slice(run.block, run.block + run.blocks), run.column
            run.view(x).copy_(given[:, blocks, columns : columns + run.width])
