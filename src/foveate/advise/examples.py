"""Five items before and after, with what was looked at where the two replies part."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..attach import attach
from ..engine.measures import rows
from ..errors import FoveateError
from ..methods.measure import Measure
from ..policy.parts import Parts, mark_of
from ..policy.place import grid_of
from ..policy.rewrites import REWRITES
from ..prompt import Prompt
from ..tasks import Item, prompts
from ..tasks.answering import generate
from .advice import Baseline, Example
from .diagnosis.places import Places

if TYPE_CHECKING:
    from ..policy import Policy
    from .ask import Answered

__all__ = ["MOST", "examples", "picked"]

MOST = 5
_ROOM = 2**28  # bytes of attention rows that may be held at once


def examples(
    model: Any,
    tokenizer: Any,
    items: Sequence[Item],
    baseline: Baseline,
    policy: Policy,
    outcomes: Sequence[Answered] = (),
    *,
    max_new_tokens: int = 32,
    seconds: float | None = None,
) -> tuple[Example, ...]:
    """A few items that show what a policy does: mended ones first, a broken one, one still wrong.

    Parameters
    ----------
    model, tokenizer
    items : sequence of Item
    baseline : Baseline
        Of these items, by id.
    policy : Policy
        An empty one shows what the model gets wrong as it is.
    outcomes : sequence of Answered
        What was answered under the policy; items that are not in it are not shown.
    max_new_tokens : int
    seconds : float, optional
        When to stop measuring attention: what is left then is shown in words alone.

    Returns
    -------
    tuple of Example
        At most five.
    """
    known = dict(zip(baseline.ids, zip(baseline.replies, baseline.right, strict=True), strict=True))
    after = {one.id: (one.reply, one.right) for one in outcomes}
    empty = not policy.methods and not policy.rewrites
    if empty:
        after = known
    by_id = {item.id: item for item in items}
    names = picked({n: right for n, (_, right) in known.items() if n in by_id},
                   {n: right for n, (_, right) in after.items()})  # fmt: skip
    shown = [_located(by_id[name], known[name][1]) for name in names]
    late = None if seconds is None else time.monotonic() + seconds
    one = _asked(model, tokenizer, shown, None, max_new_tokens, late)
    other = one if empty else _asked(model, tokenizer, shown, policy, max_new_tokens, late)
    return tuple(
        _example(item, known[item.id], after[item.id], one.get(item.id), other.get(item.id))
        for item in shown
    )


def picked(before: Mapping[str, bool], after: Mapping[str, bool]) -> list[str]:
    """The ids to show, mended ones first; the same for the same outcomes."""
    kinds: dict[tuple[bool, bool], list[str]] = {
        kind: [n for n, right in before.items() if n in after and (right, after[n]) == kind]
        for kind in ((False, True), (True, False), (False, False))
    }
    mended, broken, wrong = kinds.values()
    rest = [*broken[:1], *wrong[:1]]
    shown = mended[: MOST - len(rest)] + rest
    more = [*wrong[1:], *broken[1:]]  # where little was mended
    return shown + more[: MOST - len(shown)]


def _located(item: Item, right: bool) -> Item:
    """The item with its evidence marked, where that is given or the answer's words stand."""
    if "evidence" in item.marks:
        return item
    spans = Places.of(item, right).evidence
    if not spans:
        return item
    return replace(item, marks={**item.marks, "evidence": mark_of(Parts.of(item), spans)})


def _example(
    item: Item,
    before: tuple[str, bool],
    after: tuple[str, bool],
    one: _Asked | None,
    other: _Asked | None,
) -> Example:
    parts = Parts.of(item)
    made = Example(
        id=item.id,
        question=parts.says(parts.question or (0, len(parts.text))),
        context=None if parts.context is None else parts.says(parts.context),
        answer=item.answer,
        before=before[0],
        after=after[0],
        right_before=before[1],
        right_after=after[1],
        tokens=[] if one is None else one.tokens,
        before_weights=[],
        after_weights=[],
    )
    if one is None or other is None:
        return made
    step = _parting(one.said, other.said)
    tokens, after_tokens = one.upto(step), other.upto(step)
    same = tokens == after_tokens
    return replace(
        made,
        tokens=tokens,
        before_weights=one.weights(step),
        after_weights=other.weights(step),
        after_tokens=[] if same else after_tokens,
        evidence=one.evidence,
        after_evidence=[] if same else other.evidence,
        raised=other.raised,
        said=step,
    )


def _parting(one: Sequence[str], other: Sequence[str]) -> int:
    """How many tokens two replies begin with alike; 0 where they do not differ."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), 0)


# -- looking ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Asked:
    """An item asked: its tokens, those of the reply, and what each of these was chosen by.

    ``rows`` is ``[T, n + T]``: the shares of the prompt's ``n`` tokens and of the reply's, mean
    over layers and heads, where the reply's token ``t`` was chosen.
    """

    tokens: list[str]
    said: list[str]
    rows: Tensor
    evidence: list[int]
    raised: list[int]

    def upto(self, step: int) -> list[str]:
        """The tokens that were there when the reply's token ``step`` was chosen."""
        return [*self.tokens, *self.said[:step]]

    def weights(self, step: int) -> list[float]:
        """Their shares."""
        return [float(f"{w:.4g}") for w in self.rows[step, : len(self.tokens) + step].tolist()]


def _asked(
    model: Any,
    tokenizer: Any,
    items: Sequence[Item],
    policy: Policy | None,
    max_new_tokens: int,
    late: float | None,
) -> dict[str, _Asked]:
    """Items asked while it is measured, by id; without those for which that is not to be had."""
    found: dict[str, _Asked] = {}
    try:
        if policy is not None:
            if policy.asking is not None:  # several calls, none of which is the one that answers
                return {}
            items = policy.items(items)
            max_new_tokens += sum(REWRITES[name].extra_tokens for name in policy.rewrites)
        # one by one: the longest prompt tells how many go together
        longest = max((next(prompts([one], tokenizer, 1))[1].length for one in items), default=1)
        layers, heads = grid_of(model) or (1, 1)
        fits = _ROOM // (4 * layers * heads * (longest + max_new_tokens) * max_new_tokens)
        if not fits:
            return {}
        for batch, prompt in prompts(items, tokenizer, fits):
            if late is not None and time.monotonic() > late:
                break
            methods = [] if policy is None else policy.at(prompt)
            regions = () if policy is None else policy.regions
            looked = _look(model, prompt.to(model.device), methods, regions, max_new_tokens)
            found |= {item.id: one for item, one in zip(batch, looked, strict=True)}
    except FoveateError:  # an encoder–decoder, a template that changes the text, …
        pass
    return found


def _look(
    model: Any, prompt: Prompt, methods: Sequence[Any], regions: Sequence[str], max_new_tokens: int
) -> list[_Asked]:
    with torch.no_grad(), attach(model, *methods, Measure(rows([-1])), prompt=prompt) as run:
        ids = generate(model, prompt, max_new_tokens)
    seen = run.results["rows"]
    # a head that was not measured, and a key that a window has dropped, count for nothing
    steps = [part.float().nan_to_num(0.0).mean((0, 2)).cpu()  # (B, T, S + T)
             for part in (seen.prefill, seen.decode) if part.shape[3]]  # fmt: skip
    wide = max(part.shape[-1] for part in steps)
    shares = torch.cat([torch.nn.functional.pad(p, (0, wide - p.shape[-1])) for p in steps], 1)
    found = []
    for row, tokens in enumerate(prompt.token_rows):
        real = prompt.inputs["attention_mask"][row].bool().cpu()
        kept = torch.cat([real, torch.ones(wide - len(real), dtype=torch.bool)])
        place = {at: i for i, at in enumerate(real.nonzero().flatten().tolist())}

        def of(names: Sequence[str], row: int = row, place: dict[int, int] = place) -> list[int]:
            there = [name for name in names if name in prompt.regions]
            return sorted({place[i] for name in there for i in prompt.positions(name, row)})

        found.append(
            _Asked(
                tokens=[tokens[at] for at in place],
                said=[prompt.tokenizer.decode([i]) for i in ids[row].tolist()],
                rows=shares[row][:, kept],
                evidence=of(["evidence"]),
                raised=of(regions),
            )
        )
    return found
