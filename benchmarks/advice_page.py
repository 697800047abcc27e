"""Write ``docs/advice_figures.md`` from ``results/advice_*.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .harness import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "advice_figures.md"
NAMES = ("real", "wins", "qwen2", "gpt2", "arithmetic", "unknown", "missing")
HEAD = """# What advice is worth

Written by `python -m benchmarks.advice` from `benchmarks/results/advice_*.json`: runs of
`foveate advise` from end to end, on questions no method was tuned on, and how often a gain is
claimed where there is none.
"""


def main() -> None:
    """Render every result there is."""
    parts = [HEAD, *_null()]
    for name in NAMES:
        path = RESULTS / f"advice_{name}.json"
        if path.exists():
            parts += _run(json.loads(path.read_text()))
    PAGE.write_text("\n".join(parts).rstrip() + "\n")


def _null() -> list[str]:
    path = RESULTS / "advice_null.json"
    if not path.exists():
        return []
    kept = json.loads(path.read_text())
    rows = [
        f"| {row['matrix']} | {row['n']} | {row['candidates']} | {row['folds']} | {row['budget']} "
        f"| {row['claims']} of {row['samples']} | {100 * row['high']:.1f} % "
        f"| {row.get('agreed_claims', '–')} of {row.get('agreed', '–')} "
        f"| {'met' if row['high'] <= 0.07 else '**missed**'} |"
        for row in kept["rows"]
    ]
    return [
        "## Claims where there is nothing to claim\n",
        "Recorded outcomes of all candidates on all items; in every resample the outcomes of each "
        "item are shuffled among the candidates and the model as it is, so that none is better "
        "than another; then split, search and verdict run as they do on a model. Target: the upper "
        "95 % bound (Wilson) of the share of claims is at most 7 %. The last figures are of the "
        "runs that chose one candidate, with two folds the same in both: halves agree where chance "
        "helps both, so a claim is likelier among them.\n",
        "| outcomes | items | candidates | folds | answers | gains claimed | upper bound "
        "| of those that chose one | |",
        "|---|---:|---:|---:|---|---:|---:|---:|---|",
        *rows,
        "",
        _where("python -m benchmarks.advice record null", kept["machine"]),
    ]


def _run(kept: dict[str, Any]) -> list[str]:
    advice = kept["advice"]
    base, verdict, settings = advice["baseline"], advice["verdict"], advice["settings"]
    right, n = sum(base["right"]), len(base["right"])
    lines = [
        f"## {kept['title']}\n",
        f"`{kept['command']}`: {kept['wall']:.0f} s in all, model loading included; "
        f"{settings['asked']} answers asked"
        + ("." if settings["complete"] else "; the search was cut short by the time."),
        "",
        f"As it is: {right} of {n} right, {base['seconds']:.2f} s a question. "
        f"Recommended: **{_advised(verdict)}**.\n",
        verdict["reason"],
        "",
    ]
    if "remark" in kept:
        lines += [f"*{kept['remark']}*", ""]
    if advice["diagnosis"]:
        lines += [f"> {' '.join(advice['diagnosis']['sentences'])}", ""]
    if verdict["finalists"]:
        lines += [
            f"| policy | kind | {_gain_of(advice['goal'])} (95 %) | p | mended | broken | time |",
            "|---|---|---:|---:|---:|---:|---:|",
        ]
        for one in verdict["finalists"]:
            gain = one["gain"]
            lines.append(
                f"| {one['name']} | {one['kind']} | {100 * gain['value']:+.1f} "
                f"({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}) | {one['p']:.2g} "
                f"| {one['mended']} | {one['broken']} | {one['seconds']['value']:.2f} × |"
            )
        lines.append("")
        if verdict["folds"] == 2:
            lines += [
                "For the one that was chosen each half's choice is asked the other half; the "
                "others are asked all questions, to compare.",
                "",
            ]
    if advice["tried"]:
        said = ", ".join(
            f"{one['name']} {one['right']}/{one['asked']} ({one['base_right']})"
            for one in advice["tried"]
        )
        lines += [f"Tried on the tuning part, right of asked (as it is): {said}.", ""]
    return [*lines, _where("", kept["machine"])]


def _gain_of(goal: str) -> str:
    saved = {"speed": "% of the time saved", "memory": "% of the peak saved"}
    return saved.get(goal, "gain, points")


def _advised(verdict: dict[str, Any]) -> str:
    name = verdict["recommended"]
    return "change nothing" if name == "nothing" else name


def _where(command: str, where: dict[str, Any]) -> str:
    said = f"`{command}` at" if command else "At"
    return (
        f"{said} {where['commit']}, {where['date']}: {where['cpu']}, {where['cores']} cores, torch "
        f"{where['torch']}, transformers {where['transformers']}, Python {where['python']}.\n"
    )


if __name__ == "__main__":
    main()
