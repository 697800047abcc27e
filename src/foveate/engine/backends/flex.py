"""FlexAttention: any term and any pattern in one fused kernel, on devices that have it.

torch compiles the terms of a program into its kernel (``score_mod``) and skips the blocks of keys
that a mask hides (``BlockMask``). On a CPU it has neither a fused kernel with ``lse`` nor a
backward: there it runs uncompiled and materialises the matrix, for tests of the logic.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from importlib.util import find_spec
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from ...errors import FoveateError
from ..measures import Read
from ..program import Program
from ..shapes import FEW, Shapes
from ..terms import Terms, hidden
from ..value_columns import (
    by_column,
    columns_of,
    entropy_by_column,
    entropy_columns,
    entropy_of,
    split_columns,
    width_of,
)
from .blocks import BLOCK, Mask, at, axes_of, mask_of
from .sdpa import _widen, with_sinks

# Where torch fuses it, and for which dtypes: there it is chosen unasked for what the flash kernels
# do not take. Elsewhere it holds the whole matrix, and runs only when asked for.
FUSED = {"cuda": (torch.float16, torch.bfloat16, torch.float32)}
# Each rank of a score term is two loads a score in the kernel.
RANK = 32
# So many value columns at most: beyond, tiles of scores take the measures.
WIDE = 128
NARROWEST = 16  # head size of the fused kernels


def wins(shapes: Shapes) -> bool:
    """Whether it is to be preferred to tiles of scores for calls of these shapes."""
    return shapes.dtype in FUSED.get(shapes.device.type, ()) and shapes.Sq > FEW


def refusal(terms: Terms, shapes: Shapes, learns: bool) -> str | None:
    """Why FlexAttention cannot run these terms on calls of these shapes; None where it can."""
    kind = shapes.device.type
    rank = sum(psi.shape[-1] for _, psi in terms.columns)
    if terms.adaptive:
        return "row-adaptive gains read the probabilities before they edit them"
    if rank > RANK:
        return f"its kernel unrolls score terms, and {rank} of them are too many (at most {RANK})"
    if kind not in ("cpu", *FUSED):
        return f"it is used on {', '.join(('cpu', *FUSED))} only, not on {kind}"
    if kind in FUSED and shapes.dtype not in FUSED[kind]:
        return f"it has no fused kernel for {shapes.dtype} on {kind}"
    if kind in FUSED and shapes.home.type == kind and find_spec("triton") is None:
        return "its fused kernels are written in triton, which is not installed"
    if kind == "cpu" and learns:
        return "it has no backward on a CPU, and a tensor of the program requires a gradient"
    return None


def reads_by_column(read: Read, program: Program, terms: Terms, shapes: Shapes) -> bool:
    """Whether a measure rides along as value columns (the others are left to tiles)."""
    if read.kind == "entropy":
        return entropy_by_column(terms)
    return by_column(read, program, terms, shapes) and width_of(read) <= WIDE


class Call:
    """A program ready to run on calls of given shapes; its block mask is made once, when needed."""

    def __init__(self, program: Program, terms: Terms, shapes: Shapes) -> None:
        self.program, self.terms, self.shapes = program, terms, shapes

    @cached_property
    def mask(self) -> Mask | None:
        """Who sees whom."""
        return mask_of(self.terms, self.shapes)

    @cached_property
    def block_mask(self) -> Any:
        """The mask as torch's ``BlockMask``; None where everything is visible."""
        from torch.nn.attention.flex_attention import BlockMask

        if self.mask is None:
            return None
        partial = self.mask.some & ~self.mask.whole
        return BlockMask.from_kv_blocks(
            *_ordered(partial),
            *_ordered(self.mask.whole),
            BLOCK_SIZE=BLOCK,
            mask_mod=self.mask.visible,
            seq_lengths=(self.shapes.Sq, self.shapes.Sk),
        )

    @cached_property
    def score(self) -> tuple[Callable[..., Tensor] | None, tuple[Any, ...]]:
        """``score_mod`` and what of it makes another kernel; None where nothing is added."""
        return _score_mod(self.terms, self.shapes)

    def run(
        self, q: Tensor, k: Tensor, v: Tensor | None, reads: Sequence[Read]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """``(out, lse, measures)``; ``v=None`` for the measures alone, with an empty output.

        Every measure must be one that :func:`reads_by_column` knows. A row with nothing visible is
        0 and ``-inf``.
        """
        terms, shapes = self.terms, self.shapes
        linear = [read for read in reads if read.kind != "entropy"]
        values = {} if v is None else {"out": v}
        if linear:
            cols = columns_of(self.program, linear, shapes).unsqueeze(1)
            values["columns"] = cols.to(q.dtype).expand(-1, k.shape[1], -1, -1).contiguous()
        if len(linear) < len(reads):
            values |= entropy_columns(terms, k)
        sums: dict[str, Tensor] = {}
        lse = share = None
        for names in _together({name: value.shape[-1] for name, value in values.items()}):
            parts = [values[name] for name in names]
            out, lse = self._attend(q, k, parts[0] if len(parts) == 1 else torch.cat(parts, -1))
            out, lse, share = with_sinks(terms.sinks, out, lse)
            widths = [part.shape[-1] for part in parts]
            sums |= dict(zip(names, out[..., : sum(widths)].split(widths, -1), strict=True))
        assert lse is not None
        measures = {}
        if linear:
            measures = split_columns(
                self.program, linear, shapes, terms.q_offset, sums["columns"], share, lse
            )
        for read in reads:
            if read.kind == "entropy":
                measures[read.key] = entropy_of(terms, q, sums, lse)
        return sums.get("out", q.new_empty(0)), lse, measures

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        score, kind = self.score
        mask_kind = None if self.mask is None else self.mask.kind
        if q.device.type not in FUSED:
            return _eager(q, k, v, score, self.block_mask, self.terms.scale)
        q, k = (_widen(x, [], max(NARROWEST, x.shape[-1])) for x in (q, k))
        v = _widen(v, [], max(NARROWEST, v.shape[-1]))
        sizes = (q.shape[:2], k.shape[1], q.shape[-1], v.shape[-1])
        grad = torch.is_grad_enabled()
        run = _compiled((q.device.type, q.dtype, *sizes, grad, kind, mask_kind))
        return run(q, k, v, score, self.block_mask, self.terms.scale)


def _together(widths: dict[str, int]) -> list[list[str]]:
    """Which values share a call.

    The kernel rounds the head size of V up to a power of 2: what fits into that is free. A further
    call costs the scores again, wider values cost as much and may not fit into the GPU's caches.
    """
    groups: list[list[str]] = []
    for name, width in widths.items():
        for group in groups:
            used = sum(widths[other] for other in group)
            if used + width <= max(NARROWEST, 1 << (used - 1).bit_length()):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def pairs(terms: Terms, shapes: Shapes) -> int:
    """Pairs of one head in the blocks that may be visible (an upper bound; no block is made)."""
    from .tiles import _key_range

    total = 0
    for a in range(0, shapes.Sq, BLOCK):
        low, high = _key_range(terms, shapes, a, min(a + BLOCK, shapes.Sq))
        total += BLOCK * (-(-high // BLOCK) - low // BLOCK) * BLOCK
    return total


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks each row has, and which: those come first."""
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32), order.int()


def _score_mod(
    terms: Terms, shapes: Shapes
) -> tuple[Callable[..., Tensor] | None, tuple[Any, ...]]:
    dtype, softcap = shapes.stat_dtype, terms.softcap
    added: list[Tensor] = []
    if terms.key_mask is not None:  # its hidden keys are in the mask
        finite = terms.key_mask.masked_fill(terms.key_mask == -torch.inf, 0.0)
        if bool(finite.any()):
            added.append(finite)
    if terms.bias is not None and terms.bias.dtype != torch.bool:
        added.append(terms.bias.to(dtype).masked_fill(hidden(terms.bias), -torch.inf))
    products = [
        (left.unsqueeze(-1), right.unsqueeze(-2))  # (B|1, Hq|1, Sq|1, 1), (B|1, Hq|1, 1, Sk)
        for phi, psi in terms.columns
        for left, right in zip(phi.to(dtype).unbind(-1), psi.to(dtype).unbind(-1), strict=True)
    ]
    if softcap is None and not added and not products:
        return None, ()
    sums = [at(t) for t in added]
    pairs = [(at(left), at(right)) for left, right in products]

    def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if softcap is not None:
            s = torch.tanh(s / softcap) * softcap
        for term in sums:
            s = s + term(b, h, i, j)
        for left, right in pairs:
            s = s + left(b, h, i, j) * right(b, h, i, j)
        return s

    axes = tuple(axes_of(t) for t in (*added, *(t for pair in products for t in pair)))
    return score, (softcap, len(added), axes)


def _flex(
    q: Tensor, k: Tensor, v: Tensor, score: Any, block_mask: Any, scale: float
) -> tuple[Tensor, Tensor]:
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    out, more = flex_attention(
        *(q, k, v, score, block_mask, scale),
        enable_gqa=q.shape[1] != k.shape[1],
        return_aux=AuxRequest(lse=True),
    )
    assert more.lse is not None
    return out, more.lse


@cache
def _compiled(kind: tuple[Any, ...]) -> Callable[..., tuple[Tensor, Tensor]]:
    """:func:`_flex` compiled for one kind of program: lengths may vary, the kernel is kept.

    torch counts recompilations by code object and gives up at the eighth: each kind gets its own.
    ``fullgraph`` makes it an error to end up uncompiled, which would hold the matrix.
    """
    own = FunctionType(_flex.__code__.replace(), _flex.__globals__, _flex.__name__)
    compiled: Callable[..., tuple[Tensor, Tensor]] = torch.compile(own, fullgraph=True)
    return compiled


def _eager(
    q: Tensor, k: Tensor, v: Tensor, score: Any, block_mask: Any, scale: float
) -> tuple[Tensor, Tensor]:
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise FoveateError(
            'backend="flex" was asked for, but FlexAttention has no backward on a CPU and q, k or '
            'v requires a gradient: use backend="auto", or torch.no_grad().'
        )
    q, k, v = (x.detach() for x in (q, k, v))
    # Called uncompiled, torch compiles the call with a backend that does nothing, for each shape.
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        return _flex(q, k, v, score, block_mask, scale)
