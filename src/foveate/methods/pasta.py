"""PASTA: what the user marks is attended to, by a few heads, at the cost of all the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..adapters.sites import Site
from ..engine.program import Program
from ..errors import FoveateError
from .emphasis import Emphasize

if TYPE_CHECKING:
    from ..attach import Call

__all__ = ["PASTA"]


class PASTA(Emphasize):
    """Scale the attention on every prompt token outside a region by ``alpha``, at chosen heads.

    Rows are renormalised, so it is :class:`~foveate.methods.emphasis.Emphasize` with
    ``gain = 1 / alpha`` on the region, up to float arithmetic: a score term (type a), no second
    pass and no matrix. Tokens generated after the prompt are not scaled down either, as in the
    authors' code, where only the columns of the prompt are.

    Parameters
    ----------
    region : str
        What is highlighted: a region of the prompt, or of ``attach(regions=…)``.
    alpha : float
        In (0, 1]; 0.01 in the paper, 1 changes nothing. With a bias ``-delta`` on the scores, as
        AutoPASTA writes it, ``alpha = exp(-delta)``.
    heads : sequence of (layer, head), or dict layer -> sequence of int
        Steering all heads does worse than none (paper, section 5.3): choose them with
        :func:`foveate.find.profiling.profile_heads`. None is all heads.
    layers, phase, stack, steps
        As in :class:`~foveate.methods.emphasis.Emphasize`.

    Raises
    ------
    FoveateError
        For an ``alpha`` out of range, and for a scope that names nothing.

    Notes
    -----
    Zhang et al., "Tell Your Model Where to Attend: Post-hoc Attention Steering for LLMs" (ICLR
    2024), equation 2; phases, generated tokens and the first token (scaled like any other) as in
    the authors' code. Several spans are one region here, the paper's set G; the code adds its
    constant once a span instead, which differs for the generated tokens alone. A row of a batch in
    which the region marks nothing is left as it is.

    Examples
    --------
    >>> heads = profile_heads(model, tokenizer, items, region="evidence").top(24)
    >>> with fv.attach(model, PASTA("evidence", heads=heads), prompt=prompt):
    ...     ids = model.generate(**prompt.inputs, max_new_tokens=30)
    """

    def __init__(
        self,
        region: str,
        alpha: float = 0.01,
        heads: Any = None,
        layers: Any = None,
        phase: str | None = None,
        stack: Any = None,
        steps: Any = None,
    ) -> None:
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= 1:
            raise FoveateError(
                f"PASTA takes alpha in (0, 1], by which all else is scaled; {alpha!r} was given. "
                "To turn attention away from a region use Emphasize with a gain below 1."
            )
        self.alpha = float(alpha)
        super().__init__(region, 1 / self.alpha, layers, heads, phase, stack, steps)

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """Add the gain, on the region and on what was generated; not in rows without the region."""
        edited = super().rewrite(program, site, call)
        if edited is program or site.kind != "decoder":  # other stacks generate nothing
            return edited
        gain: Any = edited.gains[-1].value
        marked = call.marked(self.region)
        if not bool(marked.all()):  # all of such a row's prompt counts alike, and so does the rest
            value = torch.as_tensor(gain, dtype=call.shapes.stat_dtype, device=call.shapes.device)
            gain = torch.where(marked.to(value.device)[:, None, None], value, 1.0)
        return edited.with_gain("generated", gain)

    def __repr__(self) -> str:
        return super().__repr__().replace("Emphasize(", "PASTA(").replace(
            f"gain={self.gain!r}", f"alpha={self.alpha!r}"
        )  # fmt: skip
