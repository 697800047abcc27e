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
from ...engine.terms import Terms, fold, region_of
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
    >>> g = torch.Generator().manual_seed(0)
    >>> patches = torch.randn(3, 1, 2, 16, 16, generator=g).repeat_interleave(32, 3)
    >>> q, k, v = patches + 0.2 * torch.randn(patches.shape, generator=g)
    >>> text = torch.arange(512) >= 500
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

    @property
    def operator(self) -> RectifiedSpaAttn:
        """Itself: a method that is an operator, too."""
        return self

    def run(self, program: Program, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The operator: rectified ``out [B,Hq,Sq,Dv]`` and ``lse [B,Hq,Sq]``."""
        return Rectified(self, self._text(program), None).run(program, q, k, v)

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """The program with the estimate as its operator."""
        heads = self.scope.heads_at(site, call.shapes.Hq)
        operator = Rectified(self, self._text(program), heads)
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
        return inside[0] if bool(inside[0].any()) else None

    def _given(self) -> list[str]:
        return [f"density={self.density}", f"mass={self.mass}", f"block={self.block}"]


class Rectified:
    """The estimate of one call.

    Parameters
    ----------
    how : RectifiedSpaAttn
        Its numbers.
    text : Tensor, optional
        Bool ``[Sk]``: the keys that stand alone.
    heads : tuple of int, optional
        The heads estimated; None for all.
    """

    def __init__(
        self, how: RectifiedSpaAttn, text: Tensor | None, heads: tuple[int, ...] | None
    ) -> None:
        self.how, self.text, self.heads = how, text, heads

    def __repr__(self) -> str:
        return repr(self.how)

    def run(self, program: Program, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """``out [B,Hq,Sq,Dv]`` and ``lse [B,Hq,Sq]``."""
        shapes = Shapes.of(q, k, v)
        terms = fold(program, shapes)
        only_key_terms("RectifiedSpaAttn", program, terms, causal=False)
        if self.text is not None and bool(self.text.all()):  # nothing to pool
            done = plan(program, shapes).run(q, k, v)
            return done.out, done.lse
        made = with_sinks(terms.sinks, *self._estimate(terms, q, k, v))[:2]
        if self.heads is None:
            return made
        done = plan(program, shapes).run(q, k, v)
        return on_heads(self.heads, (done.out, done.lse), made)

    def _estimate(self, terms: Terms, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Without the sinks."""
        how, text, group = self.how, self.text, q.shape[1] // k.shape[1]
        if group > 1:  # each query head chooses blocks of its own
            k, v = (x.repeat_interleave(group, 1) for x in (k, v))
        # queries beside as many keys are the same tokens: the text asks too, and in full
        asks = text is not None and q.shape[2] == k.shape[2]
        pooled = (~text).nonzero()[:, 0] if asks and text is not None else None
        out, lse = rectified(
            q if pooled is None else q[:, :, pooled], k, v, text, terms.key_mask,
            scale=terms.scale, block=how.block, density=how.density, mass=how.mass, gain=how.gain,
        )  # fmt: skip
        if pooled is None or text is None:
            return out, lse
        full, full_lse = exact(q[:, :, text], k, v, terms.key_mask, terms.scale, False)
        back = torch.cat([pooled, text.nonzero()[:, 0]]).argsort()
        out = torch.cat([out, full], 2).index_select(2, back)
        return out, torch.cat([lse, full_lse], 2).index_select(2, back)
