"""A policy: rewrites of the prompt and methods on the attention, kept as a text of one's own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..attach import attach
from ..attach.layout import PARTS
from ..errors import FoveateError
from ..find._model import ModelId
from ..methods import Select
from ..patterns import Pattern
from ..prompt import BUILT_IN, Prompt
from ..tasks import Item, prompts
from ..tasks._records import question_of
from ..tasks.answering import replies
from .file import read, store, write
from .place import fits, grid_of, module_of, same_weights, versions
from .rewrites import REWRITES
from .rules import RULES

__all__ = ["Policy"]

_OWN = (*BUILT_IN, *PARTS)  # regions that are there unasked
_NOTHING = "nothing"
_REWRITTEN = "rewrites"  # in an item's info: what was done to it
_ASKED = "rewrites asked"  # and what the policy would have done, had all of it fitted


@dataclass(frozen=True, eq=False)
class Policy:
    """What is changed in a model: how a prompt is written, what is turned in the attention.

    ``fv.attach(model, policy, prompt=policy.prompt(tokenizer, record))`` applies it; an empty one
    changes nothing. :func:`foveate.advise` finds one, and it can be written by hand.

    Parameters
    ----------
    methods : sequence of method or Pattern
        As :func:`foveate.attach` takes them; or one object that does the whole asking
        (``fv.AutoPASTA``, ``fv.decoding.DeCoRe``), alone.
    rewrites : sequence of str
        Names of :data:`foveate.policy.rewrites.REWRITES`, in the order in which they are done.
    name : str
        Default: what it holds.
    model : ModelId, optional
        The model it is for; :meth:`for_model` sets it.
    grid : (int, int), optional
        Layers and heads a layer of that model.
    data : mapping
        What it was found on: name, fingerprint, number of items.
    versions : mapping of str to str
        Of the libraries it was found with; this machine's, when it is saved without.
    figures : mapping
        What it gained, and what it costs.

    Raises
    ------
    FoveateError
        For what is no method, an object that does the whole asking beside others, and an unknown
        rewrite.

    Notes
    -----
    Regions that a rule finds (:data:`foveate.policy.rules.RULES`: ``"closest passage"``,
    ``"question"``, …) are marked by :meth:`prompt` and :meth:`items`; a mark of that name that the
    item has already stays.

    Examples
    --------
    >>> import foveate as fv
    >>> model, tokenizer = fv.load("smollm2")
    >>> policy = fv.Policy([fv.Emphasize("closest passage", gain=5.0)], name="closest passage × 5")
    >>> notes = ["The key to Ash Hall is kept by Ann Ray.", "The key to Elm Inn is kept by Bo Lee."]
    >>> asked = {"context": notes, "prompt": "By whom is the key to Elm Inn kept? Only the name."}
    >>> prompt = policy.prompt(tokenizer, asked)
    >>> with fv.attach(model, policy, prompt=prompt):
    ...     ids = model.generate(**prompt.inputs, max_new_tokens=8)
    >>> print(tokenizer.decode(ids[0, prompt.length :]))
    >>> print(policy.for_model(model).to_toml())
    """

    methods: Sequence[Any] = ()
    rewrites: Sequence[str] = ()
    name: str = field(default=_NOTHING, kw_only=True)
    model: ModelId | None = field(default=None, kw_only=True)
    grid: tuple[int, int] | None = field(default=None, kw_only=True)
    data: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    versions: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    figures: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        methods = self.methods if isinstance(self.methods, list | tuple) else [self.methods]
        made = tuple(Select(one) if isinstance(one, Pattern) else one for one in methods)
        for one in made:
            if isinstance(one, type) or not (_acts(one) or _asks(one)):
                raise FoveateError(
                    f"Policy was given {one!r:.80}, which is no method: objects such as "
                    'fv.Emphasize("closest passage", gain=5.0) were wanted.'
                )
            if _asks(one) and len(made) > 1:
                raise FoveateError(f"{one!r:.200} does the whole asking: a policy holds it alone.")
        named = self.rewrites if isinstance(self.rewrites, list | tuple) else [self.rewrites]
        for one in named:
            if not isinstance(one, str) or one not in REWRITES:
                raise FoveateError(
                    f"There is no rewrite {one!r}; there are {', '.join(map(repr, REWRITES))}."
                )
        if not isinstance(self.name, str) or not self.name.strip():
            raise FoveateError(f"name={self.name!r} was given; a policy's name is a text.")
        object.__setattr__(self, "methods", made)
        object.__setattr__(self, "rewrites", tuple(named))
        if self.name == _NOTHING and (made or named):  # that is what the empty one is called
            object.__setattr__(self, "name", " + ".join([*named, *map(_called, made)]))

    # -- what it speaks of -------------------------------------------------------------------------
    @property
    def regions(self) -> tuple[str, ...]:
        """The regions its methods speak of that are not in every prompt."""
        named = (name for one in self.methods for name in getattr(one, "regions", ()))
        return tuple(dict.fromkeys(name for name in named if name not in _OWN))

    # -- prompts -----------------------------------------------------------------------------------
    def items(self, items: Sequence[Item | Mapping[str, Any] | str]) -> list[Item]:
        """Items of a task as the policy asks them: rewritten, and with its regions marked.

        Texts and mappings are taken as :meth:`prompt` takes them. A rewrite that does not fit an
        item, and a rule that finds nothing in it, leave that item as it is. An item that the policy
        has rewritten is not rewritten again.

        Raises
        ------
        FoveateError
            For what is no item; where none of them has a region that the policy speaks of, with
            the reason; for an item that another policy rewrote.
        """
        if not items:
            raise FoveateError("The policy was given no items to ask.")
        made = [self._rewritten(item) for item in _items(items)]
        for name in self.regions:
            rule = RULES.get(name)
            if rule is not None:
                made = [
                    rule.item(one) if name not in one.marks and rule.fits(one) else one
                    for one in made
                ]
            if not any(name in one.marks for one in made):
                why = f"no rule finds it ({', '.join(RULES)})" if rule is None else rule.refusal(
                    made[0]
                )  # fmt: skip
                raise FoveateError(
                    f"The policy {self.name!r} speaks of {name!r}, which "
                    f"{'the item does' if len(made) == 1 else 'these items do'} not have: {why}."
                )
        return made

    def _rewritten(self, item: Item) -> Item:
        done = item.info.get(_ASKED)
        if done is not None:
            if done != self.rewrites:
                raise FoveateError(
                    f"Item {item.id!r} was rewritten already ({', '.join(done)}): give the policy "
                    "the item as it was."
                )
            return item
        if not self.rewrites:
            return item
        names = []
        for name in self.rewrites:
            if REWRITES[name].fits(item):
                item = REWRITES[name].item(item)
                names.append(name)
        return replace(item, info={**item.info, _REWRITTEN: tuple(names), _ASKED: self.rewrites})

    def prompt(self, tokenizer: Any, asked: Any) -> Prompt:
        """What a user asks, as the policy asks it: a prompt for :func:`foveate.attach`.

        Parameters
        ----------
        tokenizer
        asked : str, mapping, Item, or a list of these
            A mapping has ``prompt`` or ``messages`` and, where there is one, ``context`` (a text or
            a list of passages), as a line of a file of questions
            (:class:`foveate.tasks.Questions`); an answer may be missing. Several make a batch.

        Raises
        ------
        FoveateError
            For what is no such question, and as :meth:`items`.
        """
        items = self.items(_items(asked))
        batches = list(prompts(items, tokenizer, len(items)))
        if len(batches) > 1:
            raise FoveateError("Chats and raw texts were given together: a batch is of one kind.")
        return batches[0][1]

    def reply(self, text: str, item: Item | None = None) -> str:
        """What counts of a reply: a rewrite may have asked for more than the answer."""
        done = self.rewrites if item is None else item.info.get(_REWRITTEN, ())
        for name in reversed(tuple(done)):
            text = REWRITES[name].reply(text)
        return text

    def generate(
        self,
        model: Any,
        tokenizer: Any,
        items: Sequence[Item | Mapping[str, Any] | str],
        max_new_tokens: int = 32,
        *,
        batch_size: int = 8,
    ) -> list[str]:
        """Greedy replies to items, one each: what :func:`foveate.evaluate` calls.

        Items are those of a task, or questions as :meth:`prompt` takes them.
        ``fv.evaluate(model, tokenizer, {"dense": [], "mine": policy}, tasks)``. Where a rewrite
        asks for more than the answer, the reply may be longer by its ``extra_tokens``.
        """
        self.check_model(model)
        made = self.items(items)
        longer = max_new_tokens + self.extra_tokens
        if self.asking is not None:
            said = self.asking.generate(model, tokenizer, made, longer)
        else:
            said = []
            for _, prompt in prompts(made, tokenizer, batch_size):
                prompt.to(model.device)
                with torch.no_grad(), attach(model, *self.at(prompt), prompt=prompt):
                    said += replies(model, prompt, longer)
        return [self.reply(text, item) for text, item in zip(said, made, strict=True)]

    @property
    def extra_tokens(self) -> int:
        """How many more tokens a reply may take: a rewrite may ask for more than the answer."""
        return sum(REWRITES[name].extra_tokens for name in self.rewrites)

    @property
    def asking(self) -> Any:
        """The object that does the whole asking, where the policy is one; else None."""
        return next((one for one in self.methods if not _acts(one)), None)

    def at(self, prompt: Prompt) -> list[Any]:
        """The methods whose regions a prompt has; a batch may have none where a rule found none."""
        there = prompt.regions
        return [
            one
            for one in self.methods
            if all(name in there or name in _OWN for name in getattr(one, "regions", ()))
        ]

    # -- on a model --------------------------------------------------------------------------------
    def for_model(self, model: nn.Module) -> Policy:
        """The policy as one of this model, with the versions of this machine."""
        model = module_of(model)
        grid = self.check_model(model).grid or grid_of(model)
        return replace(self, model=ModelId.of(model), grid=grid, versions=versions())

    def check_model(self, model: nn.Module) -> Policy:
        """Refuse a model of another architecture or of other layers or heads.

        Other weights of the same architecture draw a warning: the figures are not theirs.
        """
        if self.model is not None:
            model = module_of(model)
            fits(self.name, self.model, self.grid, model)
            same_weights(self.name, self.model, model)
        return self

    def stands_for(
        self, model: nn.Module, prompt: Any = None, regions: Mapping[str, Any] | None = None
    ) -> Sequence[Any]:
        """The methods that :func:`foveate.attach` attaches in its place, after every check."""
        self.check_model(model)
        if self.asking is not None:
            raise FoveateError(
                f"The policy {self.name!r} is {self.asking!r:.200}, which asks the model itself, "
                "in several calls: use policy.generate(model, tokenizer, items), or foveate "
                "compare --policy."
            )
        how = 'make the prompt with policy.prompt(tokenizer, {"context": …, "prompt": …})'
        asked = getattr(prompt, "items", None) or [Item("", "", "")]
        if self.rewrites and any(one.info.get(_ASKED) != self.rewrites for one in asked):
            raise FoveateError(
                f"The policy {self.name!r} rewrites prompts ({', '.join(self.rewrites)}), and this "
                f"one was not: {how}."
            )
        named = regions if isinstance(regions, Mapping) else ()  # what is none, attach refuses
        there = {*getattr(prompt, "regions", ()), *named}
        for name in self.regions:
            if name not in there:
                raise FoveateError(
                    f"The policy {self.name!r} speaks of {name!r}, which this prompt does not "
                    f"mark: {how}, or mark it: prompt.mark({name!r}, …)."
                )
        return self.methods

    # -- as text -----------------------------------------------------------------------------------
    def to_toml(self) -> str:
        """The text of ``policy.toml``.

        Raises
        ------
        FoveateError
            For methods that cannot be written down, and regions that no rule finds: where the data
            mark them, nothing will when a model is asked.
        """
        return write(self)[0]

    def save(self, path: str | Path) -> Path:
        """Write ``policy.toml``; tensors go beside it, under the same name with ``.safetensors``.

        Raises
        ------
        FoveateError
            As :meth:`to_toml`; if the file cannot be written, or tensors would take the place of a
            ``.safetensors`` file that is no policy's.
        """
        return store(Path(path).expanduser(), *write(self))

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Read what :meth:`save` wrote, or what was written by hand.

        Raises
        ------
        FoveateError
            If it cannot be read; for another format, a version of a library that is not known here,
            a method, rule, rewrite or parameter that this version does not have.
        """
        if not isinstance(path, str | os.PathLike):
            raise FoveateError(f"Policy.load takes the path of a file; {path!r:.80} was given.")
        return cls(**read(Path(path).expanduser()))

    def __repr__(self) -> str:
        parts = [*map(repr, self.rewrites), *(f"{one!r:.120}" for one in self.methods)]
        return f"Policy({self.name!r}: {' + '.join(parts) or 'changes nothing'})"


def _acts(one: Any) -> bool:
    return callable(getattr(one, "rewrite", None)) and hasattr(one, "scope")


def _asks(one: Any) -> bool:
    return not _acts(one) and callable(getattr(one, "generate", None))


def _called(one: Any) -> str:
    """A method in a name: ``Emphasize on closest passage``."""
    named = ", ".join(map(str, getattr(one, "regions", ())))
    return type(one).__name__ + (f" on {named}" if named else "")


def _items(asked: Any) -> list[Item]:
    given = asked if isinstance(asked, list | tuple) else [asked]
    return [_item(number, one) for number, one in enumerate(given, 1)]


def _item(number: int, asked: Any) -> Item:
    if isinstance(asked, Item):
        return asked
    if isinstance(asked, str):
        asked = {"prompt": asked}
    if not isinstance(asked, Mapping) or "role" in asked:
        hint = ' A chat is {"messages": [{"role": …, "content": …}]}.'
        raise FoveateError(
            f"{asked!r:.80} was given; a question such as "
            f'{{"context": ["…", "…"], "prompt": "…"}} was wanted.{hint}'
        )
    return question_of(number, asked)
