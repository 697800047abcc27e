"""What is tried on these items and this model, and why the rest is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from ..attach import attach
from ..errors import FoveateError
from ..policy import Policy
from ..policy.file import write
from ..policy.place import grid_of
from ..policy.rewrites import REWRITES
from ..policy.rules import RULES
from ..prompt import Prompt
from ..tasks import Item, prompts
from .goals import GOALS
from .ideas import Idea, Kind, accurate, cheap

__all__ = ["Candidate", "candidates", "competing", "given", "left_out", "tokens_of"]

_SHARE = 0.5  # of the items that a candidate must fit
_READ = 64  # items that are looked at to say what fits


@dataclass(frozen=True)
class Candidate:
    """One thing to try.

    Attributes
    ----------
    policy : Policy
    kind : "nothing", "prompt", "method" or "pattern"
        A rewrite together with a method is a method.
    parts : int
        How many things it changes, and of how many of these it says where (layers or heads): of
        two alike the one of fewer parts is the simpler, and a prompt is simpler than a method.
    why : str
        What it is for.
    """

    policy: Policy
    kind: Kind
    parts: int
    why: str

    @property
    def name(self) -> str:
        """That of its policy."""
        return self.policy.name


def candidates(
    model: nn.Module,
    tokenizer: Any,
    items: Sequence[Item],
    goal: str = "accuracy",
    *,
    diagnosis: Any = None,
) -> list[Candidate]:
    """What to try on these items and this model: "nothing", then the most promising first.

    Parameters
    ----------
    model, tokenizer
    items : sequence of Item
        Their answers and evidence are not looked at.
    goal : "accuracy", "speed" or "memory"
    diagnosis : Diagnosis, optional
        Of these items. It changes nothing here: what it finds is told, not obeyed.

    Returns
    -------
    list of Candidate
        The same for the same items, at most 24. What was left out: :func:`left_out`.

    Raises
    ------
    FoveateError
        For another goal, and for no items.
    """
    return [made for _, made in _judged(model, tokenizer, items, goal) if not isinstance(made, str)]


def left_out(
    model: nn.Module, tokenizer: Any, items: Sequence[Item], goal: str = "accuracy"
) -> dict[str, str]:
    """What :func:`candidates` does not try here, by name, with the reason."""
    judged = _judged(model, tokenizer, items, goal)
    return {name: made for name, made in judged if isinstance(made, str)}


def given(one: Any, model: nn.Module) -> Policy:
    """A policy that someone has, as a competitor: for this model, and one that can be told as text.

    Raises
    ------
    FoveateError
        For what is no policy and no file of one, one for another model, and one with tensors.
    """
    policy = Policy.load(one) if isinstance(one, str | Path) else one
    if not isinstance(policy, Policy):
        raise FoveateError(f"policies= takes policies or their files; {one!r:.80} was given.")
    if write(policy)[1] is not None:
        raise FoveateError(
            f"The policy {policy.name!r} holds tensors, and advice is kept as text: ask foveate "
            "compare what it does."
        )
    return replace(policy.check_model(model), model=None)  # it was checked


def competing(pool: Sequence[Candidate], own: Sequence[Policy]) -> list[Candidate]:
    """The candidates, and behind "nothing" what someone has already.

    What is given and on the list as well is asked once, as given; a name that another has is told
    apart; a policy that changes nothing is "nothing", which is there.
    """
    made: list[Candidate] = []
    listed = list(pool)
    for policy in own:
        idea = Idea(policy.name, "", tuple(policy.rewrites), tuple(policy.methods))
        if idea.kind == "nothing":
            continue
        listed = [one for one in listed if _does(one.policy) != _does(policy)]
        taken = {one.name for one in (*listed, *made)}
        name, number = policy.name, 1
        while name in taken:
            number += 1
            name = f"{policy.name} ({number})"
        named = replace(policy, name=name)
        made.append(Candidate(named, idea.kind, _parts(policy), "it was given"))
    return [*listed[:1], *made, *listed[1:]]


def _parts(policy: Policy) -> int:
    """Its rewrites and methods, and one more for each that is for some layers or heads alone."""
    chosen = [
        any(getattr(one, name, None) is not None for name in ("layers", "heads"))
        for one in policy.methods
    ]
    return len(policy.rewrites) + len(chosen) + sum(chosen)


def _does(policy: Policy) -> tuple[Any, ...]:
    return tuple(policy.rewrites), repr(policy.methods)


def _judged(
    model: nn.Module, tokenizer: Any, items: Sequence[Item], goal: str
) -> Iterator[tuple[str, Candidate | str]]:
    """Each idea as a candidate, or why it is left out."""
    if goal not in GOALS:
        raise FoveateError(f"goal={goal!r} was given; it is one of {', '.join(GOALS)}.")
    if not items:
        raise FoveateError("candidates was given no items: what fits depends on them.")
    some = list(items[:_READ])
    depth = (grid_of(model) or (0, 0))[0]
    ideas = accurate(depth) if goal == "accuracy" else cheap(goal, depth, _length(tokenizer, some))
    refusals = _Refusals(some)
    for idea in ideas:
        why = idea.refused or refusals.of(idea) or _misfit(model, tokenizer, some, idea)
        if not why and idea.needs:  # it does the whole asking, and cannot leave an item as it is
            lacks = sum(not RULES[name].fits(item) for name in idea.needs for item in items)
            why = f"{lacks} of {len(items)} items have not what it needs" if lacks else None
        policy = Policy(idea.methods, idea.rewrites, name=idea.name)
        yield idea.name, why or Candidate(policy, idea.kind, _parts(policy), idea.why)


class _Refusals:
    """Which rules and rewrites fit too few of the items, each looked at once."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._known: dict[tuple[str, str], str | None] = {}

    def of(self, idea: Idea) -> str | None:
        wanted = [("rewrite", n) for n in idea.rewrites] + [("rule", n) for n in idea.rules]
        return next((why for one in wanted if (why := self._why(one))), None)

    def _why(self, one: tuple[str, str]) -> str | None:
        if one not in self._known:
            kind, name = one
            ask: Any = REWRITES[name] if kind == "rewrite" else RULES[name]
            reasons = [ask.refusal(item) for item in self._items]
            told = Counter(why for why in reasons if why is not None)
            bad, n = told.total(), len(reasons)
            few = n - bad < _SHARE * n
            self._known[one] = (
                f"{name!r} does not fit {bad} of {n} items: {told.most_common(1)[0][0]}"
                if few
                else None
            )
        return self._known[one]


def _misfit(model: nn.Module, tokenizer: Any, items: Sequence[Item], idea: Idea) -> str | None:
    """What attaching it to an item that it fits says."""
    policy = Policy(idea.methods, idea.rewrites, name=idea.name)
    fitting = (
        item
        for item in items
        if all(REWRITES[name].fits(item) for name in idea.rewrites)
        and all(RULES[name].fits(item) for name in idea.rules)
    )
    item = next(fitting, None)
    if item is None:
        return "no item has all that it needs"
    if "quote first" in idea.rewrites and not getattr(tokenizer, "chat_template", None):
        return "the model has no chat template: it continues texts and does not do as it is told"
    if policy.asking is not None:
        whole = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
        return "the model reads its prompt in an encoder" if whole else None
    try:
        ((_, prompt),) = prompts(policy.items([item]), tokenizer, 1)
        attach(model, *policy.at(prompt), prompt=prompt.to(next(model.parameters()).device))
    except FoveateError as error:
        return str(error)
    return None


def _length(tokenizer: Any, items: Sequence[Item]) -> int:
    """Tokens of a prompt, the median."""
    return int(median(tokens_of(prompt) for _, prompt in prompts(items, tokenizer, 1)))


def tokens_of(prompt: Prompt) -> int:
    """Of a prompt that is no batch."""
    return int(prompt.inputs["attention_mask"].sum())
