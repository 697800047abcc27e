"""``foveate steer``: turn the attention, read the answer before and after."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.text import Text

from ..attach import attach
from ..errors import FoveateError
from ..methods.emphasis import Emphasize
from ..methods.measure import Measure
from ..policy import Policy
from ..prompt import Prompt
from ..report import build, tables, write
from ..tasks.answering import generate, text_of
from . import common
from .common import err, out


def steer(
    text: common.PromptText = None,
    file: common.File = None,
    messages: common.Messages = None,
    raw: common.Raw = False,
    mark: common.Marks = None,
    emphasize: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT|NAME", help="A region, or a piece of the prompt; repeatable."),
    ] = None,
    gain: Annotated[
        float, typer.Option(help="Multiplies the attention there; below 1 suppresses.")
    ] = 5.0,
    also_suppress: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT|NAME", help="Divide the attention here by the gain; repeatable."
        ),
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Such as 3-10,12; default all.")] = None,
    heads: Annotated[
        str | None, typer.Option(help="Such as 0,3, or layer.head pairs 5.0,7.3; default all.")
    ] = None,
    policy: Annotated[
        Path | None,
        common.policy_option(
            "Steer by this policy: its rewrites and methods, beside what --emphasize says."
        ),
    ] = None,
    model: common.Model = "smollm2",
    max_new_tokens: common.NewTokens = 40,
    json: common.Json = False,
    report: common.Report = None,
) -> None:
    """Answer a prompt as the model is, and again with its attention turned."""
    common.check_report(report)
    if not emphasize and not also_suppress and policy is None:
        raise FoveateError(
            "steer was told nothing to steer to: give --emphasize 'a piece of the prompt', or "
            "--policy FILE."
        )
    if not (math.isfinite(gain) and gain > 0):
        raise FoveateError(
            f"--gain {gain:g} was given; a finite number greater than 0 was wanted (below 1 "
            "suppresses)."
        )
    where: dict[str, Any] = {
        "layers": common.numbers("--layers", layers),
        "heads": common.head_numbers(heads),
    }
    content, marks = common.content(text, file, messages), common.named(mark)
    held = common.read_policy(policy)
    live, tokenizer = common.load_model(model)
    held = common.for_model(held, live)
    asked = common.make_prompt(tokenizer, content, raw, marks)  # as the user wrote it
    prompt = common.make_prompt(tokenizer, content, raw, marks, held) if held else asked
    methods: list[Any] = [] if held is None else [held]
    methods += [Emphasize(region(prompt, one), gain, **where) for one in emphasize or ()]
    for one in also_suppress or ():
        methods.append(Emphasize(region(prompt, one), 1 / gain, **where))
    longer = max_new_tokens + (held.extra_tokens if held else 0)

    with err.status("Looking …"):
        before = look(live, prompt, (), max_new_tokens)
        after = look(live, prompt, methods, max_new_tokens)
    with err.status("Answering …"):
        plain = answer(live, asked, (), max_new_tokens)
        steered = answer(live, prompt, methods, longer)
    if held is not None:
        steered["answer"] = held.reply(steered["answer"], prompt.items[0])
    answers = {"without steering": plain["answer"], _label(methods): steered["answer"]}
    data = build(after, baseline=before, answers=answers, model=model)
    if report is not None:
        report = write(
            after, report, baseline=before, answers=answers, model=model, title="Before and after"
        )
    if json:
        item = data.items[0]
        common.print_json(
            {
                "model": model,
                "methods": [repr(one) for one in methods],
                "without": {**plain, "regions": [asdict(one) for one in item.before]},
                "steered": {**steered, "regions": [asdict(one) for one in item.masses]},
                "report": str(report) if report is not None else None,
            }
        )
        return
    out.print()
    for label, said in zip(answers, (plain, steered), strict=True):
        out.print(Text.assemble((f"{label}  ", "bold"), said["answer"] or "(nothing)"))
        out.print(f"[dim]{said['tokens']} tokens in {said['seconds']:.2f} s[/]\n")
    out.print(
        "[bold]Attention by region[/] "
        "[dim](of the prompt's last token; mean of layers and heads)[/]"
    )
    out.print(tables.before_after(data))
    if report is not None:
        err.print(f"report: {report}")


def region(prompt: Prompt, given: str) -> str:
    """The region of that name, or a new one: the piece of text."""
    if given in prompt.regions:
        return given
    prompt.mark(given, given)
    return given


def look(live: Any, prompt: Prompt, methods: Sequence[Any], max_new_tokens: int) -> Any:
    """Generate once with measures: of the prompt in detail, of the answer the masses."""
    measures = [
        Measure(*common.masses(prompt)),
        Measure(*common.details(), phase="prefill"),
    ]
    with torch.no_grad(), attach(live, *methods, *measures, prompt=prompt) as run:
        generate(live, prompt, max_new_tokens)
    return run


def answer(
    live: Any, prompt: Prompt, methods: Sequence[Any], max_new_tokens: int
) -> dict[str, Any]:
    """Generate once without measures, on the clock; without methods nothing is attached at all."""
    with torch.no_grad():
        if not methods:
            start = time.perf_counter()
            ids = generate(live, prompt, max_new_tokens)
            seconds = time.perf_counter() - start
        else:
            with attach(live, *methods, prompt=prompt):
                start = time.perf_counter()
                ids = generate(live, prompt, max_new_tokens)
                seconds = time.perf_counter() - start
    return {
        "answer": text_of(prompt.tokenizer, ids[0]),
        "tokens": ids.shape[1],
        "seconds": round(seconds, 4),
    }


def _label(methods: Sequence[Emphasize | Policy]) -> str:
    def said(one: Emphasize | Policy) -> str:
        text = one.name if isinstance(one, Policy) else one.region
        short = text if len(text) <= 40 else text[:38] + "…"
        return f"{'policy' if isinstance(one, Policy) else f'gain {one.gain:.3g} on'} “{short}”"

    return "with " + ", ".join(map(said, methods))
