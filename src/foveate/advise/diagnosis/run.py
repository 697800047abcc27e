"""``fv.diagnose``: failing against passing items, where the model looks, and if it matters."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from torch import Tensor, nn

from ...adapters.sites import sites
from ...errors import FoveateError
from ...find._model import ModelId
from ...find.injection import InjectionDetector
from ...tasks import Item
from .figures import figures
from .heads import Located, locate, reading
from .look import PARTS, Looked, look, prompted
from .matter import ASKS, Asking
from .places import Places
from .result import Diagnosis, ItemDiagnosis
from .words import sentences, verdict

__all__ = ["diagnose"]

_LATE = 1.25  # times the seconds given, by which the items begun are to be through
_LOOKING = 1.5  # times an answer's seconds, where it is measured or edited
_SIZES = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def diagnose(
    model: nn.Module,
    tokenizer: Any,
    items: Sequence[Item],
    right: Sequence[bool],
    *,
    judge: Callable[[Item, str], bool] | None = None,
    max_new_tokens: int = 24,
    gain: float = 5.0,
    batch_size: int = 8,
    seed: int = 0,
    seconds: float | None = None,
    pace: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Why do these items fail? Where the model looks when it fails and when not, and if it matters.

    For every item the evidence is found, the attention of the last prompt token and of the tokens
    that choose the reply is shared out over evidence, sink, other passages, question and rest, and
    the item is asked again with the evidence hidden; a failing one also with the evidence raised,
    with another passage raised instead, and with what reads like an instruction hidden.

    Parameters
    ----------
    model, tokenizer
        A language model that reads left to right, as :func:`foveate.load` gives it.
    items : sequence of Item
        Of a task; ``fv.tasks.Questions.load("mine.jsonl").items()`` for one's own.
    right : sequence of bool
        Whether the model, as it is, answered each item rightly.
    judge : callable, optional
        ``judge(item, reply) -> bool``; give ``task.right``. Default: ``item.right(reply)``.
    max_new_tokens : int
        Of a reply: as many as when ``right`` was found.
    gain : float
        With which evidence is raised (:class:`~foveate.methods.emphasis.Emphasize`).
    batch_size : int
        Items asked at once; what is found does not depend on it.
    seed : int
        Of the sample, of which other passage is raised, and of the tests' draws.
    seconds : float, optional
        Aim at this: a sample of the items, failing and passing in turns, is looked at. Its size is
        rounded (4, 6, 8, 12, 16, …), so that small differences in speed do not change it. No
        more are begun that would end after 1.25 times as long. Default: all items.
    pace : float, optional
        Seconds an answer, if they are known: then no batch is asked to find them.
    progress : callable, optional
        Called with (answers given, answers in all).

    Returns
    -------
    Diagnosis

    Raises
    ------
    FoveateError
        For no items, another number of outcomes, items with one id, numbers out of range, and
        models that do not read left to right.

    Notes
    -----
    Attention is not explanation: shares of attention are figures, and what is said about them rests
    on what hiding and raising did to the answers. Raising is compared with raising another passage,
    drawn by lot, on the same items (exact McNemar test).

    Figures of failing and passing items are compared by permutation tests of the means and by
    Fisher's exact test, with 95 % intervals of the differences, from 5 items of each kind on; in
    words only what holds after Holm's correction.

    Examples
    --------
    >>> import foveate as fv
    >>> model, tokenizer = fv.load("smollm2")
    >>> task = fv.tasks.Distractors(template="houses", passages=4, n=2)
    >>> items = task.items()
    >>> right = [task.right(i, r) for i, r in zip(items, fv.tasks.answer(model, tokenizer, items))]
    >>> print(fv.diagnose(model, tokenizer, items, right, judge=task.right))
    """
    start = time.perf_counter()
    _check(model, items, right, gain, batch_size, max_new_tokens, seconds, pace)
    judge = judge or (lambda item, reply: item.right(reply))
    every = [Places.of(item, bool(good), seed) for item, good in zip(items, right, strict=True)]
    failing, passing = sum(not c.right for c in every), sum(c.right for c in every)
    contexts = any(case.units for case in every)
    said: dict[str, Any] = {"failing": failing, "passing": passing, "contexts": contexts,
                            "gain": gain, "verdict": "unknown"}  # fmt: skip
    settings: dict[str, Any] = {"seed": seed, "gain": gain, "items": len(items)}
    if not failing:
        return Diagnosis(
            sentences((), (), Located([]), said), figures(every, (), (), (), seed), (),
            0, passing, "unknown", settings,
        )  # fmt: skip

    kept = _sample(every, seed)
    if progress is not None:
        progress(0, sum(map(_answers, kept)))
    if seconds is not None:
        one = _LOOKING * pace if pace is not None else None
        kept = kept[: _affordable(model, tokenizer, kept, seconds, batch_size, max_new_tokens, one)]
    located = locate(model, tokenizer, kept, batch_size=batch_size, seed=seed)
    total, done = sum(_answers(case) for case in located.cases), 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    asking = Asking(model, tokenizer, judge, gain, batch_size, max_new_tokens, tell)
    cases: list[Places] = []
    looked: list[Looked] = []
    answers: list[dict[str, bool | None]] = []
    tell(0)
    for first in range(0, len(kept), 2 * batch_size):  # half of them fail: full batches of these
        # in the order of the lot, for time may be up; like lengths together, which pad less
        some = located.cases[first : first + 2 * batch_size]
        began = time.perf_counter()
        some = sorted(some, key=lambda c: (isinstance(c.item.content, list), len(c.text)))
        cases += some
        looked += asking.look(some)
        answers += asking.answers(some)
        now = time.perf_counter()
        if seconds is not None and now - start + (now - began) > _LATE * seconds:
            break
    chosen, basis = _reading(cases, looked)
    table = tuple(
        _item(case, at, chosen.get(n, (None, None)), given)
        for n, (case, at, given) in enumerate(zip(cases, looked, answers, strict=True))
    )
    rows = figures(every, table, looked, _focus(model, cases, looked), seed)
    said["verdict"] = verdict(table, contexts)
    settings |= {
        "looked at": len(table),
        "seconds": round(time.perf_counter() - start, 1),
        "heads located by": located.how,
        "reading heads chosen on": basis,
    }
    told = sentences(table, rows, located, said)
    return Diagnosis(told, rows, table, failing, passing, said["verdict"], settings)


def _sample(cases: Sequence[Places], seed: int) -> list[Places]:
    """All of them by lot, failing and passing ones in turns while there are both."""
    draw = random.Random(seed)
    sides = [[c for c in cases if c.right is side] for side in (False, True)]
    for side in sides:
        draw.shuffle(side)
    turns = min(map(len, sides))
    mixed = [case for pair in zip(*sides, strict=False) for case in pair]
    return mixed + [case for side in sides for case in side[turns:]]


def _answers(case: Places) -> int:
    """How many answers a case takes: one as it is, and one for each thing done to it."""
    return 1 + sum(what.concerns(case) for what in ASKS)


def _affordable(
    model: Any,
    tokenizer: Any,
    cases: Sequence[Places],
    seconds: float,
    size: int,
    most: int,
    one: float | None = None,
) -> int:
    """How many of the cases fit into the time: at so many seconds an answer, or by the clock of one
    batch; rounded down.
    """
    took = 0.0
    if one is None:
        first = next(iter(prompted(model, tokenizer, cases[:size], size)))
        start = time.perf_counter()
        look(model, tokenizer, first, most)
        took = time.perf_counter() - start
        one = took / len(first.cases)
    lost = any(_lost(case) for case in cases)  # then heads are asked, of all

    def answers(case: Places) -> int:
        found = 2 if case.right else 4  # what evidence asks for, once heads have found it
        return max(_answers(case), found * _lost(case)) + lost

    costs = accumulate(one * answers(case) for case in cases)
    fit = sum(took + cost <= seconds for cost in costs)
    return fit if fit == len(cases) else max((n for n in _SIZES if n <= fit), default=_SIZES[0])


def _lost(case: Places) -> bool:
    """Whether heads will be asked where its evidence is."""
    return not case.evidence and len(case.units) > 1


def _reading(
    cases: Sequence[Places], looked: Sequence[Looked]
) -> tuple[dict[int, tuple[float | None, float | None]], str]:
    """The share that heads which read, and the others, give the evidence, by number of the case."""
    known = [n for n, at in enumerate(looked) if at.evidence_tokens]
    if len(known) < 2:
        return {}, ""
    on = PARTS.index("evidence")
    heads, basis = reading([looked[n].last[on] for n in known], [cases[n].right for n in known])
    shares = {}
    for n, mask in zip(known, heads, strict=True):
        own = looked[n].last[on]
        shares[n] = (_mean(own[mask]), _mean(own[~mask]))
    return shares, basis


def _mean(values: Tensor) -> float | None:
    """The mean of what is known; None where nothing is."""
    found = float(values.nanmean())
    return found if math.isfinite(found) else None


def _focus(model: Any, cases: Sequence[Places], looked: Sequence[Looked]) -> list[float | None]:
    """Attention Tracker's focus score: the question's share of question and context.

    Over its detector's heads where one is shipped for these very weights, else over all.
    """
    detector = InjectionDetector.load("smollm2")
    ours = detector.model.fingerprint == ModelId.of(model).fingerprint
    layers, heads = (list(x) for x in zip(*detector.heads, strict=True))
    found: list[float | None] = []
    for case, at in zip(cases, looked, strict=True):
        by = dict(zip(PARTS, at.last, strict=True))
        context = by["evidence"] + by["passages"]
        if not case.context or not float(by["question"].nansum()) > 0:
            found.append(None)
            continue
        ratio = by["question"] / (by["question"] + context + 1e-8)
        found.append(float((ratio[layers, heads] if ours else ratio).nanmean()))
    return found


def _item(
    case: Places,
    at: Looked,
    share: tuple[float | None, float | None],
    answers: dict[str, bool | None],
) -> ItemDiagnosis:
    mean = [
        {name: float(part.nanmean()) for name, part in zip(PARTS, shares, strict=True)}
        for shares in (at.last, at.answer)
    ]
    return ItemDiagnosis(
        id=case.item.id,
        right=case.right,
        located=case.located,
        evidence=case.says(case.evidence),
        passage=case.unit,
        passages=len(case.units),
        place=case.place,
        tokens=at.tokens,
        evidence_tokens=at.evidence_tokens,
        last=mean[0],
        answer=mean[1],
        reading=share[0],
        others=share[1],
        entropy=at.entropy,
        reply=at.reply,
        suspicious=case.says(case.suspicious),
        **answers,
    )


def _check(
    model: Any,
    items: Sequence[Item],
    right: Sequence[bool],
    gain: float,
    batch_size: int,
    max_new_tokens: int,
    seconds: float | None,
    pace: float | None,
) -> None:
    if not isinstance(model, nn.Module) or not hasattr(model, "generate"):
        raise FoveateError(
            f"diagnose takes a model that generates; {type(model).__name__} was given: "
            "model, tokenizer = fv.load(…)."
        )
    crossed = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    if crossed or not any(site.stack == "decoder" for site in sites(model)):
        raise FoveateError(
            f"diagnose takes a language model that reads from left to right; "
            f"{type(model).__name__} is none."
        )
    if not items or not all(isinstance(item, Item) for item in items):
        raise FoveateError(
            "diagnose takes the items of a task, at least one: task.items(tokenizer), or "
            'fv.tasks.Questions.load("mine.jsonl").items().'
        )
    outcomes = list(right)
    if len(outcomes) != len(items) or not all(x in (True, False) for x in outcomes):
        raise FoveateError(
            f"diagnose was given {len(outcomes)} outcomes for {len(items)} items; one an item was "
            "wanted, True where it was answered rightly."
        )
    ids = [item.id for item in items]
    if len(set(ids)) < len(ids):
        twice = next(x for x in ids if ids.count(x) > 1)
        raise FoveateError(f"Two items have the id {twice!r}; ids that differ were wanted.")
    for name, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise FoveateError(f"{name}={value!r} was given; a whole number of at least 1 was "
                               "wanted.")  # fmt: skip
    if not isinstance(gain, int | float) or not gain > 1:
        raise FoveateError(f"gain={gain!r} was given; to raise the evidence it is above 1.")
    for name, given in (("seconds", seconds), ("pace", pace)):
        if given is not None and not (isinstance(given, int | float) and given > 0):
            raise FoveateError(f"{name}={given!r} was given; a number above 0 was wanted.")
