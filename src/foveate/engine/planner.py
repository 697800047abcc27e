"""The only place that knows backends: which kernel, which terms where, which pieces."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ..errors import FoveateError
from .backends import flex, gathered, reference, sdpa, tiles
from .backends.flash import available
from .backends.pieces import Selected
from .measures import Read
from .program import Output, Program
from .shapes import FEW, Shapes
from .terms import Terms, fold
from .value_columns import by_column, columns_of, split_columns, width_of

BACKENDS = ("auto", "sdpa", "flex", "reference")
# From so many value columns on, wider heads cost the flash kernel more than tiles do.
WIDE = 24


@dataclass(frozen=True, eq=False)
class Plan:
    """How one program runs on calls of given shapes; made by :func:`plan`, run many times.

    A plan holds what was folded from the program (masks, columns), so one plan serves all layers
    of a forward that share program and shapes. It keeps the values that the program's tensors had
    when it was made, except where one of them requires a gradient: then each run folds anew.

    Attributes
    ----------
    program, shapes, terms
        What it was made from, and the program's terms sorted by cost.
    output : {"flash", "few", "flex", "tiles", "reference", "routed", "operator"}
        What computes the output: flash pieces, one flash call that copies no key, FlexAttention,
        tiles of scores; or, once the queries and keys are there, a plan with what a pattern chose,
        or what an operator makes of the rest of the program.
    reads : {"none", "columns", "tiles", "reference"}
        What takes the measures: value columns of a fused call, tiles, or the reference.
    one_pass : bool
        Whether output and measures share a pass.
    more : tuple of Plan
        Measures taken beside: those with ``at="before"`` (without the gains), and those that need
        tiles where nothing else does.
    why : str
        The reason, for :meth:`explain`.
    learns : bool
        Whether a tensor of the program requires a gradient.
    backend : str
        The one asked for.
    cut : Cut or Selected, optional
        The pattern cut into blocks of queries, each with its keys, where flash kernels run it.
    """

    program: Program
    shapes: Shapes
    terms: Terms
    output: Literal["flash", "few", "flex", "tiles", "reference", "routed", "operator"]
    reads: Literal["none", "columns", "tiles", "reference"]
    one_pass: bool
    more: tuple[Plan, ...]
    why: str
    learns: bool = False
    backend: str = "auto"
    cut: gathered.Cut | Selected | None = None

    def run(self, q: Tensor, k: Tensor, v: Tensor) -> Output:
        """Run on ``q [B,Hq,Sq,D]``, ``k [B,Hkv,Sk,D]``, ``v [B,Hkv,Sk,Dv]``.

        Raises
        ------
        FoveateError
            Tensors of other shapes, dtype or device than planned for.
        """
        if not self.shapes.fit(q, k, v):
            given = Shapes.of(q, k, v)
            raise FoveateError(f"the plan was made for {self.shapes}; it was given {given}.")
        if self.output == "routed":
            return self._routed(q, k).run(q, k, v)
        if self.output == "reference":
            return reference.run(self.program, q, k, v)
        kind = self.shapes.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            # The kernels are told their precision here; autocast would lower that of statistics.
            with torch.autocast(kind, enabled=False):
                return self._fresh()._run(q, k, v)
        return self._fresh()._run(q, k, v)

    def _fresh(self) -> Plan:
        """Itself, or folded anew where a term has a graph (which serves one backward only)."""
        if not self.learns:
            return self
        return replace(_plan(self.program, self.shapes, self.backend), more=self.more)

    def _routed(self, q: Tensor, k: Tensor) -> Plan:
        """The plan with what the pattern chooses for this call."""
        visible = None
        if self.terms.key_mask is not None and self.terms.hides:
            visible = (self.terms.key_mask[:, :, 0] > -float("inf")).any(1)
            visible = visible.expand(self.shapes.B, -1)
        where: dict[str, Any] = {"causal": self.terms.causal, "q_offset": self.terms.q_offset}
        with torch.no_grad():
            pattern: Any = self.program.pattern
            chosen = pattern.route(q, k, **where, scale=self.terms.scale, visible=visible)
        return plan(self.program.evolve(pattern=chosen), self.shapes, self.backend)

    def _operate(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """What the outermost operator makes of the rest of the program."""
        *rest, last = self.program.operators
        inner = self.program.evolve(operators=tuple(rest), reads=(), head_scale=None)
        return last.run(inner, q, k, v)

    @cached_property
    def _flex(self) -> flex.Call:
        return flex.Call(self.program, self.terms, self.shapes)

    def _run(self, q: Tensor, k: Tensor, v: Tensor) -> Output:
        reads = self.program.reads
        measures: dict[str, Tensor] = {}
        if self.output == "tiles":
            here = reads if self.one_pass else ()
            done = tiles.run(self.program, self.terms, q, k, v, here)
            out, lse = done.out, done.lse
            measures |= done.measures
        elif self.output == "few":
            out, lse = sdpa.run_few(self.terms, q, k, v)
        elif self.output == "flex":
            out, lse, found = self._flex.run(q, k, v, reads if self.one_pass else ())
            measures |= found
        elif self.output == "operator" and not (self.one_pass and reads):
            out, lse = self._operate(q, k, v)
        elif self.output == "operator":
            beside = columns_of(self.program, reads, self.shapes)
            wide = beside.to(v.dtype).unsqueeze(1).expand(-1, v.shape[1], -1, -1)
            out, lse = self._operate(q, k, torch.cat([v, wide], -1))
            out, sums = out.split([v.shape[-1], beside.shape[-1]], -1)
            measures |= self._split(sums, None, lse)
        else:
            one_pass = self.one_pass and bool(reads)
            cols = columns_of(self.program, reads, self.shapes) if one_pass else None
            out, lse, share = sdpa.run(self.terms, q, k, v, cols, self.cut)
            if cols is not None:
                out, sums = out.split([v.shape[-1], cols.shape[-1]], -1)
                measures |= self._split(sums, share, lse)
        if reads and not self.one_pass:
            measures |= self._statistics(q, k, v)
        if self.program.head_scale is not None:
            scale = self.program.head_scale.to(out.dtype)
            out = out * scale.expand(lse.shape).unsqueeze(-1)
        for plan in self.more:
            measures |= plan._fresh()._statistics(q, k, v)
        return Output(out, lse, measures)

    def measure(self, q: Tensor, k: Tensor, v: Tensor) -> dict[str, Tensor]:
        """The measures alone, without an output; shapes as in :meth:`run`."""
        if self.output == "routed":
            return self._routed(q, k).measure(q, k, v)
        if self.output == "reference" or not self.program.reads:
            return self.run(q, k, v).measures
        kind = self.shapes.device.type
        with torch.autocast(kind, enabled=False):
            fresh = self._fresh()
            found = fresh._statistics(q, k, v)
            for plan in fresh.more:
                found |= plan._fresh()._statistics(q, k, v)
        return found

    def _split(self, sums: Tensor, share: Tensor | None, lse: Tensor) -> dict[str, Tensor]:
        return split_columns(
            *(self.program, self.program.reads, self.shapes, self.terms.q_offset),
            *(sums, share, lse),
        )

    def _statistics(self, q: Tensor, k: Tensor, v: Tensor) -> dict[str, Tensor]:
        """The measures alone, in the dtype of the statistics."""
        if self.reads == "tiles":
            reads = self.program.reads
            return tiles.run(self.program, self.terms, q, k, v, reads, want_out=False).measures
        dtype = self.shapes.stat_dtype
        if self.output == "flex":
            return self._flex.run(q.to(dtype), k.to(dtype), None, self.program.reads)[2]
        cols = columns_of(self.program, self.program.reads, self.shapes)
        if self.output == "operator":
            wide = cols.unsqueeze(1).expand(-1, k.shape[1], -1, -1)
            sums, lse = self._operate(q.to(dtype), k.to(dtype), wide)
            return self._split(sums, None, lse)
        sums, lse, share = sdpa.run(self.terms, q.to(dtype), k.to(dtype), None, cols, self.cut)
        return self._split(sums, share, lse)

    def explain(self) -> str:
        """What runs, in words: kernels, pieces, where each term goes, FLOPs and bytes."""
        from .explain import explain

        return explain(self)


def _cut(terms: Terms, shapes: Shapes) -> gathered.Cut | Selected | None:
    """A pattern cut for flash kernels; None where tiles are needed, or compute less."""
    by_tiles = terms.softcap is not None or terms.bias is not None or bool(terms.adaptive)
    if terms.pattern is None or by_tiles or not available(shapes.device, shapes.dtype):
        return None
    selected = getattr(terms.pattern, "selected", None)
    if selected is not None:
        return cast(Selected, selected())
    cut = gathered.cut(terms.pattern, terms.causal, terms.q_offset, shapes.Sq, shapes.Sk)
    pairs = sum((b - a) * (hi - lo) for a, b, lo, hi in tiles.row_blocks(terms, shapes))
    return cut if cut is not None and cut.pairs <= pairs else None


_Choice = tuple[
    Literal["flash", "few", "flex", "tiles"], Literal["none", "columns", "tiles"], bool, str
]


def _choose(
    program: Program,
    terms: Terms,
    cut: gathered.Cut | Selected | None,
    shapes: Shapes,
    backend: str,
) -> _Choice:
    """``(output, reads, one_pass, why)`` on torch's kernels."""
    if backend == "flex":
        return _on_flex(program, terms, shapes, "asked for")
    few = shapes.Sq <= FEW
    narrow = (
        few and shapes.Dv != shapes.D
    )  # the kernel wants one head size: it would copy the cache
    blockers = {
        "the soft-cap": terms.softcap is not None,
        "the dense bias": terms.bias is not None,
        "the pattern": terms.pattern is not None and cut is None,
        "row-adaptive gains": bool(terms.adaptive),
        "score columns in half precision": shapes.half and bool(terms.columns),
        "score columns of few queries": few and bool(terms.columns),
        "values of another head size": narrow,
        f"{shapes.dtype} on {shapes.device.type}": not available(shapes.device, shapes.dtype),
    }
    blocked = [name for name, on in blockers.items() if on]
    if blocked:
        why = f"for {', '.join(blocked)}"
        wanted = backend == "auto" and flex.wins(shapes)
        if wanted and flex.refusal(terms, shapes, _wants_gradient(program)) is None:
            return _on_flex(program, terms, shapes, why)
        return "tiles", "tiles" if program.reads else "none", True, f"tiles of scores, {why}"
    output: Literal["flash", "few"] = "few" if few and terms.pattern is None else "flash"
    if not program.reads:
        return output, "none", True, "nothing is read"
    widths = sum(width_of(r) for r in program.reads)
    linear = all(by_column(r, program, terms, shapes) for r in program.reads)
    columns = linear and widths <= WIDE
    if shapes.half:
        # The output stays that of the half-precision kernel; statistics get a pass of their own.
        if columns and not few:
            return output, "columns", False, "statistics of half-precision inputs need float32"
        return output, "tiles", False, "statistics of half-precision inputs need float32"
    if columns and not few:
        return "flash", "columns", True, "the measures are linear in P"
    if few:
        return "tiles", "tiles", True, "with few queries one tile holds every row"
    return "tiles", "tiles", True, "a measure is not linear in P (or there are many columns)"


def _on_flex(program: Program, terms: Terms, shapes: Shapes, why: str) -> _Choice:
    if not program.reads:
        return "flex", "none", True, why
    if not all(flex.reads_by_column(r, program, terms, shapes) for r in program.reads):
        return "flex", "tiles", False, why
    return "flex", "columns", not shapes.half, why


def _apart(first: Plan) -> tuple[Read, ...]:
    """The measures of a plan that are better taken beside it, a tile at a time."""
    reads, program = first.program.reads, first.program
    if first.output == "flex":
        return tuple(
            r for r in reads if not flex.reads_by_column(r, program, first.terms, first.shapes)
        )
    return tuple(r for r in reads if r.kind == "rows")


def _wants_gradient(program: Program) -> bool:
    pairs = (t for pair in program.score_terms for t in pair)
    gains = (g.value for g in program.gains)
    terms = (program.key_bias, program.bias, program.sinks, *pairs, *gains)
    return any(isinstance(t, Tensor) and t.requires_grad for t in terms)


def plan(program: Program, shapes: Shapes, backend: str = "auto") -> Plan:
    """Choose how ``program`` runs on calls of ``shapes``, without checking it.

    The public :func:`foveate.plan` checks first.

    Parameters
    ----------
    program : Program
        Assumed valid.
    shapes : Shapes
        Of the tensors that :meth:`Plan.run` will get.
    backend : {"auto", "sdpa", "flex", "reference"}
        ``sdpa``: torch's flash kernels, and tiles of scores for what those do not take (as
        :meth:`Plan.explain` tells); raises where torch offers no such kernel for the device and
        dtype, where ``auto`` runs on FlexAttention or tiles. ``flex``: torch's FlexAttention, and
        tiles for measures that are not linear in the probabilities; raises where it cannot run, and
        on a CPU holds the matrix (for tests). ``reference`` materialises the matrix in float64.

    Raises
    ------
    FoveateError
        Unknown backend, or ``sdpa`` or ``flex`` asked for where it cannot run.
    """
    if backend not in BACKENDS:
        raise FoveateError(f"backend={backend!r} was given; choose one of {', '.join(BACKENDS)}.")
    if program.operators:
        return _operated(program, shapes, backend)
    if getattr(program.pattern, "routed", False):
        why = "the pattern chooses by content"
        terms = fold(program, shapes)
        return Plan(program, shapes, terms, "routed", "none", True, (), why, backend=backend)
    if backend == "reference":
        terms = fold(program, shapes)
        reads: Literal["reference", "none"] = "reference" if program.reads else "none"
        return Plan(program, shapes, terms, "reference", reads, True, (), "asked for")
    if backend == "sdpa" and not available(shapes.device, shapes.dtype):
        raise FoveateError(
            f'backend="sdpa" was asked for, but torch {torch.__version__} has no flash kernel with '
            f'lse for {shapes.dtype} on {shapes.device.type}; use backend="auto".'
        )
    early = tuple(r for r in program.reads if r.at == "before" and program.gains)
    late = tuple(r for r in program.reads if r not in early)
    first, *more = _plans(program.evolve(reads=late), shapes, backend)
    if early:
        before = _plans(program.evolve(gains=(), reads=early), shapes, backend)
        more = [*(p for p in before if p.program.reads), *more]
    return replace(first, more=tuple(more))


def _operated(program: Program, shapes: Shapes, backend: str) -> Plan:
    terms, last = fold(program, shapes), program.operators[-1]
    if backend != "auto":
        raise FoveateError(
            f"{last!r} runs its parts on what fits them: backend={backend!r} cannot be asked for."
        )
    for read in program.reads:
        if read.at == "before" and program.gains:
            raise FoveateError(
                f"{read.key!r} before the gains cannot be measured beside {last!r}: measure it in "
                "a run of its own."
            )
        if not by_column(read, program, terms, shapes) or terms.sinks is not None:
            raise FoveateError(
                f"{read.key!r} cannot be measured beside {last!r}, whose probabilities are never "
                "written out: mass, distance (of causal attention) and block_map can, without "
                "learned sinks. Measure the others in a run without it."
            )
    why = f"{last!r} computes the call"
    reads: Literal["none", "columns"] = "columns" if program.reads else "none"
    one_pass = not shapes.half or not program.reads
    return Plan(program, shapes, terms, "operator", reads, one_pass, (), why)


def _plans(program: Program, shapes: Shapes, backend: str) -> list[Plan]:
    """A plan, and beside it one for measures that would cost its own more than a pass."""
    whole = _plan(program, shapes, backend)
    apart = _apart(whole)
    if not apart or (len(apart) == len(program.reads) and whole.output == "flex"):
        return [whole]
    rest = tuple(r for r in program.reads if r not in apart)
    without = _plan(program.evolve(reads=rest), shapes, backend)
    if without.output == "tiles" or without.reads == "tiles":
        return [whole]
    return [without, _plan(program.evolve(reads=apart), shapes, backend)]


def _plan(program: Program, shapes: Shapes, backend: str) -> Plan:
    terms = fold(program, shapes)
    learns = _wants_gradient(program)
    if backend == "flex" and (reason := flex.refusal(terms, shapes, learns)) is not None:
        raise FoveateError(
            f'backend="flex" was asked for, but FlexAttention cannot run this: {reason}. Use '
            'backend="auto".'
        )
    cut = None if backend == "flex" else _cut(terms, shapes)
    output, reads, one_pass, why = _choose(program, terms, cut, shapes, backend)
    cut = cut if output == "flash" else None
    return Plan(program, shapes, terms, output, reads, one_pass, (), why, learns, backend, cut)


__all__ = ["BACKENDS", "Plan", "Shapes", "plan"]
