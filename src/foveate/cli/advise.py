"""``foveate advise``: from questions that a model gets wrong to a policy with a measured gain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from ..advise import Advice
from ..advise import advise as find
from ..advise.apply import command
from ..advise.words import cost
from ..errors import FoveateError
from ..load import home
from ..tasks import Questions
from . import common
from .common import err, out
from .compare import sized
from .expressions import task as parsed

_CHANCE = "the time ran out before the search came to its end"


def advise(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="DATA",
            help="mine.jsonl or mine.csv, a question a line; or a task, 'distractors(n=50)'.",
        ),
    ],
    minutes: Annotated[float, typer.Option("--minutes", help="All of it ends within them.")] = 15,
    goal: Annotated[str, typer.Option("--goal", help="accuracy, speed or memory.")] = "accuracy",
    check: Annotated[
        str | None,
        typer.Option(
            "--check",
            help="How a reply is checked where the data say nothing: contains, exact, regex, "
            "choices, json-schema, or package.module.function.",
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Only the first so many.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the split and what is sampled.")] = 0,
    new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Items at once.")] = 8,
    policy: Annotated[
        list[Path] | None,
        common.policy_option("What you have now competes, too; repeatable."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="FILE", help="Keep what is asked here; use it."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the policy: policy.toml.")
    ] = None,
    report: common.Report = None,
    model: common.Model = "smollm2",
    json: common.Json = False,
) -> None:
    """Find what to change in a model for these questions, prove it, or say "change nothing".

    One half of the questions chooses, the other reports, and only what was chosen can be claimed.
    """
    common.check_report(report)
    if save is not None and not save.expanduser().resolve().parent.is_dir():
        raise FoveateError(f"--out {save}: there is no such folder.")
    asked = _data(data, check, n)
    read = [common.read_policy(path) for path in policy or ()]
    live, tokenizer = common.load_model(model)
    own = [held for one in read if (held := common.for_model(one, live))]
    journal = resume or _own_journal(asked.name)
    try:
        advice = find(
            live, tokenizer, asked, minutes, goal, seed, journal,
            None if not json else False,
            max_new_tokens=new_tokens, batch_size=batch_size, policies=own,
        )  # fmt: skip
    except KeyboardInterrupt:
        kept = f"What was asked is kept: add --resume {quote(str(journal))}"
        err.print(f"\nStopped; the model is as it was. {kept}", soft_wrap=True)
        raise typer.Exit(130) from None
    except BaseException:
        if resume is None and not Path(journal).stat().st_size:
            Path(journal).unlink()  # nothing was asked
        raise
    advice = replace(advice, command=command(model, data, advice.policy))
    if resume is None:
        Path(journal).unlink(missing_ok=True)
    if save is not None:
        advice.policy.save(save)
    if report is not None:
        advice.report(report)
    if json:
        common.print_json(advice.to_dict())
        return
    show(advice, None if save is None else str(save), model, data)
    if save is not None:
        empty = "" if advice.policy.methods or advice.policy.rewrites else " (it changes nothing)"
        err.print(f"policy: {save}{empty}", soft_wrap=True, markup=False)
    if report is not None:
        err.print(f"report: {report}")


def _data(data: str, check: str | None, n: int | None) -> Any:
    if Path(data).suffix.lower() in Questions.SUFFIXES:
        return sized(Questions.load(data, check=check), n, None)
    if check is not None:
        raise FoveateError(f"--check is for questions of a file; {data!r} checks its own answers.")
    return sized(parsed(data), n, None)


def _own_journal(name: str) -> Path:
    """A file for this run, so that it can be taken up where it was stopped."""
    folder = home() / "advise"
    folder.mkdir(parents=True, exist_ok=True)
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:60]
    for number in range(1, 10_000):
        path = folder / f"{plain}-{number}.jsonl"
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            continue
        return path
    raise FoveateError(f"{folder} is full of journals of runs that were stopped; delete some.")


def show(advice: Advice, saved: str | None, model: str, data: str) -> None:
    """The advice, for a terminal."""
    base, verdict, settings = advice.baseline, advice.verdict, advice.settings
    right, n = sum(base.right), len(base.right)
    some = "" if n == settings["of"] else f" (of {settings['of']}: the time holds no more)"
    peak = "" if base.memory is None else f", peak {base.memory / 2**20:.0f} MiB"
    out.print(
        f"\n[bold]As it is[/]  {right} of {n} right{some}, {100 * base.accuracy.low:.0f} to "
        f"{100 * base.accuracy.high:.0f} % (95 %); {base.seconds:.2f} s a question{peak}"
    )
    if advice.diagnosis is not None:
        out.print("\n[bold]Diagnosis[/]")
        for sentence in advice.diagnosis.sentences:
            out.print(Text(f"  {sentence}"))
    if advice.tried:
        out.print(_tried(advice))
    if verdict.finalists:
        out.print(_finalists(advice))
    out.print("[bold]Verdict[/]")
    for line in verdict.reason.splitlines():
        out.print(Text(f"  {line}"))
    if not settings["complete"]:
        out.print(f"  [yellow]{_CHANCE}[/]")
    for note in settings["notes"]:
        out.print(Text(f"  {note}", style="yellow"))
    if verdict.recommended == "nothing":
        out.print("\n[bold]Recommended: change nothing.[/]")
        return
    best = verdict.finalists[0]
    out.print("\n[bold green]Recommended:[/]", Text(verdict.recommended, style="bold"))
    out.print(Text(f"  {best.expression}; {cost(best)}"), soft_wrap=True)
    for line in _damage(best.controls):
        out.print(Text(f"  {line}"))
    if saved is None:
        out.print("  [dim]--out policy.toml writes it (with --resume nothing is asked again).[/]")
    where = saved or "policy.toml"
    # both at the margin: to be copied
    out.print("\n[bold]On the command line[/]")
    out.print(Text(advice.command.replace("policy.toml", where)), soft_wrap=True)
    out.print("\n[bold]In Python[/]")
    out.print(Text(advice.python.replace("policy.toml", where)), soft_wrap=True)


def _damage(found: dict[str, Any]) -> list[str]:
    """Collateral damage in sentences."""
    if not found:
        return ["Collateral damage was not measured: there was no time."]
    said = []
    if found.get("perplexity") is not None:
        before, after = found["perplexity_base"], found["perplexity"]
        said.append(f"Perplexity of plain text: {after:.2f}, {before:.2f} as it is.")
    said.append(
        f"Unrelated questions: {found['unrelated_right']} of {found['n']} right, "
        f"{found['unrelated_base']} as it is."
    )
    return said + list(found["notes"])


def _tried(advice: Advice) -> Table:
    where = "on the tuning part"
    if advice.verdict.folds == 2:
        where = "on each half, to choose for the other: both together"
    made = _table(f"Tried {where} ({len(advice.tried)} policies)")
    made.add_column("policy", min_width=24, overflow="fold")
    for name in ("kind", "right", "as it is", "s/item", ""):
        made.add_column(name, justify="right", no_wrap=True)
    for one in sorted(advice.tried, key=lambda t: (t.dropped_at is not None, -(t.dropped_at or 0))):
        gone = "" if one.dropped_at is None else f"left after round {one.dropped_at}"
        made.add_row(
            Text(one.name), one.kind, f"{one.right}/{one.asked}", f"{one.base_right}/{one.asked}",
            f"{one.seconds:.2f}", gone,
        )  # fmt: skip
    return made


def _finalists(advice: Advice) -> Table:
    n = advice.verdict.finalists[0].gain.n
    where = "The best on the reporting part"
    if advice.verdict.folds == 2:
        where = "What was chosen, asked the other half; the others, asked all"
    made = _table(f"{where} (n = {n})")
    made.add_column("policy", min_width=24, overflow="fold")
    unit = "points" if advice.goal == "accuracy" else "% saved"
    for name in (f"+ {unit}", "95 %", "p", "mended", "broken", "× time"):
        made.add_column(name, justify="right", no_wrap=True)
    for one in advice.verdict.finalists:
        chosen = one.name == advice.verdict.recommended
        made.add_row(
            Text(one.name, style="bold green" if chosen else ""), f"{100 * one.gain.value:+.1f}",
            f"{100 * one.gain.low:+.0f}…{100 * one.gain.high:+.0f}", f"{one.p:.2g}",
            str(one.mended), str(one.broken), f"{one.seconds.low:.2f}…{one.seconds.high:.2f}",
        )  # fmt: skip
    return made


def _table(title: str) -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim",
                 title=Text(title, style="bold"), title_justify="left")  # fmt: skip
