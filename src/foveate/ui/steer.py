"""*Steer*: answers with and without, what they cost, and whether the piece mattered at all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from ..adapters.sites import sites
from ..attach import attach
from ..cli.common import head_numbers, numbers
from ..cli.steer import answer
from ..errors import FoveateError
from ..inspection import inspect
from ..report import Ablation, ablate, build, render
from . import inputs
from .frame import figures, frame
from .look import BOX
from .session import Desk, Job
from .ways import WAYS

__all__ = ["Steered", "steer"]

MOST_NEW = 100
PIECE = "piece"


class Steered(NamedTuple):
    """What the page shows of a steering: answers as HTML, and a report as HTML."""

    answers: str
    report: str = ""


def steer(
    desk: Desk,
    text: str,
    form: str,
    piece: str,
    way: str,
    strength: float,
    layers: str,
    heads: str,
    new_tokens: int,
    ablation: bool,
) -> Any:
    """The work of one steering.

    Parameters
    ----------
    desk
    text, form
        As :func:`foveate.ui.inputs.read` takes them.
    piece : str
        A piece of the prompt's text; may be empty for ways that need none.
    way : str
        Of :data:`foveate.ui.ways.WAYS`.
    strength : float
        Within the way's bounds.
    layers, heads : str
        ``3-10,12``; ``0,3`` or ``5.0,7.3``; empty is all.
    new_tokens : int
        Longest answer, up to 100.
    ablation : bool
        Whether the piece is hidden, too: did it matter?

    Returns
    -------
    callable
        For :meth:`Desk.run`; shows and gives :class:`Steered`.

    Raises
    ------
    FoveateError
        For what does not fit, before anything waits for the model.
    """
    if way not in WAYS:
        raise FoveateError(f"There is no way {way!r} to steer; there are {', '.join(WAYS)}.")
    chosen = WAYS[way]
    if chosen.strength is not None:
        bounds = chosen.strength
        strength = inputs.number("The strength", strength, bounds.low, bounds.high)
    new_tokens = inputs.number("The longest answer", new_tokens, 1, MOST_NEW, whole=True)
    marked = [(PIECE, piece)] if (piece or "").strip() else []
    prompt = inputs.read(desk.tokenizer, text, form, marked)
    if chosen.piece and not marked:
        raise FoveateError(
            f"{way} acts on a piece of the prompt: select some of its text, or type it under "
            "“Piece”."
        )
    prompt.to(next(desk.model.parameters()).device)
    method = chosen.make(PIECE, strength, _scope(desk, layers, heads))
    attach(desk.model, method, prompt=prompt)  # every check that needs no forward
    hide = [PIECE] if marked and ablation else []
    label = way if chosen.strength is None else f"{way}, {strength:g} {chosen.strength.label}"

    def work(job: Job) -> Steered:
        cards: list[tuple[str, str, str]] = []
        for name, methods in (("Without", []), (f"With {label}", [method])):
            job.stage(f"Answering {name[0].lower()}{name[1:]}", desk.calls * new_tokens)
            said = answer(desk.model, prompt, methods, new_tokens)
            foot = f"{said['tokens']} tokens in {said['seconds']:.2f} s"
            cards.append((name, said["answer"] or "(nothing)", foot))
            job.show(Steered(figures(cards)))
        job.stage("Looking before and after", 2 * desk.calls)
        before = inspect(desk.model, prompt)
        with attach(desk.model, method, prompt=prompt):
            after = inspect(desk.model, prompt)
        found: list[Ablation] = []
        if hide:
            job.stage("Hiding the piece", desk.calls * 2 * (new_tokens + 1))
            found = ablate(desk.model, prompt, hide, max_new_tokens=new_tokens)
            cards.append(
                ("Did the piece matter?", found[1].answer or "(nothing)", _mattered(found[1]))
            )
        data = build(
            after, baseline=before, ablations=found, model=desk.name, title="Before and after"
        )
        return Steered(
            figures(cards), frame(render(replace(data, untested=BOX)), "Attention before and after")
        )

    return work


def _mattered(found: Ablation) -> str:
    """What hiding the piece does to the answer that the model gives by itself."""
    change = found.change or 0.0
    nats = f"{change:+.2f} nats".replace("-", "−")
    if abs(change) < 0.05:
        return f"the piece hidden: its first answer stays as likely ({nats}), so it hardly mattered"
    how = "less" if change < 0 else "more"
    return f"the piece hidden: its first answer gets {how} likely ({nats})"


def _scope(desk: Desk, layers: str, heads: str) -> dict[str, Any]:
    """Where a method acts, as the command line writes it; all of it is there in the model."""
    scope: dict[str, Any] = {}
    for name, given in (("layers", layers), ("heads", heads)):
        given = (given or "").strip()
        if not given:
            continue
        if len(given) > 400 or any(len(digits) > 3 for digits in re.findall(r"\d+", given)):
            raise FoveateError(
                f"{name.title()}: {given[:40]!r} was given; numbers such as 3-10,12 were wanted."
            )
        scope[name] = numbers("Layers", given) if name == "layers" else head_numbers(given, "Heads")
    found = sites(desk.model)
    depth = max(site.depth for site in found)
    here = scope.get("layers")
    _there("Layers", depth, here or ())
    wanted = scope.get("heads") or ()
    if isinstance(wanted, dict):
        _there("Heads: layers", depth, wanted)
        if here and not {layer % depth for layer in wanted} & {layer % depth for layer in here}:
            raise FoveateError("None of the heads is in one of the layers; leave one box empty.")
        wanted = [head for heads in wanted.values() for head in heads]
    counts = [site.heads for site in found if site.heads is not None]
    if counts:
        _there("Heads", max(counts), wanted)
    return scope


def _there(what: str, count: int, given: Iterable[int]) -> None:
    """Refuse a number that is not among ``count``; the farthest one is named."""
    farthest = max(given, key=abs, default=0)
    if not -count <= farthest < count:
        raise FoveateError(f"{what} 0–{count - 1} are there; {farthest} was given.")
