"""``fv.advise``: baseline, diagnosis, search, verdict, examples, within the minutes given."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import FoveateError
from ..evaluate.journal import Journal
from ..evaluate.keys import described, model_facts, versions
from ..policy import Policy
from ..tasks import Item, Task, prompts
from .advice import Advice, Example, Figure, Tried, Verdict
from .apply import command, expression, python
from .ask import Answered, OutOfTime
from .candidates import Candidate, candidates, competing, given, left_out, tokens_of
from .clock import CONTROLS, Clock, Plan, Tell, minutes_for_all, planned, sampled, shown
from .controls import controls
from .diagnosis import Diagnosis, diagnose
from .examples import examples
from .goals import gains
from .inputs import checked, read, source, whole
from .live import Live
from .search import REFUSALS, Searched, search
from .split import MARGIN, split, too_few
from .sums import baseline_of, nothing_tried, together
from .verdict import verdict
from .words import held, not_in_time, too_few_even, too_few_to_tell

__all__ = ["advise", "read"]


def advise(
    model: nn.Module,
    tokenizer: Any,
    data: str | Path | Task | Iterable[Mapping[str, Any]],
    minutes: float = 15,
    goal: str = "accuracy",
    seed: int = 0,
    resume: str | Path | None = None,
    progress: bool | Tell | None = None,
    *,
    check: str | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 8,
    margin: float = MARGIN,
    policies: Sequence[Policy | str | Path] = (),
) -> Advice:
    """What to change in a model for these questions, with its gain; or "change nothing".

    Parameters
    ----------
    model, tokenizer
        A language model that generates, and its tokenizer.
    data : path, Task, or records
        A ``.jsonl`` or ``.csv`` file of questions, dicts such as it holds
        (:class:`foveate.tasks.Questions`), or a task of :mod:`foveate.tasks`.
    minutes : float
        All of it ends within them. Where the time does not hold all items, a seeded sample of them
        is asked, and the settings say so.
    goal : str
        ``accuracy``, ``speed`` or ``memory``. For the last two the accuracy may fall by no more
        than ``margin``, which has to be sure.
    seed : int
        Of the split and of what is sampled. The same seed gives the same advice: what is asked is
        planned in numbers of answers, for which the baseline's speed is rounded to half powers
        of 2. Seconds and bytes are measured, and advice on them follows what is measured.
    resume : str or Path, optional
        A file that keeps every answer, and the plan: what a killed run has asked is not asked
        again.
    progress : bool or callable, optional
        As in :func:`foveate.evaluate`; a callable gets the stage, what is asked, and the seconds
        left.
    check : str, optional
        For questions of a file or of dicts that say none: ``contains``, ``exact``, ``regex``,
        ``choices``, ``json-schema`` or a function's dotted path.
    max_new_tokens : int, optional
        How long a reply may be; default: the task's own.
    batch_size : int
        Questions asked at once. For speed and memory they are asked one by one.
    margin : float
        Accuracy that may be lost for speed or memory, as a share of the items.
    policies : sequence of Policy or paths
        What you have already: they compete too, before all else.

    Returns
    -------
    Advice
        Its ``policy`` is empty where nothing should change.

    Raises
    ------
    FoveateError
        For data that cannot be read, an unknown goal, no time, a model that does not generate or
        cannot read the questions, and policies that are not for it.

    Examples
    --------
    >>> advice = fv.advise(model, tokenizer, data="mine.jsonl", minutes=15)
    >>> print(advice)
    >>> advice.policy.save("policy.toml"); advice.report("report.html")
    """
    checked(model, goal, minutes, margin)
    whole("batch_size", batch_size, 1)
    whole("seed", seed, 0)
    own = [given(one, model) for one in policies]
    task = read(data, check)
    if max_new_tokens is not None:
        task = replace(task, max_new_tokens=max_new_tokens)  # type: ignore[type-var]
    clock = Clock(60.0 * minutes)
    journal = Journal(resume)
    with shown(progress, clock) as tell:
        made = _Advising(model, tokenizer, task, clock, journal, goal, seed, margin,
                         1 if goal != "accuracy" else batch_size, tell,
                         source(data, task), own)  # fmt: skip
        return made.advice()


_UNCHANGED = Policy()


@dataclass
class _Advising:
    """The stages, in their order, with what they share."""

    model: Any
    tokenizer: Any
    task: Task
    clock: Clock
    journal: Journal
    goal: str
    seed: int
    margin: float
    batch_size: int
    tell: Callable[[str, str], None]
    source: str
    own: Sequence[Policy] = ()
    complete: bool = True
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    held: dict[str, Any] = field(default_factory=dict)

    def advice(self) -> Advice:
        """All of it."""
        every = self.task.items(self.tokenizer)
        if len({item.id for item in every}) != len(every):
            raise FoveateError("Two items have the same id; ids must differ.")
        self.facts = {**model_facts(self.model, self.tokenizer), **versions()}
        told = [described(item) for item in every]
        self.fingerprint = getattr(self.task, "fingerprint", None) or _digest(told)
        # what a plan and a diagnosis hang on: a file's fingerprint is that of all its lines
        self.asks = [self.facts, told, self.seed, self.goal, self.task.max_new_tokens,
                     self.batch_size]  # fmt: skip
        self.live = Live(self.model, self.tokenizer, self.task, every, self.journal, self.facts,
                         self.batch_size, self.goal != "accuracy")  # fmt: skip
        least = None if self.goal == "accuracy" else too_few([True] * len(every), self.goal,
                                                             self.margin)  # fmt: skip
        if least is not None:  # whatever is answered
            return self._advice(nothing_tried(too_few_even(len(every), least, self.margin), least),
                                [], len(every), len(every))  # fmt: skip
        plan = self._plan(every)
        items = [every[i] for i in sampled(plan.items, len(every), self.seed)]
        base = self._baseline(items)
        if base:
            self.notes += self._too_long(items)
        answered = {one.id for one in base}
        items = [item for item in items if item.id in answered]
        right = [one.right for one in base]
        said = self._diagnosis(items, base, plan)
        wanted = too_few(right, self.goal, self.margin)
        tried: tuple[Tried, ...] = ()
        if not base:
            found = nothing_tried(not_in_time(len(every)), None)
        elif wanted is not None:
            why = too_few_to_tell(self.goal, len(base), sum(right), wanted, self.margin)
            if len(base) < len(every):
                why += (
                    f" There are {len(every)}, for which the time is too short: give more minutes."
                )
            found = nothing_tried(why, wanted)
        else:
            found, tried = self._search(items, base, plan)
        policy = next((one.policy for one in found.finalists
                       if one.name == found.recommended), Policy())  # fmt: skip
        policy = self._signed(policy, found, len(items))
        return self._advice(found, base, len(items), len(every), policy, said, tried,
                            self._examples(items, base, policy))  # fmt: skip

    def _advice(
        self,
        found: Verdict,
        base: Sequence[Answered],
        n: int,
        of: int,
        policy: Policy = _UNCHANGED,
        said: Diagnosis | None = None,
        tried: tuple[Tried, ...] = (),
        shown_: tuple[Example, ...] = (),
    ) -> Advice:
        return Advice(
            goal=self.goal,
            verdict=found,
            policy=policy,
            baseline=baseline_of(base),
            diagnosis=said,
            tried=tried,
            examples=shown_,
            settings=self._settings(n, of),
            command=command(self.facts["model"], self.source, policy),
            python=python(self.facts["model"], policy, self.task.max_new_tokens),
        )

    # -- the stages --------------------------------------------------------------------------------
    def _plan(self, every: Sequence[Item]) -> Plan:
        """From the speed of a first batch; the journal's own, where there is one."""
        key = "plan " + _digest([self.asks, self.clock.seconds])
        if key not in self.journal.done:
            self._stage("baseline")
            some = sampled(self.batch_size, len(every), self.seed)
            try:
                first = self._as_it_is([every[i] for i in some])
            except OutOfTime:  # it was spent on reading
                return Plan(0, 0, 0.0)
            if self.goal == "memory":
                gains(self.goal, first, first)  # refuses a system that does not tell it
            pace = sum(one.seconds for one in first) / len(first)
            plan = planned(len(every), pace, self.clock.seconds, self.live.beside)
            self.journal.add(key, {"plan": asdict(plan)})
        return Plan(**self.journal.done[key]["plan"])

    def _baseline(self, items: Sequence[Item]) -> list[Answered]:
        self._stage("baseline")
        found: list[Answered] = []
        try:
            for start in range(0, len(items), self.batch_size):
                found += self._as_it_is(items[start : start + self.batch_size])
        except OutOfTime:
            self.complete = False
            found = self.live.known(_AS_IT_IS, items)
        return found

    def _as_it_is(self, items: Sequence[Item]) -> list[Answered]:
        """What the model as it is cannot be asked, nothing can."""
        try:
            return self.live(_AS_IT_IS, items)
        except FoveateError:
            raise
        except REFUSALS as error:
            lengths = [tokens_of(prompt) for _, prompt in prompts(items, self.tokenizer, 1)]
            named = items[lengths.index(max(lengths))].id
            raise FoveateError(
                f"The model cannot be asked these questions as they are ({error}). The longest of "
                f"them, {named!r}, has {max(lengths)} tokens, and "
                f"{self.task.max_new_tokens} may follow; the model reads {self._reads() or '?'}."
            ) from error

    def _too_long(self, items: Sequence[Item]) -> list[str]:
        most = self._reads()
        if most is None:
            return []
        over = sum(tokens_of(one) > most for _, one in prompts(items, self.tokenizer, 1))
        said = f"{over} of {len(items)} questions are longer than the {most} tokens that the model"
        return [f"{said} was made for."] if over else []

    def _reads(self) -> int | None:
        """The positions that the model was made for."""
        config = getattr(self.model, "config", None)
        return getattr(config, "max_position_embeddings", None)

    def _diagnosis(
        self, items: Sequence[Item], base: Sequence[Answered], plan: Plan
    ) -> Diagnosis | None:
        if self.goal != "accuracy":
            return None  # it is of wrong answers
        right = [one.right for one in base]
        seconds = min(plan.diagnosis, self.clock.left("diagnosis"))
        if seconds < plan.diagnosis / 2 or not items:
            return None
        ids = [item.id for item in items]
        key = "diagnosis " + _digest([self.asks, plan.diagnosis, ids, list(right)])
        if key not in self.journal.done:
            self.tell("diagnosis", "")
            try:
                found = diagnose(
                    self.model, self.tokenizer, items, right, judge=self.task.right,
                    max_new_tokens=self.task.max_new_tokens, batch_size=max(4, self.batch_size),
                    seed=self.seed, seconds=plan.diagnosis,
                    pace=max(sum(one.seconds for one in base) / len(base), 1e-6),
                    progress=lambda done, of: self.tell("diagnosis", f"{done} of {of}"),
                )  # fmt: skip
            except REFUSALS as error:
                self.notes.append(f"No diagnosis: {error}")
                return None
            self.journal.add(key, {"diagnosis": found.to_dict()})
        return Diagnosis.of(self.journal.done[key]["diagnosis"])

    def _search(
        self, items: Sequence[Item], base: Sequence[Answered], plan: Plan
    ) -> tuple[Verdict, tuple[Tried, ...]]:
        # the diagnosis saw all items: a choice that leans on it would have seen those that report
        pool = candidates(self.model, self.tokenizer, items, self.goal)
        self.left_out = left_out(self.model, self.tokenizer, items, self.goal)
        pool = competing(pool, self.own)
        nothing = pool[0]
        folds = split([one.right for one in base], self.seed, self.goal, self.margin)
        began, room = time.monotonic(), self.clock.left("search")
        found: list[Searched] = []
        for number, fold in enumerate(folds, 1):
            self._stage("search", began + room * number / len(folds))
            found.append(
                search(self.live, pool, [items[i] for i in fold.tuning],
                       [base[i] for i in fold.tuning], answers=plan.answers // len(folds),
                       goal=self.goal,
                       margin=self.margin)
            )  # fmt: skip
        self.complete &= all(one.complete for one in found)
        tried = together([one.tried for one in found])
        tried = tuple(one for one in tried if one.asked or one.dropped_at is not None)
        begun = {one.name for one in tried}
        late = [one.name for one in pool[1:] if one.name not in begun]
        pace = sum(one.seconds for one in base) / len(base)
        beside = self.live.beside
        wanted = minutes_for_all(len(pool) - 1, len(items), pace, self.clock.seconds, beside)
        self.held = {"not_tried": late, "pool": len(pool) - 1,
                     "minutes_for_all": wanted if late else None}  # fmt: skip
        self._stage("verdict")
        made = verdict(
            self.live, nothing, items, base, folds, found, goal=self.goal, margin=self.margin,
            controls=self._controls(), expression=expression,
            cost=None if self.goal == "speed" else lambda one: self._cost(one, items),
        )  # fmt: skip
        short = held(self.held)
        if short:  # behind what it means
            first, *rest = made.reason.splitlines()
            made = replace(made, reason="\n".join([first, short, *rest]))
        return made, tried

    def _cost(self, one: Candidate, items: Sequence[Item]) -> tuple[Figure, float | None] | None:
        found = self.live.cost(one, items)
        if found is None and self.goal == "accuracy":
            self.notes.append(f"No time to measure {one.name} side by side: its seconds are those "
                              "of its answers, its memory is not told.")  # fmt: skip
        return found

    def _controls(self) -> Callable[[Any], dict[str, Any]]:
        made: Any = None
        longest = 20 * self.live.pace  # two dozen short questions and some plain text, at a guess
        spent, most = 0.0, CONTROLS * self.clock.seconds

        def measure(policy: Policy) -> dict[str, Any]:
            nonlocal made, longest, spent
            key = "controls " + _digest([self.facts, described(policy)])
            if key in self.journal.done:
                return dict(self.journal.done[key]["controls"])
            over = spent > 0 and spent + longest > most  # the first is the one that was chosen
            if over or self.clock.left("controls") <= longest:
                return {}
            began = time.monotonic()
            named = f"plain text and unrelated questions, {policy.name}"
            try:
                made = made or controls(self.model, self.tokenizer)
                found = dict(made.measure(
                    policy, progress=lambda done, of: self.tell("controls", f"{named}: {done}/{of}")
                ))  # fmt: skip
            except REFUSALS as error:  # plain text longer than the model reads, say
                self.notes.append(f"No controls of {policy.name}: {error}")
                return {}
            finally:
                longest = max(longest, time.monotonic() - began)
                spent += time.monotonic() - began
            self.journal.add(key, {"controls": found})
            return found

        return measure

    def _examples(
        self, items: Sequence[Item], base: Sequence[Answered], policy: Policy
    ) -> tuple[Example, ...]:
        left = self.clock.left("examples")
        if not base or left <= 0 or not (self.goal == "accuracy" or policy.methods
                                         or policy.rewrites):  # fmt: skip
            return ()
        self.tell("examples", policy.name)
        changed = bool(policy.methods or policy.rewrites)
        asked = Candidate(policy, "method", 1, "") if changed else _AS_IT_IS
        outcomes = self.live.known(asked, items)
        try:
            return examples(
                self.model, self.tokenizer, items, baseline_of(base), policy, outcomes,
                max_new_tokens=self.task.max_new_tokens, seconds=left,
            )  # fmt: skip
        except REFUSALS as error:  # what was found is worth more than how it is drawn
            self.notes.append(f"No examples: {error}")
            return ()

    # -- what is said of it ------------------------------------------------------------------------
    def _stage(self, name: str, until: float | None = None) -> None:
        self.live.until = self.clock.end(name) if until is None else until
        self.live.tell = lambda what: self.tell(name, what)
        self.tell(name, "")

    def _signed(self, policy: Policy, found: Verdict, n: int) -> Policy:
        """The policy with the model it is for, the data, and what it gained."""
        if found.recommended == "nothing":
            return policy
        best = found.finalists[0]
        figures = {
            "goal": self.goal,
            "gain": best.gain.value, "low": best.gain.low, "high": best.gain.high, "n": best.gain.n,
            "p": best.p, "mended": best.mended, "broken": best.broken,
            "seconds": best.seconds.value,
        }  # fmt: skip
        if found.folds == 2:
            figures["of"] = f"what each half chose ({'; '.join(found.choices)}), on the other half"
        data = {"name": self.task.name, "fingerprint": self.fingerprint, "n": n, "seed": self.seed}
        return replace(policy.for_model(self.model), data=data, figures=figures)

    def _settings(self, n: int, of: int) -> dict[str, Any]:
        return {
            **self.facts,
            "versions": versions(),
            "data": self.task.name,
            "data_fingerprint": self.fingerprint,
            "n": n,
            "of": of,
            "goal": self.goal,
            "margin": self.margin,
            "seed": self.seed,
            "minutes": self.clock.seconds / 60,
            "seconds": round(self.clock.spent, 1),
            "asked": self.live.asked,
            "complete": self.complete,
            "notes": list(self.notes),
            "left_out": self.left_out,
            **self.held,
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }


_AS_IT_IS = Candidate(Policy(), "nothing", 0, "the model as it is")


def _digest(value: Any) -> str:
    said = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:16]
