"""A live model that is asked: on the clock, until a time, with a journal of what was answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..attach import attach
from ..errors import FoveateError
from ..evaluate.cost import measured
from ..evaluate.journal import Journal
from ..evaluate.keys import batch_key, described
from ..policy import Policy
from ..policy.rewrites import REWRITES
from ..tasks import Item, Task, prompts
from ..tasks.answering import replies
from .advice import Figure
from .ask import Answered, OutOfTime

if TYPE_CHECKING:
    from .candidates import Candidate

__all__ = ["Live"]


@dataclass
class Live:
    """Greedy answers of a model under policies; no answer is asked for twice.

    Parameters
    ----------
    model, tokenizer
    task : Task
        How long a reply may be, and which one is right.
    items : sequence of Item
        All that may be asked: what a policy marks is looked for in all of them at once.
    journal : Journal
        Keeps every answer under what it depends on.
    facts : mapping
        The model and the versions, as :func:`foveate.evaluate.keys.model_facts` gives them.
    batch_size : int
    beside : bool
        Ask the model as it is just before every batch, for seconds and bytes to compare with: a
        machine's speed drifts, and a process holds more the longer it runs.
    until : float
        On the clock of :func:`time.monotonic`: no batch is begun that would end later.
    tell : callable, optional
        Called with what is asked, before every batch.
    """

    model: Any
    tokenizer: Any
    task: Task
    items: Sequence[Item]
    journal: Journal
    facts: dict[str, Any]
    batch_size: int = 8
    beside: bool = False
    until: float = float("inf")
    tell: Callable[[str], None] | None = None
    asked: int = 0
    pace: float = 0.0
    _made: dict[str, tuple[Any, dict[str, Item]]] = field(default_factory=dict)
    _warm: bool = False

    def __call__(self, candidate: Candidate, items: Sequence[Item]) -> list[Answered]:
        """Answers in the order of the items."""
        policy = candidate.policy
        if candidate.name not in self._made:
            made = dict(zip([i.id for i in self.items], policy.items(self.items), strict=True))
            how = [described(policy), described([REWRITES[name] for name in policy.rewrites])]
            self._made[candidate.name] = (how, made)
        made = self._made[candidate.name][1]
        keys = {item.id: key for item, key in zip(items, self._keys(candidate, items), strict=True)}
        missing = [item for item in items if keys[item.id] not in self.journal.done]
        for start in range(0, len(missing), self.batch_size):
            batch = missing[start : start + self.batch_size]
            self._in_time(len(batch))
            if self.tell is not None:
                named = "as it is" if candidate.kind == "nothing" else candidate.name
                self.tell(f"{named}: {start} of {len(missing)}")
            began = time.monotonic()
            entries = self._ask(candidate, [made[item.id] for item in batch])
            self.pace = max(0.7 * self.pace, (time.monotonic() - began) / len(batch))
            self.asked += len(batch)
            for item, entry in zip(batch, entries, strict=True):
                self.journal.add(keys[item.id],
                                 {"policy": candidate.name, "id": item.id, **entry})  # fmt: skip
        return [self._answered(item, self.journal.done[keys[item.id]]) for item in items]

    def known(self, candidate: Candidate, items: Sequence[Item]) -> list[Answered]:
        """The answers there are already; nothing is asked."""
        if candidate.name not in self._made:
            return []
        keys = {item.id: key for item, key in zip(items, self._keys(candidate, items), strict=True)}
        there = [item for item in items if keys[item.id] in self.journal.done]
        return [self._answered(item, self.journal.done[keys[item.id]]) for item in there]

    def cost(
        self, candidate: Candidate, items: Sequence[Item], rounds: int = 5
    ) -> tuple[Figure, float | None] | None:
        """Seconds and peak memory as ratios to the model's as it is, asked in turns.

        Two items a round, so that batches are alike; the interval is a bootstrap over the rounds.
        None where the time does not hold it.
        """
        key = f"cost {' '.join(self._keys(candidate, items[: 2 * rounds]))}"
        if key not in self.journal.done:
            made = self._made[candidate.name][1]
            some = list(items[: 2 * rounds])
            taken = []
            for start in range(0, len(some), 2):
                pair = some[start : start + 2]
                if time.monotonic() + 2 * self.pace * len(pair) > self.until:
                    return None
                before = self._timed(Policy(), pair, self.task.max_new_tokens)[1:]
                ours = [made[item.id] for item in pair]
                after = self._timed(candidate.policy, ours, self.task.max_new_tokens)[1:]
                taken.append((before, after))
            self.journal.add(key, {"policy": candidate.name, "taken": taken})
        return _ratios(self.journal.done[key]["taken"], 2)

    def _keys(self, candidate: Candidate, items: Sequence[Item]) -> list[str]:
        """By item: of the item as it is asked, so that another way to rewrite or mark it counts."""
        how, made = self._made[candidate.name]
        beside = self.beside and candidate.kind != "nothing"
        settled = [how, self.batch_size, beside]  # seconds and bytes are shares of a batch's
        tokens = self.task.max_new_tokens
        return [batch_key(self.facts, settled, [made[item.id]], tokens) for item in items]

    def _answered(self, item: Item, entry: dict[str, Any]) -> Answered:
        right = bool(self.task.right(item, entry["reply"]))
        return Answered(item.id, entry["reply"], right, entry["seconds"], entry["memory"],
                        entry.get("beside"), entry.get("beside_memory"))  # fmt: skip

    def _in_time(self, count: int) -> None:
        if time.monotonic() + self.pace * count > self.until:
            raise OutOfTime

    def _ask(self, candidate: Candidate, made: list[Item]) -> list[dict[str, Any]]:
        """One batch: replies, and each answer's share of the seconds."""
        if not self._warm:
            self._warm = True
            self._timed(Policy(), made, 1)
        tokens = self.task.max_new_tokens
        plain = None
        if self.beside and candidate.kind != "nothing":
            known = {item.id: item for item in self.items}
            plain = self._timed(Policy(), [known[item.id] for item in made], tokens)[1:]
        said, seconds, memory = self._timed(candidate.policy, made, tokens)
        entry: dict[str, Any] = {"seconds": round(seconds / len(made), 6), "memory": memory}
        if plain is not None:
            entry |= {"beside": round(plain[0] / len(made), 6), "beside_memory": plain[1]}
        return [{"reply": reply, **entry} for reply in said]

    def _timed(
        self, policy: Policy, made: list[Item], tokens: int
    ) -> tuple[list[str], float, int | None]:
        tokens += sum(REWRITES[name].extra_tokens for name in policy.rewrites)
        device = next(self.model.parameters()).device
        if policy.asking is not None:
            work = lambda: policy.asking.generate(  # noqa: E731
                self.model, self.tokenizer, made, tokens
            )
        else:
            batches = [p.to(device) for _, p in prompts(made, self.tokenizer, len(made))]

            def work() -> list[str]:
                said: list[str] = []
                for prompt in batches:
                    with attach(self.model, *policy.at(prompt), prompt=prompt):
                        said += replies(self.model, prompt, tokens)
                return said

        with torch.no_grad():
            said, seconds, memory = measured(work, device)
        if len(said) != len(made):
            raise FoveateError(f"{policy!r} gave {len(said)} replies to {len(made)} items.")
        said = [policy.reply(text, item) for text, item in zip(said, made, strict=True)]
        return said, seconds, memory


def _ratios(taken: Sequence[Any], together: int) -> tuple[Figure, float | None]:
    before, after = (np.array([pair[side][0] for pair in taken]) for side in (0, 1))
    rows = np.random.default_rng(0).integers(0, len(before), (2000, len(before)))
    ratios = after[rows].sum(1) / before[rows].sum(1).clip(1e-12)
    low, high = (float(edge) for edge in np.quantile(ratios, [0.025, 0.975]))
    value = float(after.sum() / max(before.sum(), 1e-12))
    peaks = [[pair[side][1] for pair in taken if pair[side][1]] for side in (0, 1)]
    memory = median(peaks[1]) / median(peaks[0]) if all(peaks) else None
    return Figure(value, low, high, together * len(before)), memory
