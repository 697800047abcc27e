"""*Look*: where does the model look when it reads a prompt?"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import torch

from ..engine import measures as m
from ..inspection import inspect
from ..prompt import Prompt
from ..report import ablate, build, render, token_map
from . import inputs
from .frame import frame
from .session import Desk, Job, Session

__all__ = ["around", "look"]

BOX = "the box “Did it matter?” above, ticked, hides"
ANSWER = 24  # tokens of an answer whose change is shown


def look(desk: Desk, session: Session, text: str, form: str, marked: str, ablation: bool) -> Any:
    """The work of one look: a report of where the model looked, as a piece of HTML.

    Parameters
    ----------
    desk, session
    text, form
        As :func:`foveate.ui.inputs.read` takes them.
    marked : str
        Lines of ``NAME = text``.
    ablation : bool
        Whether each marked piece is hidden in turn, too.

    Returns
    -------
    callable
        For :meth:`Desk.run`; gives HTML. The prompt is kept in the session for :func:`around`.

    Raises
    ------
    FoveateError
        For what :mod:`foveate.ui.inputs` refuses: before anything waits for the model.
    """
    pieces = inputs.marks(marked)
    prompt = inputs.read(desk.tokenizer, text, form, pieces).to(_device(desk))
    hide = [name for name, _ in pieces] if ablation else []

    def work(job: Job) -> str:
        job.stage(f"Reading {prompt.length} tokens", desk.calls)
        run = inspect(desk.model, prompt)
        found = []
        if hide:
            # of each: the answer without it, and the log-probability of the model's own answer
            forwards = (len(hide) + 1) * (ANSWER + 1)
            job.stage("Hiding what was marked", desk.calls * forwards)
            found = ablate(desk.model, prompt, hide, max_new_tokens=ANSWER)
        session.looked = prompt
        data = build(run, ablations=found, model=desk.name)
        return frame(render(replace(data, asks=True, untested=BOX)), "Where the model looked")

    return work


def around(desk: Desk, session: Session, token: Any) -> Any:
    """The work of one question about a token: what did it look at, and who looked at it?

    One forward: the token's row of attention, and the mass that every query puts on it. Neither
    needs the map of all tokens on all.

    Returns
    -------
    callable
        For :meth:`Desk.run`; gives JSON: a list of two token maps.

    Raises
    ------
    FoveateError
        For a token that is not in the prompt last looked at.
    """
    prompt: Prompt | None = session.looked
    last = -1 if prompt is None else prompt.length - 1
    inputs.number("The token", token, 0, last, whole=True)
    assert prompt is not None

    def work(job: Job) -> str:
        job.stage(f"Looking around token {token}", desk.calls)
        here = torch.zeros(prompt.length, dtype=torch.bool, device=_device(desk))
        here[token] = True
        name = "asked"
        while name in prompt.regions:
            name += "'"
        run = inspect(desk.model, prompt, [m.rows([token]), m.mass(name)], regions={name: here})
        rows = run.results["rows"].prefill[:, 0, :, 0].float().cpu()  # (L, H, S)
        masses = run.results[f"mass:{name}"].prefill[:, 0].float().cpu()  # (L, H, S)
        named = f"token {token} ({prompt.tokens[token].strip() or '␣'})"
        maps = [
            asdict(token_map(f"around:{key}", label, unit, value))
            for key, label, unit, value in (
                ("to", f"What {named} looked at", "share of its attention", rows),
                ("from", f"Who looked at {named}", "share of each one's own", masses),
            )
        ]
        return json.dumps(maps).replace("<", "\\u003c")  # the same JSON, in which no tag begins

    return work


def _device(desk: Desk) -> Any:
    return next(desk.model.parameters()).device
