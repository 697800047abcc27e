"""The sweep: every modelling file of the installed transformers, as a tiny random model, checked.

Each family is built from a small configuration in a process of its own, with a limit on time and
memory, and put through :func:`foveate.check`. Nothing is downloaded.

    python -m benchmarks architectures                  all of them
    python -m benchmarks.architectures --only llama,vit   some; the results of the others are kept
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing as mp
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from . import harness
from .tiny import classes
from .tiny.page import write_page

SECONDS, BYTES, PROCESSES = 40, 6 << 30, 2
RESULTS = harness.RESULTS / "architectures.json"


def files() -> dict[str, Path]:
    """The modelling files by family."""
    import transformers

    found = {}
    for path in sorted((Path(transformers.__file__).parent / "models").glob("*/modeling_*.py")):
        folder, stem = path.parent.name, path.stem.removeprefix("modeling_")
        found[folder if stem == folder else f"{folder}/{stem}"] = path
    return found


def examine(family: str, path: Path) -> dict[str, Any]:
    """Build a family's main class, check it and say what became of it."""
    import torch

    from foveate.check import check
    from foveate.errors import FoveateError

    from .tiny.build import build, inputs_of

    began = time.monotonic()
    row: dict[str, Any] = {"family": family, "kind": classes.kind(path), "class": None}
    why = classes.ABSENT.get(family)
    if why is not None:
        return row | {"verdict": "cannot be built", "why": why}
    module = importlib.import_module(f"transformers.models.{path.parent.name}.{path.stem}")
    problems = []
    for cls in classes.candidates(module, family):
        try:
            model = build(cls)
            inputs = inputs_of(model)
        except FoveateError as error:
            problems.append(f"{cls.__name__}: {error}")
            continue
        except Exception as error:  # any error of a model's own is a reason
            at = traceback.extract_tb(error.__traceback__)[-1]
            text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            problems.append(f"{cls.__name__}: {text} ({Path(at.filename).name}:{at.lineno})")
            continue
        report = check(model, inputs)
        shapes = {k: list(v.shape) for k, v in inputs.items() if isinstance(v, torch.Tensor)}
        verdict, why = classes.verdict(row["kind"], report)
        if verdict == "no attention":
            why = classes.mixes(path)
        return row | {
            "class": cls.__name__,
            "verdict": verdict,
            "why": why,
            "inputs": shapes,
            "parameters": sum(p.numel() for p in model.parameters()),
            "report": _brief(report.to_dict()),
            "seconds": round(time.monotonic() - began, 2),
        }
    why = problems[0] if problems else "the file defines no model class that can be built alone"
    return row | {"verdict": "cannot be built", "why": why, "problems": problems[1:]}


def _brief(report: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a report: its stacks, and its outcomes without what is empty in them."""
    fields = ("stack", "kind", "layers", "heads", "reach")
    return {
        "stacks": [{name: one[name] for name in fields} for one in report["stacks"]],
        "outcomes": [
            {name: value for name, value in one.items() if value not in ("", None)}
            for one in report["outcomes"]
        ],
        "unreached": report["unreached"],
    }


def _child(send: Connection, family: str, path: Path) -> None:
    signal.alarm(SECONDS + 5)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    warnings.filterwarnings("ignore")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        row = examine(family, path)
    except BaseException as error:
        row = _row(family, path, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    send.send(row)
    send.close()
    os._exit(0)


def _row(family: str, path: Path, why: str) -> dict[str, Any]:
    kind = classes.kind(path)
    return {"family": family, "kind": kind, "class": None, "verdict": "cannot be built", "why": why}


def sweep(wanted: Iterable[tuple[str, Path]]) -> Iterator[dict[str, Any]]:
    """The rows of the families, as they become known."""
    context = mp.get_context("fork")  # a child starts with everything imported
    waiting = list(wanted)[::-1]
    running: dict[Connection, tuple[str, Path, Any, float]] = {}
    while waiting or running:
        while waiting and len(running) < PROCESSES:
            family, path = waiting.pop()
            receive, send = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(send, family, path), daemon=True)
            process.start()
            send.close()
            running[receive] = family, path, process, time.monotonic() + SECONDS
        ready = wait(list(running), timeout=0.5)
        for receive in list(running):
            family, path, process, deadline = running[receive]
            late = time.monotonic() > deadline
            if receive not in ready and not late:
                continue
            try:
                if receive in ready:
                    row = receive.recv()
                else:
                    row = _row(family, path, f"it did not end within {SECONDS} s")
            except EOFError:
                process.join(5)
                row = _row(family, path, f"its process ended with status {process.exitcode}")
            del running[receive]
            process.kill()
            process.join()
            receive.close()
            yield row


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", help="families, with commas between; the other rows are kept")
    parser.add_argument("--resume", action="store_true", help="only families without a row")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args([] if arguments is None else arguments)
    import torch
    import transformers

    from foveate.check import check

    from .tiny.build import build

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    check(build(transformers.BertModel))  # what is imported late is imported once
    there = files()
    names = set(options.only.split(",")) if options.only else set(there)
    if names - set(there):
        sys.exit(f"no such family: {', '.join(sorted(names - set(there)))}")
    rows: dict[str, dict[str, Any]] = {}
    spent = 0  # seconds of the sweep that is added to
    if options.out.exists() and (options.only or options.resume):
        old = json.loads(options.out.read_text())
        rows, spent = {row["family"]: row for row in old["rows"]}, old["seconds"]
    if options.resume:
        names -= set(rows)
    began = time.monotonic() - spent
    for n, row in enumerate(sweep((f, p) for f, p in there.items() if f in names), 1):
        rows[row["family"]] = row
        print(f"{n:4}/{len(names)} {row['family']:<32} {row['verdict']:<16} {row['why'][:110]}")
        if n % 25 == 0:
            _save(options.out, rows, there, began)
    payload = _save(options.out, rows, there, began)
    if options.out == RESULTS:
        write_page(payload)


def _save(
    out: Path, rows: dict[str, dict[str, Any]], there: Iterable[str], began: float
) -> dict[str, Any]:
    payload = {
        "title": "Every modelling file of transformers, as a tiny random model, checked",
        "command": "python -m benchmarks architectures",
        "machine": harness.machine(),
        "seconds": round(time.monotonic() - began),
        "totals": classes.totals(rows.values()),
        "rows": [rows[family] for family in there if family in rows],
    }
    out.parent.mkdir(exist_ok=True)
    rows_ = ",\n".join(json.dumps(row, ensure_ascii=False) for row in payload["rows"])
    text = json.dumps(payload | {"rows": []}, indent=1, ensure_ascii=False)
    out.write_text(text.replace('"rows": []', f'"rows": [\n{rows_}\n]') + "\n")
    return payload


if __name__ == "__main__":
    main(sys.argv[1:])
