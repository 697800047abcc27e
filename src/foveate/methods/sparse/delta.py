"""Delta Attention: what a few full rows differ by from sparse ones, added to the rows after."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..._implements import implements
from ...adapters.sites import Site
from ...engine.pattern import Pattern as Protocol
from ...engine.program import Program
from ...engine.shapes import Shapes
from ...patterns import Pattern
from ...patterns._base import whole
from .._method import Method
from ..hide import From
from ..select import Both
from ._heads import on_heads
from ._rows import Plans, Span, spans

if TYPE_CHECKING:
    from ...attach import Call

__all__ = ["DeltaCorrection"]

CELLS = 16_000_000  # pairs of full rows and keys taken together


@implements("delta-attention", basis="paper", maturity="stable")
class DeltaCorrection(Method):
    """Set sparse attention right: compute every ``every``-th row in full and repeat the difference.

    Row ``i`` becomes ``sparse_i + (full_a - sparse_a)``, where ``a`` is the last multiple of
    ``every`` at or before ``i``; the last rows are computed in full. It goes with whatever makes
    the attention sparse (a pattern, or an estimate given before it), and does nothing without.

    Parameters
    ----------
    every : int, optional
        Distance of the rows computed in full, at least 1 (``γ`` in the paper, ``delta_lambda`` in
        the code). At 1 all rows are full. None: no difference is repeated, only the rows at the end
        are full, which alone is what helped small models.
    last : int
        At least so many rows at the end are full, and never fewer than ``every``: a sequence not
        longer than both together (191 tokens by default) is computed in full.
    layers, heads, phase, stack, steps
        Where and when; see :class:`foveate.methods._method.Method`. Decode steps are rows at the
        end: they are full, as in the paper. ``phase="prefill"`` leaves them sparse.

    Raises
    ------
    FoveateError
        For numbers that are none.

    Notes
    -----
    Willette, Lee and Hwang, "Delta Attention: Fast and Accurate Sparse Attention Inference by
    Delta Correction" (NeurIPS 2025), section 3, and the authors' code (``delta_forward``): the rows
    in full are ``0, γ, 2γ, …`` below ``s - (s mod γ + max(128, γ))``, and all from there. Where
    ``max(128, γ)`` is no multiple of γ, which the code cannot take, the full end begins at the last
    multiple of γ that leaves ``max(last, γ)`` rows.

    Full means everything the model itself shows: its own window or documents stay. In a padded
    batch rows are counted from each item's first real token, so that an item gets what it gets
    alone; in a prefill in chunks, from each chunk's first. ``lse`` is that of the full rows where
    they were computed, of the sparse ones elsewhere. The rows still sum to 1, but single
    probabilities may be negative: only measures linear in them are defined.

    Examples
    --------
    >>> import foveate as fv
    >>> model, tokenizer = fv.load("smollm2")
    >>> prompt = fv.Prompt(tokenizer, "The code is 7421. " + "The sky is blue. " * 45 + "The code")
    >>> window = fv.SlidingWindow(64, sinks=4)
    >>> with fv.attach(model, window, fv.DeltaCorrection(every=16)):
    ...     ids = model.generate(**prompt.inputs, max_new_tokens=6)
    >>> print(tokenizer.decode(ids[0, -6:]))
    """

    def __init__(self, every: int | None = 64, *, last: int = 128, **scope: Any) -> None:
        self.every = None if every is None else whole("DeltaCorrection", "every", every)
        self.last = whole("DeltaCorrection", "last", last, 0)
        super().__init__(**scope)

    def alike(self, site: Site) -> object:
        """Sites with the same heads in scope are rewritten alike."""
        return self.scope.heads_of(site)

    @property
    def operator(self) -> DeltaCorrection:
        """Itself: a method that is an operator, too."""
        return self

    def run(self, program: Program, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The operator: ``out`` and ``lse`` of a call, where full means without any pattern."""
        return Delta(self.every, self.last).run(program, q, k, v)

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """The program with the correction as its last operator."""
        heads = self.scope.heads_at(site, call.shapes.Hq)
        operator = Delta(self.every, self.last, heads, call.own)
        return program.evolve(operators=(*program.operators, operator))

    def _given(self) -> list[str]:
        return [f"every={self.every}"] + [f"last={self.last}"] * (self.last != 128)


def _own(pattern: Protocol | None) -> Protocol | None:
    """What of a call's pattern is the model's own, or hides a region: no pattern attached."""
    if isinstance(pattern, Both):
        first, second = _own(pattern.first), _own(pattern.second)
        return first if second is None else second if first is None else Both(first, second)
    if isinstance(pattern, From) and isinstance(pattern.inner, Pattern | Both | From):
        return replace(pattern, inner=_own(pattern.inner))
    return None if isinstance(pattern, Pattern) else pattern


class Delta:
    """The correction of one call, or of the layers of a forward.

    Parameters
    ----------
    every, last : int
        As in :class:`DeltaCorrection`.
    heads : tuple of int, optional
        The heads corrected; None for all.
    model : Program, optional
        What the model itself computes, which tells padding from what a method hides.
    """

    def __init__(
        self,
        every: int | None,
        last: int,
        heads: tuple[int, ...] | None = None,
        model: Program | None = None,
    ) -> None:
        self.every, self.last, self.heads, self.model = every, last, heads, model
        self._plans = Plans()
        self._seen: tuple[Program, Program] | None = None

    def __repr__(self) -> str:
        return f"DeltaCorrection(every={self.every})"

    def run(self, program: Program, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """``out [B,Hq,Sq,Dv]`` and ``lse [B,Hq,Sq]`` of the program, corrected."""
        shapes = Shapes.of(q, k, v)
        full = self._in_full(program)
        found = spans(program if self.model is None else self.model, shapes)
        dense = program.pattern is full.pattern and not program.operators
        short = all(self._end(*span.rows) <= span.rows[0] for span in found)  # a decode step, say
        if dense or (short and self.heads is None):
            done = self._plans.of(full, shapes).run(q, k, v)
            return done.out, done.lse
        sparse = self._plans.of(program, shapes).run(q, k, v)
        out, lse = sparse.out, sparse.lse
        items = []
        for span in found:
            mine = slice(None) if span.item is None else slice(span.item, span.item + 1)
            items.append(self._corrected(full, span, out[mine], lse[mine], (q, k, v), shapes))
        corrected = tuple(
            torch.cat(each) if len(items) > 1 else each[0] for each in zip(*items, strict=True)
        )
        return on_heads(self.heads, (out, lse), corrected)

    def _in_full(self, program: Program) -> Program:
        """The program with everything seen that the model shows and no method hides."""
        if self._seen is None or self._seen[0].pattern is not program.pattern:
            self._seen = program, program.evolve(pattern=_own(program.pattern))
        return program.evolve(pattern=self._seen[1].pattern, operators=())

    def _end(self, first: int, stop: int) -> int:
        """Where the rows at the end begin that are all full."""
        every = self.every or 1
        left = stop - first - max(self.last, every if self.every else 0)
        return first + max(0, left // every) * every

    def _corrected(
        self, full: Program, span: Span, out: Tensor, lse: Tensor, qkv: tuple[Tensor, ...],
        shapes: Shapes,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """One item's rows (or all items', where these are alike), corrected."""
        first, stop = span.rows
        if first == stop:
            return out, lse
        end, every = self._end(first, stop), self.every
        parts = []
        if every is not None:
            size = max(16, CELLS // shapes.Sk) * every
            starts = range(first, end, size)
            parts = [range(start, min(start + size, end), every) for start in starts]
        found = [
            self._full(full, rows, span.item, qkv, shapes) for rows in (*parts, range(end, stop))
        ]
        *before, (tail, tail_lse) = found
        middle, middle_lse = out[:, :, first:end], lse[:, :, first:end]
        if before and every is not None:
            anchors, anchors_lse = (torch.cat(each, 2) for each in zip(*before, strict=True))
            difference = anchors.to(lse.dtype) - middle[:, :, ::every].to(lse.dtype)
            middle = (middle + difference.repeat_interleave(every, 2)).to(out.dtype)
            split = middle_lse.unflatten(-1, (-1, every))[..., 1:]
            middle_lse = torch.cat([anchors_lse.unsqueeze(-1), split], -1).flatten(-2)
        return (
            torch.cat([out[:, :, :first], middle, tail, out[:, :, stop:]], 2),
            torch.cat([lse[:, :, :first], middle_lse, tail_lse, lse[:, :, stop:]], 2),
        )

    def _full(
        self, program: Program, rows: range, item: int | None, qkv: tuple[Tensor, ...],
        shapes: Shapes,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """These rows of the full program."""
        q, k, v = qkv if item is None else (x[item : item + 1] for x in qkv)
        q = q[:, :, rows.start : rows.stop : rows.step]
        done = self._plans.of(program, shapes, rows, item).run(q, k, v)
        return done.out, done.lse
