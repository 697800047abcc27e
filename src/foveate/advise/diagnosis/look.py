"""Where the tokens that choose a reply look: shares of attention on the parts of a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...attach import attach
from ...engine.measures import entropy, mass
from ...errors import FoveateError
from ...find._decode import greedy, read, step
from ...methods.measure import Measure
from ...prompt import Prompt
from ...results.series import Series
from ...tasks import prompts
from .places import Places

__all__ = ["PARTS", "Asked", "Looked", "forced", "look", "prompted"]

PARTS = ("evidence", "sink", "passages", "question", "rest")
"""What a prompt is cut into: every token is in one of them. The sink are the first token and
special ones; a learned sink counts there too. ``passages`` is what else is in the context,
``question`` what is asked besides it, with a system message of the item's own."""


@dataclass(frozen=True)
class Asked:
    """A left-padded batch, and its regions: bool ``[B, S]`` by name.

    ``regions`` holds :data:`PARTS`, and ``control`` and ``suspicious`` where any item has them.
    """

    cases: list[Places]
    prompt: Prompt
    regions: dict[str, Tensor]


@dataclass(frozen=True)
class Looked:
    """What one item looked at.

    Attributes
    ----------
    last, answer : Tensor
        ``[5, L, H]``: shares by :data:`PARTS`, of the last prompt token, and the mean over the
        tokens that chose the reply.
    entropy : float
        nats, of the last prompt token, mean over the heads.
    tokens, evidence_tokens : int
    reply : str
    """

    last: Tensor
    answer: Tensor
    entropy: float
    tokens: int
    evidence_tokens: int
    reply: str


def prompted(
    model: Any, tokenizer: Any, cases: Sequence[Places], batch_size: int
) -> Iterator[Asked]:
    """The cases in batches, each cut into parts.

    Raises
    ------
    FoveateError
        Where a chat template changes what the user says, so that spans point nowhere.
    """
    start = 0
    bare = [replace(case.item, marks={}) for case in cases]
    for batch, prompt in prompts(bare, tokenizer, batch_size):
        some = list(cases[start : start + len(batch)])
        start += len(batch)
        prompt.to(model.device)
        real = prompt.inputs["attention_mask"].bool()
        sink = prompt.regions["first"] | (prompt.regions["special"] & real)
        found = {
            name: _marked(prompt, some, name)
            for name in ("evidence", "context", "asked", "control", "suspicious")
        }
        for row, case in enumerate(some):  # instructions of one's own, not the template's
            if not isinstance(case.item.content, str) and _instructed(case.item.content):
                found["asked"][row] |= prompt.regions["system"][row]
        evidence = found["evidence"] & ~sink
        passages = found["context"] & ~evidence & ~sink
        question = found["asked"] & ~evidence & ~passages & ~sink
        parts = (
            evidence,
            sink,
            passages,
            question,
            real & ~(evidence | sink | passages | question),
        )
        regions = dict(zip(PARTS, parts, strict=True))
        regions |= {name: found[name] & ~sink for name in ("control", "suspicious")}
        yield Asked(some, prompt, regions)


@torch.no_grad()
def look(model: Any, tokenizer: Any, asked: Asked, max_new_tokens: int) -> list[Looked]:
    """Read a batch, answer it greedily, and say where the tokens that chose the reply looked.

    The prompt but its last token is read without measuring; that one chooses the first token of
    the reply, and each token of the reply the next.
    """
    prompt = asked.prompt
    cache = read(model, prompt)
    parts = {name: asked.regions[name] for name in PARTS}
    measure = Measure(*(mass(name) for name in (*PARTS, "generated")), entropy())
    with attach(model, measure, prompt=prompt, regions=parts) as run:
        said = greedy(model, prompt, cache, max_new_tokens)
    found = {key: _steps(run.results[key]) for key in run.results}
    shares = torch.stack([found[f"mass:{name}"] for name in PARTS])  # (5, L, B, H, T)
    shares[PARTS.index("rest")] += found["mass:generated"]
    shares[PARTS.index("sink")] += (1 - shares.sum(0)).clamp(min=0)  # a learned sink takes the rest
    steps = (said >= 0).sum(1).clamp(min=1)  # the step that ends a reply is none of its tokens
    looked = []
    for row in range(len(asked.cases)):
        own = shares[:, :, row]
        looked.append(
            Looked(
                last=own[..., 0],
                answer=own[..., : int(steps[row])].mean(-1),
                entropy=float(found["entropy"][:, row, :, 0].nanmean()),
                tokens=int(prompt.inputs["attention_mask"][row].sum()),
                evidence_tokens=int(asked.regions["evidence"][row].sum()),
                reply=tokenizer_of(tokenizer).decode(
                    said[row][said[row] >= 0], skip_special_tokens=True
                ).strip(),
            )
        )  # fmt: skip
    return looked


@torch.no_grad()
def forced(model: Any, tokenizer: Any, asked: Asked) -> list[Tensor]:
    """Where the tokens look that would choose the right answer, put into the model's mouth.

    Returns
    -------
    list of Tensor
        ``[units, L, H]`` an item: mass on each of its units, mean over those tokens.
    """
    prompt = asked.prompt
    ids, mask = prompt.inputs["input_ids"], prompt.inputs["attention_mask"]
    raw = not getattr(tokenizer, "chat_template", None) or asked.cases[0].item.raw
    lead = " " if raw else ""
    tails = [
        tokenizer_of(tokenizer)(lead + case.item.answer, add_special_tokens=False)["input_ids"]
        for case in asked.cases
    ]
    most, long = max(len(case.units) for case in asked.cases), max(map(len, tails))
    fed, real = ids.new_zeros(len(tails), long), mask.new_zeros(len(tails), long)
    for row, tokens in enumerate(tails):
        fed[row, : len(tokens)] = torch.tensor(tokens, device=ids.device)
        real[row, : len(tokens)] = 1
    fed = torch.cat([ids[:, -1:], fed[:, :-1]], 1)
    units = {f"unit {n}": _marked(prompt, asked.cases, n) for n in range(most)}
    cache = read(model, prompt)
    with attach(model, Measure(*map(mass, units)), prompt=prompt, regions=units) as run:
        step(model, fed, torch.cat([mask, real[:, :-1]], 1), cache)
    masses = torch.stack([_steps(run.results[f"mass:{name}"]) for name in units])
    weights = real.float().cpu()
    mean = torch.einsum("ulbht,bt->bulh", masses, weights / weights.sum(1, keepdim=True))
    return [mean[row, : len(case.units)] for row, case in enumerate(asked.cases)]


def tokenizer_of(tokenizer: Any) -> Any:
    """The tokenizer itself, where a processor holds it."""
    return getattr(tokenizer, "tokenizer", None) or tokenizer


def _steps(series: Series) -> Tensor:
    """``[L, B, H, T]``: the prompt's last token still counts as prefill, the reply as decode."""
    return torch.cat([series.prefill, series.decode], -1).float().cpu()


def _marked(prompt: Prompt, cases: Sequence[Places], what: str | int) -> Tensor:
    """The tokens of a kind of spans, or of one unit, bool ``[B, S]``."""
    name = f"diagnosis: {what}"
    for row, case in enumerate(cases):
        spans = case.units[what : what + 1] if isinstance(what, int) else getattr(case, what)
        start = _offset(prompt.texts[row], case)
        for a, b in spans:
            prompt.mark(name, span=(start + a, start + b), item=row)
    empty = torch.zeros_like(prompt.inputs["input_ids"], dtype=torch.bool)
    return prompt.regions.get(name, empty)


def _instructed(messages: Sequence[Mapping[str, str]]) -> bool:
    return any(message["role"] == "system" for message in messages)


def _offset(rendered: str, case: Places) -> int:
    """Where what the user says begins in the rendered prompt."""
    at = rendered.rfind(case.text)
    if at >= 0:
        return at
    inner = case.text.strip()
    at = rendered.rfind(inner)
    if at < 0:
        raise FoveateError(
            f"The chat template changed the text of item {case.item.id!r}, so that nothing in it "
            "can be pointed at: diagnose takes templates that keep what is said."
        )
    return at - case.text.index(inner)
