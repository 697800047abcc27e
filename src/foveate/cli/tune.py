"""``foveate tune``: which pattern can each head do with, and does the accuracy hold?"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from ..attach import attach
from ..errors import FoveateError
from ..find.tuning import tune as search
from ..methods.tuned import Tuned
from . import common
from .common import err, out
from .compare import sized
from .expressions import task as parsed

_PHASES = {"prefill": "prefill", "both": None}


def tune(
    task: Annotated[
        str,
        typer.Option(
            "--task",
            metavar="TASK",
            help="needle, 'needle(length=2048, needles=4)', or questions.jsonl of your own.",
        ),
    ] = "needle",
    budget: Annotated[
        float, typer.Option("--budget", help="Pairs that may be seen, of dense attention's.")
    ] = 0.25,
    keep: Annotated[
        float, typer.Option("--keep", help="Of dense attention's right answers: what holds.")
    ] = 0.9,
    phase: Annotated[
        str, typer.Option("--phase", help="prefill (answers stay dense) or both.")
    ] = "prefill",
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            min=4,
            help="Items; half to tune, half to report.",
            show_default="the task's own; all of a file",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", help="Of the task and the controls.", show_default="the task's own; 0"
        ),
    ] = None,
    save: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where what holds is written.")
    ] = Path("tuned.json"),
    policy: Annotated[
        Path | None,
        common.policy_option("Tune under this policy, if it needs no prompt of its own."),
    ] = None,
    model: common.Model = "smollm2",
    json: common.Json = False,
) -> None:
    """Search patterns that a task stands at a density; write them for fv.Tuned.load, or say no.

    Exit code 0: something holds and was written; 1: nothing holds, and nothing was written.
    """
    if phase not in _PHASES:
        raise FoveateError(f"--phase {phase!r} was given; it is prefill or both.")
    if not save.expanduser().resolve().parent.is_dir():
        raise FoveateError(f"--out {save}: there is no such folder.")
    asked = sized(parsed(task), n, seed)
    held = common.read_policy(policy)
    held = held and common.everywhere(held, "tune")
    live, tokenizer = common.load_model(model)
    held = common.for_model(held, live)
    under = attach(live, held) if held else nullcontext()
    with err.status("Reading the prompts densely …") as status, under:

        def progress(done: int, of: int) -> None:
            status.update(f"Tuning on {asked.name}: {done} of {of} prompts read …")

        tuned = search(
            live, tokenizer, asked, budget=budget, keep=keep, phase=_PHASES[phase],
            seed=seed or 0, progress=progress,
        )  # fmt: skip
    written = str(tuned.save(save)) if tuned.holds else None
    if json:
        common.print_json({**tuned.found, "model": vars(tuned.model), "out": written})
    else:
        _show(tuned, written)
    if not tuned.holds:
        raise typer.Exit(1)


def _show(tuned: Tuned, written: str | None) -> None:
    found = tuned.found
    out.print(
        f"\n[bold]{found['task']}[/] on {tuned.model.name}, {found['tokens']} tokens, "
        f"at most {found['budget']:.3g} of dense attention's pairs"
    )
    for half in ("tuning", "reporting"):
        out.print(_drawn(found[half], half, found["plan"]))
    for name, gain in found["logp_gain_over"].items():
        low, high, mean = gain["low"], gain["high"], gain["mean"]
        out.print(f"[dim]log p over {name}: {mean:+.2f} (95 %: {low:+.2f} … {high:+.2f})[/]")
    right = {row["plan"]: row["right"] for row in found["reporting"]}
    said = (
        f"{right[found['plan']]} right of the {right['dense']} that dense attention answers, in "
        f"{found['times_dense']:.2f} × dense's time at this length"
    )
    if written is None:
        out.print(
            f"\n[bold red]Nothing holds at this budget[/]: the best plan, {found['plan']}, gets "
            f"{said}; {found['keep']:.0%} were wanted. Nothing was written."
        )
    else:
        out.print(f"\n[bold green]{found['plan']}[/] holds: {said}. Written to {written}:")
        out.print(f'  with fv.attach(model, fv.Tuned.load("{written}")): …')
    for remark in tuned.remarks:
        out.print(f"[yellow]{remark}[/]")


def _drawn(rows: list[dict[str, Any]], half: str, best: str) -> Table:
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim",
                 title=Text(f"{half} half (n = {rows[0]['n']})"), title_justify="left")  # fmt: skip
    made.add_column("plan", min_width=24, overflow="fold")
    for name in ("density", "right", "log p", "s/prompt"):
        made.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        made.add_row(
            Text(row["plan"], style="bold" if row["plan"] == best else ""),
            f"{row['density']:.3f}",
            f"{row['right']}",
            f"{row['logp']:.2f}",
            f"{row['seconds']:.2f}",
        )
    return made
