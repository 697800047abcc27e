"""``foveate demo``: a wrong answer, where the model looked, and the right one once it is turned."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from rich.text import Text

from ..attach import attach
from ..engine import measures as m
from ..errors import FoveateError
from ..methods.emphasis import Emphasize
from ..methods.measure import Measure
from ..prompt import Prompt
from ..report import ablate, tables, write
from ..tasks import Item
from ..tasks.answering import Outcome, generate, steer_cases, text_of
from ..tasks.facts import LIGHTHOUSE, Case, cases
from . import common, demo_vision
from .common import err, out
from .steer import look

_MODEL = "smollm2"
_STRONG = math.e**3  # the gain of the story: about 20
_GAIN = 5.0  # the gain of the table
TIMED = 16  # tokens generated on the clock


@dataclass(frozen=True)
class Told:
    """One telling of the story: the answer, and the mass on each sentence where it was decided."""

    answer: str
    ids: list[int]
    masses: list[list[float]]  # by generated token, then by sentence


def demo(
    vision: Annotated[
        bool,
        typer.Option(
            "--vision", help="In pictures: a model that describes them, and one that draws them."
        ),
    ] = False,
    questions: Annotated[
        int, typer.Option(min=1, help="Questions in the table; with --vision: pictures to draw.")
    ] = 36,
    seed: Annotated[int, typer.Option(help="Another seed makes other questions.")] = 0,
    policy: Annotated[
        Path | None, common.policy_option("Ask the table's questions under this policy too.")
    ] = None,
    model: common.Model = _MODEL,
    json: common.Json = False,
    report: common.Report = None,
) -> None:
    """Watch a model look at the wrong sentence; turn its attention; read the right answer."""
    common.check_report(report)
    if vision:
        if policy is not None or model != _MODEL:
            raise FoveateError(
                f"--vision was given with {'--policy' if policy else f'--model {model}'}; it has "
                "two models and methods of its own: leave that out."
            )
        demo_vision.demo(questions, seed, json, report)
        return
    made = cases(questions, seed)
    held = common.read_policy(policy)
    live, tokenizer = common.load_model(model)
    held = common.for_model(held, live)
    case = LIGHTHOUSE
    prompt, names = question(tokenizer, case)
    right, wrong = _name(case.evidence), _name(case.decoy)

    if not json:
        _show_question(case)
    with err.status("Asking …"):
        plain = tell(live, prompt, names)
        steered = tell(live, prompt, names, Emphasize(right, _STRONG))
        control = tell(live, prompt, names, Emphasize(wrong, _STRONG))
    if not json:
        _show_story(case, names, plain, steered, control)
    with err.status("Timing …"):
        seconds = _race(live, prompt, Emphasize(right, _STRONG))
    if not json:
        _show_seconds(seconds)
    with common.progress(f"{questions} questions, three times each", 3 * questions) as done:
        outcomes = steer_cases(live, tokenizer, made, gain=_GAIN, progress=done)
    said: list[str] = []
    if held is not None:
        with err.status(f"{questions} questions under the policy …"):
            said = held.generate(live, tokenizer, [item(one) for one in made], 20)
    if report is not None:
        with common.progress("Hiding each sentence, for the report", len(names)) as done:
            found = ablate(live, prompt, names, progress=done)
        answers = {
            "as it is": plain.answer,
            f"with gain {_STRONG:.0f} on {right}": steered.answer,
            f"with gain {_STRONG:.0f} on {wrong} (control)": control.answer,
        }
        report = write(
            look(live, prompt, [Emphasize(right, _STRONG)], 24),
            report,
            baseline=look(live, prompt, (), 24),
            answers=answers,
            ablations=found,
            title=f"The lighthouse on {right}",
            model=model,
        )
    if json:
        under = {"policy": _under(held.name, made, said)} if held else {}
        common.print_json(
            {
                "model": model,
                "story": _plain_story(case, names, plain, steered, control),
                "seconds_per_token": seconds,
                "table": {"gain": _GAIN, "questions": len(outcomes), **score(outcomes)},
                "outcomes": [
                    {
                        "id": one.case.id,
                        "answer": one.case.answer,
                        "decoy": one.case.decoy_answer,
                        "without": one.plain,
                        "steered": one.evidence,
                        "steered_wrong": one.decoy,
                    }
                    for one in outcomes
                ],
                **under,
                "report": str(report) if report is not None else None,
            }
        )
        return
    _show_table(outcomes, _under(held.name, made, said) if held else None)
    if report is not None:
        err.print(f"report: {report}")


# -- measuring -------------------------------------------------------------------------------------
def _name(sentence: str) -> str:
    """The place that a sentence of the lighthouse case is about."""
    return sentence.split(" on ")[1].split(" was ")[0]


def question(tokenizer: Any, case: Case) -> tuple[Prompt, list[str]]:
    """The prompt of a case about lighthouses, each sentence marked with its place; the places."""
    prompt = Prompt(tokenizer, [{"role": "user", "content": case.text}])
    names = [_name(sentence) for sentence in case.context]
    for name, sentence in zip(names, case.context, strict=True):
        prompt.mark(name, sentence)
    return prompt, names


def item(case: Case) -> Item:
    """A case as a user asks it: a context and a question."""
    marks = {"context": " ".join(case.context), "question": case.question}
    return Item(case.id, case.text, case.answer, marks)


def _under(name: str, made: Sequence[Case], said: Sequence[str]) -> dict[str, Any]:
    """What the questions come to under a policy."""
    told = list(zip(made, said, strict=True))
    return {
        "name": name,
        "right": sum(case.right(reply) for case, reply in told),
        "follows_wrong": sum(case.follows(reply) for case, reply in told),
        "replies": list(said),
    }


def tell(live: Any, prompt: Prompt, names: Sequence[str], *methods: Any) -> Told:
    """Let the model answer, measuring the mass on each named sentence all along."""
    measure = Measure(*(m.mass(name) for name in names))
    with torch.no_grad(), attach(live, *methods, measure, prompt=prompt) as run:
        ids = generate(live, prompt)[0]
    masses = []
    for name in names:
        series = run.results[f"mass:{name}"]
        # the prompt's last token chooses the first generated one, each of these the next
        masses.append([series.last.mean().item(), *series.decode.mean((0, 1, 2)).tolist()])
    by_token = [list(one) for one in zip(*masses, strict=True)]
    return Told(text_of(prompt.tokenizer, ids), ids.tolist(), by_token)


def parting(one: Told, other: Told) -> int:
    """The first generated token in which two answers differ: there it was decided."""
    pairs = zip(one.ids, other.ids, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), 0)


def _race(live: Any, prompt: Prompt, method: Any, rounds: int = 4) -> dict[str, float]:
    """Median seconds per generated token without and with steering, in turns."""
    taken: dict[str, list[float]] = {"without": [], "steered": []}
    fixed = {"max_new_tokens": TIMED, "min_new_tokens": TIMED, "do_sample": False}
    with torch.no_grad():
        for turn in range(rounds):
            for which, times in taken.items():
                attached = attach(live, method, prompt=prompt) if which == "steered" else None
                with attached or nullcontext():
                    start = time.perf_counter()
                    live.generate(**prompt.inputs, **fixed, pad_token_id=0)
                    if turn:  # the first is to warm up
                        times.append((time.perf_counter() - start) / TIMED)
    return {which: round(statistics.median(times), 5) for which, times in taken.items()}


def score(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many answers were right, and how many followed the decoy."""
    return {
        "right_without": sum(one.case.right(one.plain) for one in outcomes),
        "right_steered": sum(one.case.right(one.evidence) for one in outcomes),
        "follows_wrong_without": sum(one.case.follows(one.plain) for one in outcomes),
        "follows_wrong_steered": sum(one.case.follows(one.decoy) for one in outcomes),
    }


def _plain_story(
    case: Case, names: Sequence[str], plain: Told, steered: Told, control: Told
) -> dict[str, Any]:
    at = parting(plain, steered)

    def told(one: Told) -> dict[str, Any]:
        return {
            "answer": one.answer,
            "right": case.right(one.answer),
            "follows_wrong": case.follows(one.answer),
            "masses": dict(zip(names, one.masses[at], strict=True)),
        }

    return {
        "prompt": case.text,
        "expected": case.answer,
        "gain": _STRONG,
        "decided_at_token": at,
        "without": told(plain),
        "steered": told(steered),
        "steered_wrong": told(control),
    }


# -- showing ---------------------------------------------------------------------------------------
def _show_question(case: Case) -> None:
    out.print("\n[bold]A question whose answer stands in the prompt[/]\n")
    for sentence in case.context:
        mark = "›" if sentence == case.evidence else " "
        out.print(Text(f"  {mark} {sentence}", style="green" if mark != " " else ""))
    for sentence in case.question.replace("? ", "?\n").splitlines():
        out.print(Text(f"    {sentence}", style="bold"))


def _says(answer: str, good: bool) -> Text:
    return Text.assemble("  ", (answer or "(nothing)", "green bold" if good else "red bold"))


def _show_story(
    case: Case, names: Sequence[str], plain: Told, steered: Told, control: Told
) -> None:
    right, wrong = _name(case.evidence), _name(case.decoy)
    out.print("\n[bold]1. As it is, the model says[/]")
    out.print(_says(plain.answer, case.right(plain.answer)))
    out.print(
        "\n[bold]2. Where it looked[/] [dim]when it chose the first word in which the two answers "
        "part\n   (attention on each sentence, mean of layers and heads)[/]"
    )
    out.print(_masses(names, right, parting(plain, steered), plain, steered))
    out.print(f"\n[bold]3. With a gain of e³ ≈ {_STRONG:.0f} on the sentence on {right}[/]")
    out.print(_says(steered.answer, case.right(steered.answer)))
    out.print(f"\n[bold]4. The control: the same gain on the sentence on {wrong}[/]")
    out.print(_says(control.answer, False))
    out.print(
        "  [dim]it follows: what was turned is what it reads[/]"
        if case.follows(control.answer)
        else "  [dim]it does not follow: read the answers above with doubt[/]"
    )


def _masses(names: Sequence[str], right: str, at: int, plain: Told, steered: Told) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), header_style="dim")
    for column in ("sentence on", "as it is", "", "steered", ""):
        table.add_column(column, justify="right" if column in ("as it is", "steered") else "left")
    high = max(*plain.masses[at], *steered.masses[at])
    for i, name in enumerate(names):
        before, after = plain.masses[at][i], steered.masses[at][i]
        table.add_row(
            Text(name, style="green" if name == right else ""),
            tables.percent(before),
            tables.bar(before / high, 16).ljust(16),
            tables.percent(after),
            tables.bar(after / high, 16).ljust(16),
        )
    return table


def _show_seconds(seconds: dict[str, float]) -> None:
    ratio = seconds["steered"] / seconds["without"]
    out.print(
        f"\n[bold]5. What it costs[/]\n  {1000 * seconds['without']:.1f} ms a token as it is, "
        f"{1000 * seconds['steered']:.1f} ms steered: × {ratio:.2f} "
        "[dim](median of three,\n  in turns, here and now; prompt included)[/]"
    )


def _show_table(outcomes: Sequence[Outcome], under: dict[str, Any] | None = None) -> None:
    found, n = score(outcomes), len(outcomes)
    out.print(
        f"\n[bold]6. {n} questions of this kind[/] "
        "[dim](bridges, mines, ships, portraits …; invented names)[/]"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), header_style="dim")
    for column in ("", "right", "follows the wrong sentence"):
        table.add_column(column, justify="left" if not column else "right")
    never = sum(one.case.right(one.decoy) for one in outcomes)
    table.add_row("as it is", f"{found['right_without']}", f"{found['follows_wrong_without']}")
    table.add_row(
        f"gain {_GAIN:g} on the right sentence",
        f"[green bold]{found['right_steered']}[/]",
        f"{sum(one.case.follows(one.evidence) for one in outcomes)}",
    )
    table.add_row(
        f"gain {_GAIN:g} on a wrong sentence (control)",
        f"{never}",
        f"[green bold]{found['follows_wrong_steered']}[/]",
    )
    if under is not None:
        name = Text(f"policy “{under['name']}”")
        table.add_row(name, f"{under['right']}", f"{under['follows_wrong']}")
    out.print(table)
    out.print(
        f"  [dim]of {n}; an answer counts if it has the one value and none of the other three[/]\n"
    )
