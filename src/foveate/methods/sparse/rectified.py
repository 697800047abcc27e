"""Rectified SpaAttn: attention to the blocks that matter, at the weight that they have in all."""

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
from ...engine.terms import fold, region_of
from ...errors import FoveateError
from ...patterns._base import whole
from .._method import Method
from ._heads import on_heads
from ._pieces import exact
from ._pooled import rectified
from ._refuse import only_key_terms

if TYPE_CHECKING:
    from ...attach import Call

__all__ = ["RectifiedSpaAttn"]


@implements("rectified-spaattn", basis="paper")
class RectifiedSpaAttn(Method):
    """Block-sparse attention whose bias is set right from pooled queries and keys.

    Pooled queries against pooled keys (and against each text token alone, weighed by how many keys
    each stands for) say what every block would hold under full attention. From that follow

    - the blocks attended to: the fewest that hold ``mass``, and at least ``density`` of them;
    - the share of a row that they have: the sparse output is multiplied by it, where a softmax
      over them alone would give them everything;
    - for each block left out, its pooled value at its mass, where the estimate outweighs the error
      of pooling. The mass of the others stays with the blocks attended to.

    Every query sees the text, and the text's own queries run in full.

    Parameters
    ----------
    density : float
        The share of blocks attended to at least, 0 to 1 (1 - ``sa_drop_rate`` in the code). At 1
        attention is dense.
    mass : float
        Blocks are added until they hold this much of the pooled attention, 0 to 1.
    block : int
        Tokens that are pooled together, in the order in which they come; the last block may be
        shorter. With one block at most, attention is dense.
    text : str, optional
        The region of the tokens that stand alone. ``"text"`` is known at the joint sites of a
        denoiser; where there is no such region, all tokens are pooled. None pools all.
    gain : bool
        Whether blocks are given back only where the estimate outweighs the error; False gives all
        back.
    layers, heads, phase, stack, steps
        Where and when; see :class:`foveate.methods._method.Method`. Other heads run in full.

    Raises
    ------
    FoveateError
        For numbers that are none, a text that differs within a batch, and where the call is causal
        or has a pattern, a dense bias, a soft-cap, or terms that vary along the queries. Gains that
        are the same for all queries and key biases count as weights of their keys, pooled or not.

    Notes
    -----
    Liu et al., "Rectified SpaAttn: Revisiting Attention Sparsity for Efficient Video Generation"
    (2025), Isolated-Pooling Attention Reallocation and Gain-Aware Pooling Rectification, and the
    authors' code (``rectified_flux_attn.py``, ``gapr_mask.py``). The test of a block, from the
    code: ``|q̄·k̄| > |mean|Δq|·k̄| + |q̄·mean|Δk||``, ``Δ`` the distance of a token from its mean.

    Left out: the code reorders the image's tokens along a space-filling curve first and always
    attends to blocks next to each other in space (both from Jenga); here blocks are as the tokens
    come. Chosen otherwise: ``density`` counts pooled blocks only, where the text may take one of
    the places in the code; a last block that is not full is pooled as it is, not with zeros.

    The defaults are the code's for HunyuanVideo.

    Examples
    --------
    >>> import foveate as fv, torch
    >>> q, k, v = torch.randn(3, 1, 2, 520, 16, generator=torch.Generator().manual_seed(0))
    >>> text = torch.arange(520) >= 512
    >>> rectified = fv.RectifiedSpaAttn(density=0.25, block=32)
    >>> y = fv.attention(q, k, v, regions={"text": text}, operators=[rectified])
    >>> exact = fv.attention(q, k, v)
    >>> print(f"{(y.out - exact.out).norm() / exact.out.norm():.2f}")
    """

    def __init__(
        self,
        density: float = 0.2,
        mass: float = 0.3,
        *,
        block: int = 128,
        text: str | None = "text",
        gain: bool = True,
        **scope: Any,
    ) -> None:
        for name, value in (("density", density), ("mass", mass)):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= 1:
                raise FoveateError(
                    f"RectifiedSpaAttn({name}={value!r}): a share from 0 to 1 was wanted."
                )
        if text is not None and not isinstance(text, str):
            raise FoveateError(
                f"RectifiedSpaAttn(text={text!r}): the name of a region was wanted, or None."
            )
        self.density, self.mass, self.text, self.gain = density, mass, text, bool(gain)
        self.block = whole("RectifiedSpaAttn", "block", block)
        super().__init__(**scope)

    def alike(self, site: Site) -> object:
        """Sites with the same heads in scope are rewritten alike."""
        return self.scope.heads_of(site)

    def run(
        self, program: Program, q: Tensor, k: Tensor, v: Tensor,
        heads: tuple[int, ...] | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The operator: rectified ``out [B,Hq,Sq,Dv]`` and ``lse [B,Hq,Sq]``."""
        shapes = Shapes.of(q, k, v)
        terms = fold(program, shapes)
        only_key_terms("RectifiedSpaAttn", program, terms, causal=False)
        text = self._text(program)
        given = q, k, v
        if text is not None and bool(text.all()):  # nothing to pool
            out, lse = exact(q, k, v, terms.key_mask, terms.scale, False)
            return with_sinks(terms.sinks, out, lse)[:2]
        if shapes.Hkv != shapes.Hq:  # each query head chooses blocks of its own
            k, v = (x.repeat_interleave(shapes.Hq // shapes.Hkv, 1) for x in (k, v))
        among = text is not None and shapes.Sq == shapes.Sk  # the text asks too
        pooled = ~text if among and text is not None else None
        rows = q if pooled is None else q[:, :, pooled]
        out, lse = rectified(
            rows, k, v, text, terms.key_mask, scale=terms.scale, block=self.block,
            density=self.density, mass=self.mass, gain=self.gain,
        )  # fmt: skip
        if pooled is not None:
            assert text is not None
            full, full_lse = exact(q[:, :, text], k, v, terms.key_mask, terms.scale, False)
            back = torch.cat([pooled.nonzero()[:, 0], text.nonzero()[:, 0]]).argsort()
            out = torch.cat([out, full], 2).index_select(2, back)
            lse = torch.cat([lse, full_lse], 2).index_select(2, back)
        out, lse, _ = with_sinks(terms.sinks, out, lse)
        if heads is None:
            return out, lse
        done = plan(program, shapes).run(*given)
        return on_heads(heads, (done.out, done.lse), (out, lse))

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """The program with the estimate as its operator."""
        heads = self.scope.heads_at(site, call.shapes.Hq)
        operator = self if heads is None else _OnHeads(self, heads)
        return program.evolve(operators=(*program.operators, operator))

    def _text(self, program: Program) -> Tensor | None:
        """The keys that stand alone, bool ``[Sk]``; None where there are none."""
        if self.text is None or self.text not in program.regions:
            return None
        inside = region_of(program, self.text).flatten(0, 1)
        if bool((inside != inside[0]).any()):
            raise FoveateError(
                f"RectifiedSpaAttn takes a region {self.text!r} that is the same for the whole "
                f"batch; it was given {tuple(program.regions[self.text].shape)} with rows that "
                "differ. Hide what is padding with key_bias instead."
            )
        text = inside[0]
        return text if bool(text.any()) else None

    def _given(self) -> list[str]:
        return [f"density={self.density}", f"mass={self.mass}", f"block={self.block}"]


class _OnHeads:
    """:class:`RectifiedSpaAttn` on some heads."""

    def __init__(self, method: RectifiedSpaAttn, heads: tuple[int, ...]) -> None:
        self.method, self.heads = method, heads

    def __repr__(self) -> str:
        return repr(self.method)

    def run(self, program: Program, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.method.run(program, q, k, v, self.heads)
