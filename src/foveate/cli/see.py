"""``foveate see``: where does the model look?"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.text import Text

from ..advise.apply import expression
from ..attach import attach
from ..errors import FoveateError
from ..inspection import inspect
from ..pictures import Picture
from ..report import Ablation, ReportData, ablate, build, tables, write
from . import common
from .common import err, load, out

_CLASSES = 3  # of a classifier's, shown


def see(
    text: common.PromptText = None,
    file: common.File = None,
    messages: common.Messages = None,
    raw: common.Raw = False,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            "--image",
            metavar="FILE",
            help="A picture that the user shows before the text; repeatable. Without --model it "
            "is shown to shapes-vlm; to a classifier of pictures, without a text.",
        ),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            "--box",
            metavar="NAME=X0,Y0,X1,Y1",
            help="Name a part of the first picture, in its pixels; repeatable.",
        ),
    ] = None,
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
    marks, boxes = common.named(mark), [_box(one) for one in box or ()]
    held = common.read_policy(policy)
    prompt: Any
    if image and not (text or file or messages):
        live, prompt = _shown(image, model, raw, marks, held)
    else:
        content = common.content(text, file, messages)
        if image:
            model = "shapes-vlm" if model == "smollm2" else model  # which does not see
            content = _seen_and_said(image, content, raw)
        live, tokenizer = common.load_model(model)
        held = common.for_model(held, live)
        prompt = common.make_prompt(tokenizer, content, raw, marks, held)
    for name, corners in boxes:
        if not image:
            raise FoveateError("--box names a part of a picture; give one with --image FILE.")
        prompt.mark_box(name, corners)
    found: list[Ablation] = []
    with attach(live, held, prompt=prompt) if held else nullcontext():
        with err.status(f"Reading {prompt.length} tokens …"):
            run = inspect(live, prompt)
            classes = _classes(live, prompt) if isinstance(prompt, Picture) else []
        if ablation:
            names = common.marked(prompt)
            with common.progress("Hiding regions", len(names)) as done:
                found = ablate(live, prompt, names, max_new_tokens=max_new_tokens, progress=done)
    under = held.name if held else None
    data = build(run, ablations=found, model=model, policy=under)
    if report is not None:
        report = write(run, report, ablations=found, model=model, policy=under)
    if json:
        common.print_json(_plain(data, model, report) | {"classes": classes})
        return
    if held:
        out.print("\n[bold]Under the policy[/]", Text(f"“{under}”: {expression(held)}"))
    if classes:
        likely = [f"{one['class']} ({tables.percent(one['probability'])})" for one in classes]
        out.print("\n[bold]It says[/]", Text(f"{likely[0]}; then {', '.join(likely[1:])}"
                                              if likely[1:] else likely[0]))  # fmt: skip
    _show(data)
    if report is not None:
        err.print(f"report: {report}")


def _box(given: str) -> tuple[str, tuple[float, ...]]:
    """``NAME=X0,Y0,X1,Y1`` as a name and four numbers."""
    name, equals, numbers = given.partition("=")
    try:
        corners = tuple(float(one) for one in numbers.split(","))
    except ValueError:
        corners = ()
    if not equals or not name or len(corners) != 4:
        raise FoveateError(
            f"--box {given!r} was given; NAME=X0,Y0,X1,Y1 was wanted, in pixels from the upper "
            "left, such as --box object=4,4,16,16."
        )
    return name, corners


def _seen_and_said(image: list[Path], content: str | list[Any], raw: bool) -> list[Any]:
    if raw or not isinstance(content, str):
        raise FoveateError(
            "--image shows a picture in a chat of one message; it goes with PROMPT or --file, not "
            'with --raw or --messages (write {"type": "image", "path": "…"} into the messages).'
        )
    parts = [{"type": "image", "path": str(one)} for one in image]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": content}]}]


def _shown(
    image: list[Path], name: str, raw: bool, marks: list[tuple[str, str]], held: Any
) -> tuple[Any, Picture]:
    """A model that only sees, and its picture."""
    with err.status(f"Loading {name} …"):
        live, processor = load(name)
    if hasattr(live, "generate") and live.can_generate():
        raise FoveateError(f"{name!r} reads and writes: say something about the picture (PROMPT).")
    if len(image) > 1 or raw or marks or held:
        raise FoveateError(
            "A model that only sees is shown one picture, without --mark, --raw and --policy; "
            "name parts of it with --box."
        )
    return live, Picture(processor, str(image[0]), live)


def _classes(model: Any, picture: Picture) -> list[dict[str, Any]]:
    """What a classifier takes the picture for, the likeliest first; nothing where it names none."""
    with torch.no_grad():
        logits = getattr(model(**picture.inputs), "logits", None)
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        return []
    names = getattr(model.config, "id2label", None) or {}
    best = logits[0].float().softmax(-1).topk(min(_CLASSES, logits.shape[1]))
    return [
        {"class": str(names.get(number, number)), "probability": share}
        for number, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


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
        "pictures": [
            {"rows": one.rows, "columns": one.columns, "shares": tables.shares(item, one)}
            for one in item.pictures
        ],
        "ablations": [asdict(one) for one in data.ablations],
        "report": str(report) if report is not None else None,
    }


def _show(data: ReportData) -> None:
    item = data.items[0]
    out.print(
        "\n[bold]Attention by region[/] [dim](mean of layers and heads)\n"
        "even: if all tokens were looked at alike; thirds: of the depth, at the "
        f"{data.reader}[/]"
    )
    out.print(tables.masses(data))
    out.print(f"\n[bold]Heads that look there most[/] [dim](layer.head, at the {data.reader})[/]")
    out.print(tables.heads(data))
    out.print(
        f"\n[bold]Looked at most by the {data.reader}[/] [dim](which is read for the answer)[/]"
    )
    out.print(tables.tokens(data))
    for number, one in enumerate(item.pictures):
        out.print(
            f"\n[bold]On picture {number + 1}[/] [dim]({one.rows} × {one.columns} patches)[/]"
        )
        out.print(Text(tables.picture(item, one) or one.note))
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
            "Mark the pieces you wonder about with --mark NAME=TEXT, parts of a picture with "
            "--box, and add --ablate: each is hidden in turn."
        )
