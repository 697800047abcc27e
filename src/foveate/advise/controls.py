"""Collateral damage: what a policy does to text and questions that it was not made for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any

import torch
from torch import nn

from ..attach import attach
from ..errors import FoveateError
from ..policy import Policy
from ..policy.rewrites import REWRITES
from ..policy.rules import RULES
from ..prompt import BUILT_IN, Prompt
from ..tasks import IOI, ColouredObjects, Distractors, Item, Task

__all__ = ["Controls", "controls", "plain_texts"]

_EACH = 6  # questions of a kind


def plain_texts() -> dict[str, str]:
    """Four short texts by kind: a story, an explanation, a program, a talk. Written for this."""
    shipped = resources.files(__package__).joinpath("plain.json")
    return json.loads(shipped.read_text(encoding="utf-8"))


@dataclass
class Controls:
    """Control sets for a model; the model as it is has been asked them once.

    Attributes
    ----------
    tasks : tuple of Task
        Unrelated questions: coloured objects, indirect objects, and facts among two sentences.
    """

    model: nn.Module
    tokenizer: Any
    tasks: tuple[Task, ...]
    _base: dict[str, Any] | None = field(default=None, repr=False)

    def measure(
        self, policy: Policy, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Any]:
        """What becomes of the controls under a policy.

        Parameters
        ----------
        policy : Policy
        progress : callable, optional
            Called with (parts done, parts in all): the plain text, and each kind of questions; the
            first time also for the model as it is.

        Returns
        -------
        dict
            ``perplexity`` and ``perplexity_base``: of the plain texts, a token (None for a model
            that reads in an encoder); ``unrelated_right`` and ``unrelated_base``: right answers of
            the ``n`` unrelated questions; ``mended`` and ``broken`` among these; ``notes``: what of
            the policy does nothing here, in sentences.
        """
        done, of = 0, (1 + len(self.tasks)) * (2 if self._base is None else 1)

        def tell() -> None:
            nonlocal done
            if progress is not None:
                progress(done, of)
            done += 1

        tell()
        if self._base is None:
            self._base = self._asked(Policy(), None, tell)
        found = self._asked(policy, self._base, tell)
        pairs = list(zip(self._base["right"], found["right"], strict=True))
        return {
            "perplexity": found["perplexity"],
            "perplexity_base": self._base["perplexity"],
            "unrelated_right": sum(found["right"]),
            "unrelated_base": sum(self._base["right"]),
            "n": len(pairs),
            "mended": pairs.count((False, True)),
            "broken": pairs.count((True, False)),
            "notes": found["notes"],
        }

    def _asked(
        self, policy: Policy, base: dict[str, Any] | None, tell: Callable[[], None]
    ) -> dict[str, Any]:
        """The controls under a policy; what it does nothing to is as in ``base``."""
        perplexity, notes = self._perplexity(policy, base)
        tell()
        right: list[bool] = []
        idle: list[str] = []
        for task in self.tasks:
            items = task.items(self.tokenizer)
            here = _here(policy, items)
            before = base["right"][len(right) : len(right) + len(items)] if base else []
            said = None if before and here is None else _said(self, here or policy, items, task)
            if said is None:
                idle.append(task.name)
            right += before if said is None else map(task.right, items, said)
            tell()
        if idle and len(idle) == len(self.tasks):
            notes.append("It does nothing to the unrelated questions, which have nothing it needs.")
        elif idle:
            notes.append(f"It does nothing to {' and '.join(idle)}, which have nothing it needs.")
        return {"perplexity": perplexity, "right": right, "notes": notes}

    def _perplexity(
        self, policy: Policy, base: dict[str, Any] | None
    ) -> tuple[float | None, list[str]]:
        if getattr(getattr(self.model, "config", None), "is_encoder_decoder", False):
            return None, ["The model reads in an encoder: plain text has no perplexity."]
        notes = []
        if policy.rewrites:
            named = ", ".join(policy.rewrites)
            notes.append(f"Plain text is no question: {named} does nothing to it.")
        methods = [] if policy.asking is not None else list(policy.methods)
        if policy.asking is not None:
            notes.append(f"{policy.name!r} answers questions: it does nothing to plain text.")
        bound = {name for one in methods for name in getattr(one, "regions", ())} - {*BUILT_IN}
        if bound:
            named = ", ".join(sorted(map(repr, bound)))
            notes.append(f"Plain text has no {named}: what speaks of it does nothing there.")
        free = [one for one in methods if not bound & {*getattr(one, "regions", ())}]
        if base and not free:
            return base["perplexity"], notes
        loss, count = 0.0, 0
        for text in plain_texts().values():
            prompt = Prompt(self.tokenizer, text).to(next(self.model.parameters()).device)
            ids = prompt.inputs["input_ids"]
            with torch.no_grad(), attach(self.model, *free, prompt=prompt):
                logits = self.model(**prompt.inputs).logits
            logp = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None])
            loss, count = loss - float(logp.sum()), count + logp.numel()
        return math.exp(loss / count), notes


def controls(model: nn.Module, tokenizer: Any) -> Controls:
    """Control sets for a model, some 18 short questions and a thousand words of plain text."""
    tasks = (
        ColouredObjects(n=_EACH, seed=77),
        IOI(n=_EACH, seed=77),
        Distractors(template="facts", passages=2, n=_EACH, seed=77),
    )
    return Controls(model, tokenizer, tasks)


def _here(policy: Policy, items: Sequence[Item]) -> Policy | None:
    """The policy without what speaks of regions that none of the items has; None if all of it."""
    missing = {
        name
        for name in policy.regions
        if not any(name in one.marks or (name in RULES and RULES[name].fits(one)) for one in items)
    }
    methods = [one for one in policy.methods if not missing & {*getattr(one, "regions", ())}]
    acts = methods or any(REWRITES[name].fits(one) for name in policy.rewrites for one in items)
    return replace(policy, methods=methods) if acts else None


def _said(self: Controls, policy: Policy, items: Sequence[Item], task: Task) -> list[str] | None:
    """Replies; None where an object that does the whole asking cannot ask these."""
    try:
        return policy.generate(self.model, self.tokenizer, items, task.max_new_tokens)
    except FoveateError:
        if policy.asking is None:
            raise
        return None
