"""What ``advise`` found, as data: the baseline, what was tried, the verdict, five examples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..find._artefact import keep, kept
from .words import summary

if TYPE_CHECKING:
    from ..policy import Policy
    from .diagnosis import Diagnosis

__all__ = ["Advice", "Baseline", "Example", "Figure", "Finalist", "Tried", "Verdict"]

_FORMAT = "foveate advice 1"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Figure:
    """A measured number, its 95 % interval, and the number of items it comes from."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Baseline:
    """The model as it is, asked every item greedily.

    Attributes
    ----------
    ids, replies, right : tuple
        By item, in the order of the data.
    accuracy : Figure
        With Wilson's interval.
    seconds : float
        An item, prefill and generation together.
    memory : int or None
        Peak bytes over what was held before, of the batch that took most; None where unknown.
    """

    right: tuple[bool, ...]
    ids: tuple[str, ...]
    replies: tuple[str, ...]
    accuracy: Figure
    seconds: float
    memory: int | None


@dataclass(frozen=True)
class Tried:
    """One candidate on the tuning part.

    Attributes
    ----------
    name, kind, why : str
        ``kind`` is ``nothing``, ``prompt``, ``method`` or ``pattern``.
    parts : int
        How many things it changes.
    asked, right, base_right : int
        Answers given, right ones among them, and the baseline's right ones on the same items. With
        two folds these are sums over both tuning parts.
    seconds : float
        An item.
    dropped_at : int or None
        The round of the search after which it was given up, from 1; None for the last ones.
    """

    name: str
    kind: str
    parts: int
    why: str
    asked: int
    right: int
    base_right: int
    seconds: float
    dropped_at: int | None


@dataclass(frozen=True)
class Finalist:
    """One of the best of the tuning part, on the reporting part.

    Attributes
    ----------
    gain : Figure
        Goal accuracy: the share of right answers less the baseline's. Goals speed and memory: the
        share of seconds or peak bytes saved. Paired bootstrap interval.
    p : float
        Exact two-sided McNemar of right and wrong.
    mended, broken : int
        Wrong before and right now; right before and wrong now.
    seconds : Figure
        Ratio to the baseline's on the same items.
    memory : float or None
        The same of peak bytes.
    controls : dict
        Collateral damage; empty where it was not measured.
    policy : Policy
    expression : str
        The policy as one writes it on a command line.
    base_right : int or None
        The baseline's right answers on the same items; the finalist's are these, more by
        ``mended``, fewer by ``broken``.
    """

    name: str
    kind: str
    parts: int
    gain: Figure
    p: float
    mended: int
    broken: int
    seconds: Figure
    memory: float | None
    controls: dict[str, Any]
    policy: Policy
    expression: str
    base_right: int | None = None


@dataclass(frozen=True)
class Verdict:
    """What the reporting part says.

    Attributes
    ----------
    claimed : bool
        The gain's interval is above 0 and (goal accuracy) McNemar's p is under ``alpha``.
    recommended : str
        The name of a finalist, or ``nothing``.
    reason : str
        Sentences.
    finalists : tuple of Finalist
        At most three; the chosen one first, the only one that can be claimed.
    needed : int or None
        Items it would take to tell, where there are too few.
    folds : int
        1: one tuning and one reporting part. 2: cross-fitted. 0: too few items, nothing was tried.
    alpha : float
    choices : tuple of str
        What each tuning part chose: with two folds the first finalist's figures are of these, each
        on the other half.
    """

    claimed: bool
    recommended: str
    reason: str
    finalists: tuple[Finalist, ...]
    needed: int | None
    folds: int
    alpha: float
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """An item before and after, with what was looked at where the two replies part.

    Attributes
    ----------
    tokens : list of str
        The prompt and, behind it, the ``said`` tokens that both replies begin with.
    before_weights, after_weights : list of float
        By token: the share of attention of the last of them, which chooses the first word that
        differs; mean over layers and heads. Each sums to 1. The first token is the sink. Empty
        where it could not be measured.
    after_tokens : list of str
        The same of the prompt as the policy writes it; empty where that is ``tokens``.
    evidence, after_evidence : list of int
        The tokens that hold the evidence, or the answer's words where no evidence was given.
    raised : list of int
        The tokens of the regions that the policy speaks of, in what it writes.
    said : int
    """

    id: str
    question: str
    context: str | None
    answer: str
    before: str
    after: str
    right_before: bool
    right_after: bool
    tokens: list[str]
    before_weights: list[float]
    after_weights: list[float]
    after_tokens: list[str] = field(default_factory=list)
    evidence: list[int] = field(default_factory=list)
    after_evidence: list[int] = field(default_factory=list)
    raised: list[int] = field(default_factory=list)
    said: int = 0


@dataclass(frozen=True, repr=False)
class Advice:
    """What to change, what it gains and costs, or that nothing should change.

    Attributes
    ----------
    goal : str
        ``accuracy``, ``speed`` or ``memory``.
    verdict : Verdict
    policy : Policy
        What is recommended; empty where nothing should change.
    baseline : Baseline
    diagnosis : Diagnosis or None
    tried : tuple of Tried
    examples : tuple of Example
        At most five.
    settings : mapping
        Model, data, seed, minutes, versions, date, seconds spent, and ``complete``: whether the
        search came to its end before the time did.
    command, python : str
        How to apply the policy.

    Examples
    --------
    >>> advice = fv.advise(model, tokenizer, data="mine.jsonl", minutes=15)
    >>> advice.policy.save("policy.toml"); advice.report("report.html"); advice.save("advice.json")
    """

    goal: str
    verdict: Verdict
    policy: Policy
    baseline: Baseline
    diagnosis: Diagnosis | None
    tried: tuple[Tried, ...]
    examples: tuple[Example, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    python: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON holds it; policies as the text of their files.

        What is no finite number is None.
        """
        found = {one.name: _plain(getattr(self, one.name)) for one in fields(self)}
        said = self.diagnosis
        found["diagnosis"] = None if said is None else _plain(said.to_dict())
        return found

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Advice:
        """The advice that :meth:`to_dict` gave.

        Raises
        ------
        FoveateError
            For a policy in it that this version cannot use.
        """
        from .diagnosis import Diagnosis

        verdict, said = dict(data["verdict"]), data["diagnosis"]
        verdict["choices"] = tuple(verdict.get("choices", ()))
        verdict["finalists"] = tuple(
            _made(Finalist, {**one, "gain": Figure(**one["gain"]),
                             "seconds": Figure(**one["seconds"]),
                             "policy": _policy(one["policy"])})
            for one in verdict["finalists"]
        )  # fmt: skip
        base: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data["baseline"].items()
        }
        return cls(
            goal=data["goal"],
            verdict=_made(Verdict, verdict),
            policy=_policy(data["policy"]),
            baseline=_made(Baseline, {**base, "accuracy": Figure(**base["accuracy"])}),
            diagnosis=None if said is None else Diagnosis.of(said),
            tried=tuple(_made(Tried, one) for one in data["tried"]),
            examples=tuple(_made(Example, one) for one in data["examples"]),
            settings=data["settings"],
            command=data["command"],
            python=data["python"],
        )

    def save(self, path: str | Path) -> Path:
        """Write all of it as JSON, for :meth:`load`; the path is returned.

        Raises
        ------
        FoveateError
            If the file cannot be written.
        """
        return keep(path, _FORMAT, self.to_dict(), indent=1)

    @classmethod
    def load(cls, path: str | Path) -> Advice:
        """Advice that was saved.

        Raises
        ------
        FoveateError
            If the file cannot be read or holds something else, and as :meth:`of`.
        """
        with kept(path, _FORMAT, "Advice") as data:
            return cls.of(data)

    def report(self, path: str | Path) -> Path:
        """Write a self-contained HTML page that can be forwarded."""
        from ..report.advice import write  # jinja2 is needed for reports alone

        return write(self, path)

    def __repr__(self) -> str:
        return summary(self)

    def _repr_html_(self) -> str:
        from ..report.advice import fragment

        return fragment(self)


def _policy(text: str) -> Policy:
    from ..policy import Policy
    from ..policy.file import parse

    return Policy(**parse(text))


def _made(kind: type[_T], data: Mapping[str, Any]) -> _T:
    return kind(**data)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None  # a perplexity that overflowed, say: JSON has no such number
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, _DATA):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    return value.to_toml() if hasattr(value, "to_toml") else value


_DATA = (Figure, Baseline, Tried, Finalist, Verdict, Example)
