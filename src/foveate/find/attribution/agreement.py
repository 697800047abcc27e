"""Do two explanations say the same? Rank correlations, and what they cannot tell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._implements import implements
from ...errors import FoveateError
from ._result import Attribution

__all__ = ["agreement"]

MEASURES = ("kendall", "spearman", "pearson", "top", "kendall-top")


@implements("order-in-the-court", basis="paper")
def agreement(
    a: Attribution | Tensor,
    b: Attribution | Tensor,
    measure: str = "kendall",
    *,
    within: Any = None,
    magnitude: bool = True,
    k: int = 10,
) -> float:
    """How far two attributions of one input rank its tokens alike.

    Parameters
    ----------
    a, b : Attribution or Tensor ``[S]``
        Of the same tokens.
    measure : str
        ``kendall``: Kendall's tau-b, −1 to 1. ``spearman``, ``pearson``: −1 to 1. ``top``: the part
        that the ``k`` best tokens of both have in common, 0 to 1. ``kendall-top``: Kendall's
        distance between the two top-``k`` lists (Fagin et al., 2003, with p = 1/2: a pair that one
        list holds and the other knows nothing of counts a half), divided by the pairs there are and
        turned into a correlation: 1 for equal lists, −1 for reversed ones, about −1/2 for lists
        that have nothing in common.
    within : bool Tensor or sequence of int, optional
        Only these positions; default all that are not padding in either.
    magnitude : bool
        Compare absolute scores, as the paper does: attention has no sign.
    k : int
        For ``top`` and ``kendall-top``.

    Returns
    -------
    float
        NaN where one of the two ranks nothing (all scores alike).

    Raises
    ------
    FoveateError
        Attributions of different lengths, an unknown measure, no scipy (the extra ``probes``).

    Notes
    -----
    Neely, Schouten, Bleeker and Lucic, "Order in the Court" (2021); tau, rho and top-``k``
    as in their experiments, checked against their code. Their point: explanations of all kinds
    disagree, so agreement is no test of one. What is: whether the model's output follows
    (:func:`foveate.find.attribution.faithfulness`), and worlds in which the answer is known.

    Examples
    --------
    >>> import foveate as fv
    >>> model, tokenizer = fv.load("smollm2")
    >>> prompt = fv.Prompt(tokenizer, "The cat is black. The dog is white. The dog is")
    >>> relevance = fv.attribute(model, prompt)
    >>> raw = fv.attribute(model, prompt, "attention")
    >>> fv.agreement(relevance, raw)  # Kendall's tau
    """
    if measure not in MEASURES:
        raise FoveateError(f"measure={measure!r} was given; there are {', '.join(MEASURES)}.")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise FoveateError(f"k={k!r} was given; a whole number of at least 1 was wanted.")
    first, second = (_as_attribution(one) for one in (a, b))
    if len(first) != len(second):
        raise FoveateError(
            f"The two attributions have {len(first)} and {len(second)} tokens; they must be of the "
            "same input."
        )
    places = first.places(within)
    places = places[torch.isin(places, second.places(within))]
    x, y = (one.scores[places].double() for one in (first, second))
    if magnitude:
        x, y = x.abs(), y.abs()
    if len(x) < 2:
        raise FoveateError("Two tokens at least have a ranking; fewer were left to compare.")
    if measure == "top":
        return len(_best(x, k) & _best(y, k)) / min(k, len(x))
    if measure == "kendall-top":
        return _kendall_top(x, y, min(k, len(x)))
    if bool((x == x[0]).all()) or bool((y == y[0]).all()):
        return float("nan")
    return float(getattr(_stats(), f"{measure}{_SUFFIX[measure]}")(x.numpy(), y.numpy()).statistic)


_SUFFIX = {"kendall": "tau", "spearman": "r", "pearson": "r"}


def _as_attribution(one: Any) -> Attribution:
    if isinstance(one, Attribution):
        return one
    if isinstance(one, Tensor) and one.dim() == 1:
        return Attribution(one, [""] * len(one), "given")
    raise FoveateError(f"An Attribution or a tensor [S] was wanted; {type(one).__name__} was given")


def _stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise FoveateError(
            "Rank correlations need scipy, which comes with scikit-learn: pip install "
            "foveate[probes]."
        ) from error
    return stats


def _best(scores: Tensor, k: int) -> set[int]:
    return set(scores.argsort(descending=True, stable=True)[:k].tolist())


def _kendall_top(x: Tensor, y: Tensor, k: int) -> float:
    """``1 − 2 K / pairs`` with Fagin's distance ``K^(1/2)`` between top-``k`` lists."""
    one = x.argsort(descending=True, stable=True)[:k].tolist()
    two = y.argsort(descending=True, stable=True)[:k].tolist()
    places = [{token: n for n, token in enumerate(found)} for found in (one, two)]
    union = sorted(set(one) | set(two))
    distance = 0.0
    for n, i in enumerate(union):
        for j in union[n + 1 :]:
            held = [(i in place, j in place) for place in places]
            if all(a and b for a, b in held):
                before = [place[i] < place[j] for place in places]
                distance += before[0] != before[1]
            elif any(a and b for a, b in held):
                whole = 0 if all(held[0]) else 1
                # one list has both, the other one of them (which then is ahead) or neither
                if any(held[1 - whole]):
                    ahead = places[whole][i] < places[whole][j]
                    distance += ahead != held[1 - whole][0]
                else:
                    distance += 0.5
            elif held[0] != held[1]:  # each list has the one that the other lacks
                distance += 1.0
    pairs = len(union) * (len(union) - 1) / 2
    return 1 - 2 * distance / pairs if pairs else 1.0
