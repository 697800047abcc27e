"""``foveate see``: where does the model look?"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from ..advise.apply import expression
from ..attach import attach
from ..inspection import inspect
from ..report import Ablation, ReportData, ablate, build, tables, write
from . import common
from .common import err, out


def see(
    text: common.PromptText = None,
    file: common.File = None,
    messages: common.Messages = None,
    raw: common.Raw = False,
    mark: common.Marks = None,
    ablation: Annotated[
        bool,
        typer.Option(
            "--ablate", help="Hide each marked region in turn: what becomes of the answer?"
        ),
    ] = False,
    policy: Annotated[
        Path | None,
        common.policy_option("Look at the prompt as this policy asks it, under its methods."),
    ] = None,
    model: common.Model = "smollm2",
    max_new_tokens: common.NewTokens = 24,
    json: common.Json = False,
    report: common.Report = None,
) -> None:
    """Show where a model looks when it is about to answer a prompt."""
    common.check_report(report)
    content, marks = common.content(text, file, messages), common.named(mark)
    held = common.read_policy(policy)
    live, tokenizer = common.load_model(model)
    held = common.for_model(held, live)
    prompt = common.make_prompt(tokenizer, content, raw, marks, held)
    found: list[Ablation] = []
    with attach(live, held, prompt=prompt) if held else nullcontext():
        with err.status(f"Reading {prompt.length} tokens …"):
            run = inspect(live, prompt, [*common.masses(prompt), *common.details()])
        if ablation:
            names = common.marked(prompt)
            with common.progress("Hiding regions", len(names)) as done:
                found = ablate(live, prompt, names, max_new_tokens=max_new_tokens, progress=done)
    under = held.name if held else None
    data = build(run, ablations=found, model=model, policy=under)
    if report is not None:
        report = write(run, report, ablations=found, model=model, policy=under)
    if json:
        common.print_json(_plain(data, model, report))
        return
    if held:
        out.print("\n[bold]Under the policy[/]", Text(f"“{under}”: {expression(held)}"))
    _show(data)
    if report is not None:
        err.print(f"report: {report}")


def _plain(data: ReportData, model: str, report: Any) -> dict[str, Any]:
    item = data.items[0]
    first = next((one for one in item.masses if one.region == "first"), None)
    return {
        "model": model,
        "policy": data.policy,
        "tokens": len(item.tokens),
        "layers": data.layers,
        "heads": data.heads,
        "regions": [asdict(one) for one in item.masses],
        "sink": {"last": first.last, "mean": first.mean} if first else None,
        "looked_at": [
            {"position": place, "token": item.tokens[place], "share": share}
            for place, share in tables.looked_at(item)
        ],
        "ablations": [asdict(one) for one in data.ablations],
        "report": str(report) if report is not None else None,
    }


def _show(data: ReportData) -> None:
    item = data.items[0]
    out.print(
        "\n[bold]Attention by region[/] [dim](mean of layers and heads)\n"
        "even: if all tokens were looked at alike; thirds: of the depth, at the last token[/]"
    )
    out.print(tables.masses(data))
    out.print("\n[bold]Heads that look there most[/] [dim](layer.head, at the last token)[/]")
    out.print(tables.heads(data))
    out.print(
        "\n[bold]Looked at most by the last token[/] "
        "[dim](which chooses the first word of the answer)[/]"
    )
    out.print(tables.tokens(data))
    first = next((one for one in item.masses if one.region == "first"), None)
    if first is not None:
        out.print(
            f"\nThe first token, on which heads rest that look for nothing (the sink), has "
            f"{tables.percent(first.last)} of the last token's attention, "
            f"{tables.percent(first.mean)} of all."
        )
    out.print("\n[bold]Did it matter?[/] [dim]Attention is not explanation.[/]")
    if data.ablations:
        out.print(tables.ablations(data.ablations))
    else:
        out.print(
            "Mark the pieces you wonder about with --mark NAME=TEXT and add --ablate: each is "
            "hidden in turn."
        )
