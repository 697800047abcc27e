"""``foveate advise`` from end to end: what it gains, and that it does not claim what is not there.

``python -m benchmarks.advice PART …``; every part writes ``results/advice_PART.json`` and then the
page ``docs/advice_figures.md``. Parts: ``real`` (15 minutes), ``record`` (outcomes of all
candidates on all items: 30 minutes, resumable), ``null`` (minutes; wants ``record``),
``nulls`` (three runs, 5 minutes each), ``before`` (10 minutes), ``wins`` (5), ``second`` (two
families, 5 minutes each, and 3 of training). ``--small`` tries a part on a dozen items in a minute
or two, and keeps nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import advice_data as data
from . import advice_page
from .harness import RESULTS, machine

# the folders of a run that is over, as the command was written
_TEMPORARY = re.compile(re.escape(tempfile.gettempdir()) + r"/tmp\w+/")

TITLES = {
    "real": "Fifty held-out questions over six notes each",
    "arithmetic": "No gain to find: sums",
    "unknown": "No gain to find: facts that stand nowhere",
    "missing": "No gain to find: the answer is not in the notes",
    "before": "The question stands before the notes",
    "wins": "A simple prompt wins: the question before four lines of a register",
    "qwen2": "A second family: Qwen2's class, questions with choices",
    "gpt2": "A second family: a small GPT-2 trained on a recall task, questions with choices",
}


def asked(name: str, records: list[dict[str, Any]], minutes: float, model: str = "smollm2",
          small: bool = False) -> dict[str, Any]:  # fmt: skip
    """The command as a person runs it, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.jsonl"
        path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records))
        command = ["foveate", "advise", "--model", model, "--data", str(path), "--minutes",
                   f"{minutes:g}", "--json"]  # fmt: skip
        extra = ["--out", f"{folder}/policy.toml", "--report", f"{folder}/report.html"]
        began = time.monotonic()
        run = subprocess.run([sys.executable, "-m", *command, *extra], capture_output=True,
                             text=True)  # fmt: skip
        seconds = time.monotonic() - began
        if run.returncode:
            sys.exit(f"{name}: {run.stderr.strip()[-2000:]}")
        found = json.loads(run.stdout)
        policy = Path(f"{folder}/policy.toml").read_text()
        page = len(Path(f"{folder}/report.html").read_bytes())
    found["examples"] = len(found["examples"])
    found["baseline"] |= {"replies": [], "ids": []}
    if found["diagnosis"]:
        found["diagnosis"] = {"sentences": found["diagnosis"]["sentences"]}
    shown = " ".join(command).replace(str(path), f"{name}.jsonl")
    kept = {"title": TITLES[name], "command": shown, "wall": round(seconds, 1),
            "machine": machine(), "report_bytes": page, "policy": policy,
            "advice": found}  # fmt: skip
    verdict = found["verdict"]
    kept = json.loads(_TEMPORARY.sub("", json.dumps(kept)))
    print(f"{name}: {seconds:.0f} s, {verdict['recommended']}. {verdict['reason']}", flush=True)
    if not small:
        target = RESULTS / f"advice_{name}.json"
        target.write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n")
    return kept


def real(small: bool) -> None:
    """The acceptance test: fifty questions of one's own, fifteen minutes, two cores."""
    asked("real", data.notes(12 if small else 50), 3 if small else 15, small=small)


def nulls(small: bool) -> None:
    """Three runs where attention is not the trouble."""
    for name in ("arithmetic", "unknown", "missing"):
        records = getattr(data, name)(12 if small else 60)
        asked(name, records, 1.5 if small else 5, small=small)


def before(small: bool) -> None:
    """The same path where people put the question first."""
    asked("before", data.asked_first(12 if small else 40), 3 if small else 10, small=small)


def wins(small: bool) -> None:
    """What a sensible person tries is enough: the line that is asked for goes first."""
    records = data.asked_first(12 if small else 40, "records")
    asked("wins", records, 3 if small else 5, small=small)


def second(small: bool) -> None:
    """Other families, questions with choices, the same command."""
    with tempfile.TemporaryDirectory() as folder:
        qwen2, gpt2 = (f"{folder}/{name}" for name in ("qwen2", "gpt2"))
        data.as_qwen2(qwen2)
        asked("qwen2", data.choices(12 if small else 40), 2 if small else 5, qwen2, small)
        records = data.recall(gpt2, 24 if small else 100, seconds=60 if small else 180)
        asked("gpt2", records, 1 if small else 3, gpt2, small)


def record(small: bool) -> None:
    """Outcomes of all candidates on all items, for the null simulation."""
    from . import advice_null

    advice_null.record(small)


def null(small: bool) -> None:
    """2,000 resamples in which no candidate is better than any other."""
    from . import advice_null

    advice_null.main(100 if small else 2000)


PARTS = {one.__name__: one for one in (real, record, null, nulls, before, wins, second)}


def main(names: list[str] | None = None) -> None:
    """Run the parts named (none: the simulation alone), and write the page."""
    given = [one for one in (names or sys.argv[1:]) if one != "advice"]  # python -m benchmarks
    small = "--small" in given
    for name in [one for one in given if one != "--small"] or ["null"]:
        if name not in PARTS:
            sys.exit(f"no part {name!r}; there are: {', '.join(PARTS)}")
        PARTS[name](small)
    if not small:
        advice_page.main()


if __name__ == "__main__":
    main()
