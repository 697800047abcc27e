"""``fv.tune``: the sparsest reading that a task still stands, or the news that there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import ceil
from operator import itemgetter
from statistics import median
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import FoveateError
from ...methods.tuned import Tuned
from ...patterns import Pattern
from ...tasks._task import Item, Task, prompts
from .._losses import grid
from .._model import ModelId, versions
from ..heads import find_heads
from .families import FAMILIES, Make, fitted, share
from .figures import Plan, gain, rows, score, times
from .judge import Judged, judge
from .masses import retained
from .plans import by_mass, choices, protect, shuffled, spent

__all__ = ["tune"]

# The densities of a family that heads choose among, as parts of the budget.
_PARTS = (0.125, 0.25, 0.5, 1.0, 2.0)
_MEASURED = 2  # items whose attention is measured


def tune(
    model: nn.Module,
    tokenizer: Any,
    task: Task | Sequence[Item],
    *,
    budget: float = 0.25,
    keep: float = 0.9,
    phase: str | None = "prefill",
    families: Mapping[str, Make] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Tuned:
    """Find which pattern each head can do with at a density, and whether the accuracy holds.

    The items are halved. On the tuning half every plan reads the prompts and is judged by the
    answers: each family of patterns everywhere; patterns chosen by the attention mass that they
    keep, a layer and a head at a time; and retrieval heads dense, the others on a thin window. The
    best one is asked on the reporting half, beside dense attention and two controls of the same
    density: the first family everywhere, and the same patterns on heads drawn blindly.

    Parameters
    ----------
    model, tokenizer
        A causal language model.
    task : Task or sequence of Item
        With answers; at least four items. ``fv.tasks.Needle(length=1024, n=16)``, or your own.
    budget : float
        Pairs that may be seen, of those of a causal triangle: 0.25 is a quarter of dense attention.
    keep : float
        The accuracy holds if at least this share of the items that dense attention answers is
        answered on the reporting half.
    phase : {"prefill", None}
        ``"prefill"``: prompts are read under the patterns, answers are dense. None: both sparse.
    families : mapping of str to callable, optional
        A size (a whole number from 1) to a pattern that sees more the larger it is; the first is
        the control. Default: :data:`~foveate.find.tuning.families.FAMILIES`.
    seed : int
        Of the heads drawn blindly and of the prompts that find retrieval heads.
    progress : callable, optional
        Called with prompts read so far and in all.

    Returns
    -------
    Tuned
        Ready to attach, with figures in ``.found``; ``.holds`` says whether the accuracy held.
        Where it did not, attaching it is possible and not advised. ``found["times_dense"]`` is the
        prefill's time as a multiple of dense attention's, and ``.remarks`` says if it is no faster.

    Raises
    ------
    FoveateError
        For what is no task and no items; a budget that is no share; fewer than four items; a task
        of which the model itself does not answer half (nothing could be held); no family that fits
        the budget.

    Notes
    -----
    An answer is right if greedy decoding says it token by token, after the item's lead if it has
    one. Plans are ranked by right answers, then by their log-probability, which tells plans apart
    that are right equally often. Dense heads and thin windows, told apart by retrieval: Xiao et
    al., "DuoAttention" (2024), with scores from :func:`foveate.find_heads` instead of trained
    gates.

    Examples
    --------
    >>> tuned = fv.tune(model, tokenizer, fv.tasks.Needle(length=1024, n=16), budget=0.25)
    >>> tuned.holds, tuned.save("tuned.json")
    >>> with fv.attach(model, fv.Tuned.load("tuned.json")): ...
    """
    for name, value in (("budget", budget), ("keep", keep)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise FoveateError(f"{name}={value!r} was given; a number in (0, 1] was wanted.")
    if phase not in ("prefill", None):
        raise FoveateError(f'phase={phase!r} was given; it is "prefill", or None for both.')
    if budget == 1:
        raise FoveateError("budget=1 is dense attention: nothing is to be found.")
    items = _items(task, tokenizer)
    if len(items) < 4:
        raise FoveateError(
            f"{len(items)} items were given; at least four were wanted, half to report on."
        )
    size = grid(model)
    halves = {"tuning": items[::2], "reporting": items[1::2]}
    tokens = int(median(next(prompts([i], tokenizer, 1))[1].length for i in halves["tuning"]))
    patterns, costs, everywhere = _options(families or FAMILIES, float(budget), tokens)

    total = len(halves["tuning"]) * (len(everywhere) + 4) + len(halves["reporting"]) * 4
    count = _Count(progress, total + min(_MEASURED, len(halves["tuning"])))

    def ask(half: str, *methods: Any) -> list[Judged]:
        return judge(model, tokenizer, halves[half], methods, phase=phase, progress=count.more)

    dense = {half: ask(half) for half in halves}
    known = sum(one.right for one in (*dense["tuning"], *dense["reporting"]))
    if 2 * known < len(items):
        raise FoveateError(
            f"The model itself answers {known} of {len(items)} items rightly, so there is nothing "
            "to hold: take shorter texts, an easier task or a larger model."
        )
    plans = _plans(
        model, tokenizer, halves["tuning"][:_MEASURED], size, patterns, costs, everywhere,
        budget=float(budget), phase=phase, seed=seed, count=count,
    )  # fmt: skip
    tried = {plan.name: ask("tuning", plan.method) for plan in plans}
    best = max(plans, key=lambda plan: score(tried[plan.name]))
    reported = {best.name: ask("reporting", best.method)}
    # the control's heads must differ: of a uniform plan, the best of the others is shuffled
    uneven = [plan for plan in plans if plan.chosen.unique().numel() > 1]
    of = best if best in uneven else max(
        uneven, key=lambda plan: score(tried[plan.name]), default=None
    )  # fmt: skip
    if of is None:
        drawn = torch.rand(size, generator=torch.Generator().manual_seed(seed))
        name, blind = "heads drawn blindly, dense", protect(drawn, costs, float(budget))
    else:
        name, blind = f"{of.name}, heads shuffled", shuffled(of.chosen, seed)
    controls = [plans[0], _plan(name, blind, patterns, costs, model, phase)]
    for plan in controls:
        if plan.name not in reported:
            reported[plan.name] = ask("reporting", plan.method)
    right = sum(one.right for one in reported[best.name])
    base = sum(one.right for one in dense["reporting"])
    figures = {
        "tuning": rows({"dense": dense["tuning"], **tried}, [*plans, *controls]),
        "reporting": rows({"dense": dense["reporting"], **reported}, [*plans, *controls]),
    }
    against = {
        name: gain(reported[best.name], other)
        for name, other in reported.items()
        if name != best.name
    }
    found = {
        "task": getattr(task, "name", None) or f"{len(items)} items",
        "settings": shorten(repr(task), 300) if isinstance(task, Task) else None,
        "tokens": tokens,
        "budget": float(budget),
        "keep": float(keep),
        "seed": seed,
        "plan": best.name,
        "density": round(best.density, 4),
        "holds": base > 0 and right >= keep * base,
        "times_dense": times(figures["reporting"], best.name),
        **figures,
        "logp_gain_over": against,
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    count.done()
    chosen = choices(best.chosen, patterns)
    return Tuned(chosen, ModelId.of(model), size, phase=phase, found=found)


def _options(
    families: Mapping[str, Make], budget: float, tokens: int
) -> tuple[list[Pattern], list[float], dict[str, int]]:
    """Patterns to choose among, their densities, and which one a family has at the budget."""
    patterns: list[Pattern] = []
    everywhere: dict[str, int] = {}
    why = ""
    for name, make in families.items():
        for part in _PARTS:
            if budget * part >= 1:
                continue
            try:
                one = fitted(make, budget * part, tokens)
            except FoveateError as error:
                why = str(error)
                continue
            if part == 1:
                everywhere[name] = patterns.index(one) if one in patterns else len(patterns)
            if one not in patterns:
                patterns.append(one)
    if not everywhere:
        raise FoveateError(
            f"No family of patterns fits a budget of {budget:g} at {tokens} tokens: "
            f"{_least(families, tokens) or why}"
        )
    return patterns, [share(one, tokens) for one in patterns], everywhere


def _items(task: Any, tokenizer: Any) -> list[Item]:
    if isinstance(task, Task):
        return task.items(tokenizer)
    items = list(task) if isinstance(task, Iterable) and not isinstance(task, str) else None
    if items is None or not all(isinstance(one, Item) for one in items):
        raise FoveateError(
            f"task={task!r:.60} was given; a task, such as fv.tasks.Needle(length=1024, n=16) or "
            'fv.tasks.Questions.load("mine.jsonl"), or a list of items was wanted.'
        )
    return items


def _least(families: Mapping[str, Make], tokens: int) -> str:
    """The smallest budget that a family fits, in words."""
    try:
        least, pattern = min(
            ((share(m(1), tokens), m(1)) for m in families.values()), key=itemgetter(0)
        )
    except FoveateError:
        return ""
    return (
        f"the smallest pattern, {pattern!r}, shows {least:.3g} of the pairs. Take a budget of "
        f"{ceil(least * 1000) / 1000:g} or more, or longer texts."
    )


def _plan(
    name: str, chosen: Tensor, patterns: Sequence[Pattern], costs: Sequence[float],
    model: nn.Module, phase: str | None,
) -> Plan:  # fmt: skip
    size = (chosen.shape[0], chosen.shape[1])
    method = Tuned(choices(chosen, patterns), ModelId.of(model), size, phase=phase)
    return Plan(name, chosen, spent(chosen, costs), method)


def _plans(
    model: nn.Module, tokenizer: Any, items: Sequence[Item], size: tuple[int, int],
    patterns: Sequence[Pattern], costs: Sequence[float], everywhere: Mapping[str, int], *,
    budget: float, phase: str | None, seed: int, count: _Count,
) -> list[Plan]:  # fmt: skip
    """The plans to try, the control first."""

    def made(name: str, chosen: Tensor) -> Plan:
        return _plan(name, chosen, patterns, costs, model, phase)

    plans = [
        made(f"{name} everywhere", torch.full(size, index)) for name, index in everywhere.items()
    ]
    masses = retained(model, tokenizer, items, patterns, phase=phase, progress=count.more)
    plans.append(made("by mass, a layer", by_mass(masses, costs, budget, layers=True)))
    plans.append(made("by mass, a head", by_mass(masses, costs, budget, layers=False)))
    try:
        scores = find_heads(model, tokenizer, "retrieval", mode="forced", n=8, seed=seed).values
    except FoveateError:  # it retrieves nothing, or reads no prompt of that length
        return plans
    return [*plans, made("retrieval heads dense", protect(scores, costs, budget))]


class _Count:
    """Prompts read so far, told to the caller."""

    def __init__(self, tell: Callable[[int, int], None] | None, total: int) -> None:
        self._tell, self._total, self._read = tell, total, 0

    def more(self, read: int) -> None:
        self._read = min(self._read + read, self._total)
        if self._tell is not None:
            self._tell(self._read, self._total)

    def done(self) -> None:
        self.more(self._total - self._read)
