"""HyperAttention: large entries found by hashing, the rest from a sample of the keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..._implements import implements
from ...adapters.sites import Site
from ...engine.backends.sdpa import with_sinks
from ...engine.planner import plan
from ...engine.program import Program
from ...engine.shapes import Shapes
from ...engine.terms import fold
from ...errors import FoveateError
from ...patterns._base import whole
from .._method import Method
from ._heads import on_heads
from ._refuse import only_key_terms
from ._rows import spans
from ._sorted import Sampling, estimate

if TYPE_CHECKING:
    from ...attach import Call

__all__ = ["HyperAttention"]

INF = float("inf")


@implements("hyperattention", basis="paper")
class HyperAttention(Method):
    """Estimate attention in nearly linear time: sorted blocks in full, and sampled keys.

    Queries and keys are hashed by the signs of random projections and sorted by bucket, so that
    what points the same way stands in blocks of the same number: those are computed in full. What
    the blocks leave out is estimated from ``samples`` keys, drawn evenly and weighed by how many
    keys each stands for; a sampled key that is in the query's own block is not counted again.
    Causal attention is cut into two causal halves and the square between, down to ``least``.

    Parameters
    ----------
    block : int
        Keys of a block at most; blocks are made equal. From the number of keys on the estimate is
        exact.
    samples : int
        Sampled keys of each head; more than there are take them all, and the estimate is exact.
    projections : int
        Signs that make up a bucket, 1 to 30.
    least : int
        Sequences up to so many tokens are computed exactly, and so are squares of fewer queries:
        decode steps, and short prompts.
    seed : int
        Of the projections and the samples. Layers of a model have numbers of their own.
    layers, heads, phase, stack, steps
        Where and when; see :class:`foveate.methods._method.Method`. Other heads run exactly.

    Raises
    ------
    FoveateError
        For numbers that are none; where the call has a pattern, a dense bias, a soft-cap, or terms
        that vary along the queries. Gains that are the same for all queries, key biases and sinks
        go along.

    Notes
    -----
    Han et al., "HyperAttention: Long-context Attention in Near-Linear Time" (2023), algorithms 1
    to 4, and the authors' code (``hyper_attn.py``), whose defaults these are. Chosen otherwise:

    - A bucket's place is the *inverse* Gray code of its signs, so that neighbouring buckets differ
      in one sign, as the paper wants them; the code takes the forward one, whose neighbours may
      differ in more.
    - Samples are drawn without repetition (the code's repeat): the same expectation, less
      variance, and exact where all keys are sampled.
    - Sampled keys in a query's own block are hidden on every device; the code does so without its
      CUDA kernel only, and with it counts them twice.
    - Keys that fill up a block are hidden; the code's are zeros that take weight.
    - The heads of a group (grouped queries) share their keys' order and samples.

    Samples are drawn evenly, as in the experiments of the paper; its analysis draws them by the
    norms of the values. The random numbers do not depend on the rest of a batch: in a padded batch
    an item gets what it gets alone.

    Examples
    --------
    >>> import foveate as fv, torch
    >>> k, v = torch.randn(2, 1, 2, 2048, 32, generator=torch.Generator().manual_seed(0))
    >>> q = 1.5 * k  # each token looks for its like
    >>> hyper = fv.HyperAttention(block=64, samples=64, least=256)
    >>> y = fv.attention(q, k, v, causal=True, operators=[hyper])
    >>> exact = fv.attention(q, k, v, causal=True)
    >>> print(f"{(y.out - exact.out).norm() / exact.out.norm():.2f}")
    """

    def __init__(
        self,
        block: int = 256,
        samples: int = 256,
        *,
        projections: int = 7,
        least: int = 4096,
        seed: int = 0,
        **scope: Any,
    ) -> None:
        self.how = Sampling(
            whole("HyperAttention", "block", block),
            whole("HyperAttention", "samples", samples),
            whole("HyperAttention", "projections", projections),
            whole("HyperAttention", "least", least),
        )
        if projections > 30:
            raise FoveateError(
                f"HyperAttention(projections={projections}): 30 at most were wanted; 2 to the "
                "power of them is the number of buckets."
            )
        self.seed = whole("HyperAttention", "seed", seed, 0)
        super().__init__(**scope)

    def alike(self, site: Site) -> object:
        """Every layer draws its own."""
        return site.layer, self.scope.heads_of(site)

    @property
    def operator(self) -> HyperAttention:
        """Itself: a method that is an operator, too."""
        return self

    def run(self, program: Program, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The operator: estimated ``out [B,Hq,Sq,Dv]`` and ``lse [B,Hq,Sq]``."""
        return Hyper(self.how, self.seed).run(program, q, k, v)

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """The program with the estimate as its operator; as it is where few queries ask."""
        if call.shapes.Sq < self.how.least:
            return program
        heads = self.scope.heads_at(site, call.shapes.Hq)
        operator = Hyper(self.how, self.seed + site.layer, heads)
        return program.evolve(operators=(*program.operators, operator))

    def _given(self) -> list[str]:
        how = self.how
        return [f"block={how.block}", f"samples={how.samples}"]


class Hyper:
    """The estimate of one call.

    Parameters
    ----------
    how : Sampling
    seed : int
    heads : tuple of int, optional
        The heads estimated; None for all.
    """

    def __init__(self, how: Sampling, seed: int, heads: tuple[int, ...] | None = None) -> None:
        self.how, self.seed, self.heads = how, seed, heads

    def __repr__(self) -> str:
        return f"HyperAttention(block={self.how.block}, samples={self.how.samples})"

    def run(self, program: Program, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """``out [B,Hq,Sq,Dv]`` and ``lse [B,Hq,Sq]``."""
        shapes = Shapes.of(q, k, v)
        terms = fold(program, shapes)
        only_key_terms("HyperAttention", program, terms)
        items = []
        for item, (r0, r1), (k0, k1) in spans(program, shapes):
            mine = slice(None) if item is None else slice(item, item + 1)
            mask = terms.key_mask
            if mask is not None:
                mask = mask[mine if mask.shape[0] > 1 else slice(None), :, :, k0:k1]
            keys, values = k[mine, :, k0:k1], v[mine, :, k0:k1]
            if r0 == r1 or k0 == k1:  # an item of padding alone
                r0, out = 0, q.new_zeros(*q[mine].shape[:3], v.shape[-1])
                lse = torch.full(out.shape[:3], -INF, dtype=shapes.stat_dtype, device=q.device)
            else:
                out, lse = estimate(
                    q[mine, :, r0:r1], keys, values, mask,
                    scale=terms.scale, causal=terms.causal, q_offset=terms.q_offset + r0 - k0,
                    how=self.how, generator=torch.Generator().manual_seed(self.seed),
                )  # fmt: skip
            left = r0, shapes.Sq - r0 - out.shape[2]
            out = torch.nn.functional.pad(out, (0, 0, *left))
            lse = torch.nn.functional.pad(lse, left, value=-INF)
            items.append((out, lse))
        out, lse = (torch.cat(each) for each in zip(*items, strict=True))
        out, lse, _ = with_sinks(terms.sinks, out, lse)
        if self.heads is None:
            return out, lse
        done = plan(program, shapes).run(q, k, v)
        return on_heads(self.heads, (done.out, done.lse), (out, lse))
