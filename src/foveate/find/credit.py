"""Which tokens of a response deserve more credit: weights on advantages, as pure arithmetic.

Nothing is trained here. The weights multiply the per-token advantages of whatever policy-gradient
code is at hand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._implements import implements
from ..errors import FoveateError

__all__ = ["RULES", "credit_weights"]

RULES = ("local", "global", "coupled")


@implements("preplan-and-anchor", basis="paper")
def credit_weights(
    waad: Tensor,
    fai: Tensor,
    rule: str = "coupled",
    *,
    amplify: float = 1.5,
    top: float = 0.4,
    back: int = 3,
    handed: float = 0.5,
    low_waad: float | None = None,
    big_drop: float | None = None,
) -> Tensor:
    """Factors for the advantages of a response's tokens; 1 leaves a token as it is.

    =========== ====================================================================================
    ``local``   the tokens where WAAD changes most to the next token (*preplan*) get ``amplify``
    ``global``  the tokens with the highest FAI (*anchors*) get ``amplify``
    ``coupled`` anchors get ``amplify``; of one that its near past dictates, the share ``handed`` of
                the bonus goes to the token that introduced it
    =========== ====================================================================================

    An anchor ``t`` is dictated when ``WAAD_t <= low_waad`` and some ``u`` in ``t - back … t - 1``
    has ``|WAAD_u - WAAD_{u+1}| >= big_drop``; the ``u`` with the largest drop introduced it.

    Parameters
    ----------
    waad, fai : Tensor
        ``[S]`` or ``[B, S]``: of :func:`~foveate.find.rhythm.rhythm`. NaN is no token of the
        response (or, of ``fai``, one without a future): it keeps the factor 1.
    rule : {"local", "global", "coupled"}
    amplify : float
        Above 0; 1.5 in the paper. 1 is the plain policy gradient.
    top : float
        The share of the tokens that is chosen, in (0, 1]; 0.4 in the paper.
    back : int
        1 to 3 in the paper.
    handed : float
        In [0, 1].
    low_waad, big_drop : float, optional
        The paper names these thresholds without giving them. Default, per response: the median of
        WAAD, and the smallest change among the ``top`` share.

    Returns
    -------
    Tensor
        Like ``waad``; without a gradient. Multiply signed advantages by it, positive and negative
        ones alike.

    Raises
    ------
    FoveateError
        For tensors that do not fit, an unknown rule, or numbers out of range.

    References
    ----------
    Li et al., "Attention Illuminates LLM Reasoning", 2025, section 5.2, equations 14 to 19.

    Examples
    --------
    >>> import foveate as fv
    >>> from foveate.find.credit import credit_weights
    >>> from foveate.find.rhythm import rhythm
    >>> from foveate.tasks.derivations import derivations
    >>> model, tokenizer = fv.load("smollm2")
    >>> prompt = fv.Prompt(tokenizer, derivations(1)[0].messages, add_generation_prompt=False)
    >>> beat = rhythm(model, prompt)
    >>> weights = credit_weights(beat.waad, beat.fai, "coupled")
    >>> print(weights)
    """
    if waad.shape != fai.shape or waad.dim() not in (1, 2):
        raise FoveateError(
            f"waad {list(waad.shape)} and fai {list(fai.shape)} were given; both are [S] or [B, S]."
        )
    if rule not in RULES:
        raise FoveateError(f"rule={rule!r} was given; it is one of {', '.join(RULES)}.")
    _check(amplify=amplify, top=top, back=back, handed=handed)
    rows = zip(waad.detach().reshape(-1, waad.shape[-1]), fai.detach().reshape(-1, fai.shape[-1]),
               strict=True)  # fmt: skip
    bonus = amplify - 1
    weights = []
    for w, f in rows:
        drop = (w[:-1] - w[1:]).abs()
        drop = torch.cat([drop, drop.new_full((1,), torch.nan)])  # the last token has no next one
        preplan, anchor = _top(drop, top), _top(f, top)
        if rule == "local":
            weights.append(1 + bonus * preplan.to(w))
            continue
        if rule == "global":
            weights.append(1 + bonus * anchor.to(w))
            continue
        calm = w.nanmedian() if low_waad is None else low_waad
        steep = drop[preplan].min() if big_drop is None and bool(preplan.any()) else big_drop
        dictated, intro = torch.zeros_like(anchor), torch.zeros_like(anchor)
        for t in anchor.nonzero().flatten().tolist():
            past = drop[max(0, t - back) : t].nan_to_num(-1.0)
            if steep is None or not len(past) or not w[t] <= calm or past.max() < steep:
                continue
            dictated[t] = True
            intro[max(0, t - back) + int(past.argmax())] = True
        free = (anchor & ~dictated).to(w)
        shared = (1 - handed) * dictated.to(w) + handed * intro.to(w)
        weights.append(1 + bonus * (free + shared))
    return torch.stack(weights).reshape(waad.shape)


def _top(values: Tensor, share: float) -> Tensor:
    """The highest ``share`` of what is no NaN; among equals the earlier comes first."""
    known = (~values.isnan()).nonzero().flatten()
    chosen = torch.zeros(values.shape, dtype=torch.bool, device=values.device)
    if len(known):
        order = values[known].argsort(descending=True, stable=True)
        chosen[known[order[: max(1, round(share * len(known)))]]] = True
    return chosen


def _check(*, amplify: Any, top: Any, back: Any, handed: Any) -> None:
    wanted = {
        "amplify": (amplify, lambda x: x > 0, "a number above 0"),
        "top": (top, lambda x: 0 < x <= 1, "a share in (0, 1]"),
        "back": (back, lambda x: isinstance(x, int) and x >= 1, "a whole number of at least 1"),
        "handed": (handed, lambda x: 0 <= x <= 1, "a share in [0, 1]"),
    }
    for name, (value, fits, what) in wanted.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not fits(value):
            raise FoveateError(f"{name}={value!r} was given; {what} was wanted.")
