"""Quality of training-free sparse attention on SmolLM2: needles, keys and loss at a density.

``python -m benchmarks.sparse_quality [--minutes 15]`` asks what is not in
``results/sparse_quality.json`` yet, document by document, and then writes the page and the plot.
Accuracies do not depend on the machine; times do: ``--times 4096`` takes those of a prefill, for
every method and density in turn, and wants a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

import foveate as fv
from foveate.statistics import wilson

from .harness import RESULTS, machine
from .sparse_methods import DENSITIES, METHODS
from .sparse_plot import svg
from .sparse_world import ask, document

FILE = RESULTS / "sparse_quality.json"
DOCS = Path(__file__).parent.parent / "docs"
PAGE, PLOT = DOCS / "sparse_quality.md", DOCS / "figures" / "sparse_quality.svg"

# tokens -> (documents, facts of each kind in one)
SIZES: Mapping[int, tuple[int, int]] = {1024: (3, 4), 2048: (2, 8), 4096: (1, 8), 8192: (1, 8)}
KINDS = ("needle", "multi-key")


def cells() -> Iterator[tuple[int, int, str, float]]:
    """What is to be asked, in order: tokens, document, method, density; dense attention first."""
    rounds = [(seed, tokens) for tokens, (n, _) in SIZES.items() for seed in range(n)]
    for seed, tokens in sorted(rounds):
        yield tokens, seed, "dense", 1.0
        for wanted in (1 / 4, 1 / 8, 1 / 2):
            for name in METHODS:
                yield tokens, seed, name, wanted


def run(minutes: float | None, lengths: list[int] | None = None) -> dict[str, Any]:
    """Ask until the time is used up; every answer is kept at once."""
    kept = json.loads(FILE.read_text())["cells"] if FILE.exists() else {}
    end = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    model: Any = None
    tokenizer: Any = None
    for tokens, seed, name, wanted in cells():
        key = f"{tokens}/{seed}/{name}/{wanted:g}"
        if key in kept or (lengths and tokens not in lengths):
            continue
        if time.monotonic() > end:
            break
        if model is None:
            model, tokenizer = fv.load("smollm2")
        text = document(tokenizer, tokens, seed, SIZES[tokens][1])
        try:
            methods = None if name == "dense" else METHODS[name](wanted, tokens)
        except (fv.FoveateError, AttributeError) as error:
            if isinstance(error, AttributeError):  # a method that is not there yet
                continue
            kept[key] = {"passed over": str(error)}
        else:
            found = ask(model, text, methods)
            kept[key] = {**found, "methods": repr(methods), "threads": torch.get_num_threads()}
            told = {kind: f"{sum(row)}/{len(row)}" for kind, row in found["right"].items()}
            print(
                f"{key:<46} {told} loss {found['loss']:.3f}, {found['seconds']:.1f} s", flush=True
            )
        _save(kept)
    return kept


def _save(kept: Mapping[str, Any], times: Mapping[str, Any] | None = None) -> None:
    before = json.loads(FILE.read_text()) if FILE.exists() else {}
    whole = {
        "title": "Training-free sparse attention on SmolLM2-135M at a density",
        "command": "python -m benchmarks.sparse_quality",
        "machine": machine(),
        "cells": kept,
        "times": before.get("times", {}) if times is None else times,
    }
    part = FILE.with_suffix(".part")
    part.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    part.replace(FILE)


def take_times(tokens: int) -> None:
    """Seconds of a prefill under every method and density, and of dense ones in between."""
    whole = json.loads(FILE.read_text())
    model, tokenizer = fv.load("smollm2")
    ids = torch.tensor([document(tokenizer, tokens, 0, SIZES[tokens][1]).ids])
    seconds: dict[str, float] = {}
    ratios: dict[str, float] = {}
    dense = _prefill(model, ids, ())
    for name in METHODS:
        waiting = []
        for wanted in DENSITIES:
            try:
                methods = METHODS[name](wanted, tokens)
            except fv.FoveateError:  # does not fit this density
                continue
            _prefill(model, ids[:, :256], methods)  # what is made once
            waiting.append((wanted, _prefill(model, ids, methods)))
        before, dense = dense, _prefill(model, ids, ())
        for wanted, taken in waiting:
            ratios[f"{name}/{wanted:g}"] = 2 * taken / (before + dense)
            seconds[f"{name}/{wanted:g}"] = taken
            print(
                f"{name:<20} {wanted:<6g} {taken:.2f} s, dense {before:.2f} {dense:.2f}", flush=True
            )
        found = {"machine": machine(), "seconds": seconds, "ratio": ratios}
        _save(whole["cells"], {**whole.get("times", {}), str(tokens): found})


def _prefill(model: Any, ids: torch.Tensor, methods: Any) -> float:
    start = time.perf_counter()
    with torch.no_grad(), fv.attach(model, *methods):
        model(input_ids=ids, logits_to_keep=1)
    return time.perf_counter() - start


def summed(
    kept: Mapping[str, Any], tokens: int, name: str, wanted: float, times: Mapping[str, Any]
) -> dict[str, Any] | None:
    """One method at one density and length, all documents that dense attention was asked too."""
    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    losses = []
    for seed in range(SIZES[tokens][0]):
        cell = kept.get(f"{tokens}/{seed}/{name}/{wanted:g}")
        base = kept.get(f"{tokens}/{seed}/dense/1")
        if not cell or not base or "right" not in cell:
            continue
        for kind in KINDS:
            right[kind] += cell["right"][kind]
        losses.append(cell["loss"] - base["loss"])
    if not losses:
        return None
    ratios = times.get(str(tokens), {}).get("ratio", {})
    dense = 1.0 if ratios and name == "dense" else None
    return {
        **right,
        "documents": len(losses),
        "loss": sum(losses) / len(losses),
        "time": ratios.get(f"{name}/{wanted:g}", dense),
    }


HEAD = """# Sparse attention at a density: what is lost

Training-free methods on SmolLM2-135M, float32. A document of Python's reference manual, with facts in it, is
read once under the method; every question is then asked densely behind its cache. *needle*: facts of different
wordings, each asked for by its own. *multi-key*: facts of one wording, each with its key. An answer is right if
the right value's leading digit is the likeliest (of nine digits; of the document's values for multi-key), so
guessing gets about 11 % and 12 to 25 %. *loss*: what the last 512 tokens of the document lose, nats a token, against
dense attention. *time*: of the whole prefill, dense = 1, where it was taken. The density is what is computed of the causal triangle.

Where dense attention itself fails, a comparison is worth little: its own row says so. Few facts are asked and the
intervals overlap: read what the loss says, and what all lengths say together; do not rank methods by one row.
"""  # noqa: E501


def page(kept: Mapping[str, Any], where: Mapping[str, Any], times: Mapping[str, Any]) -> str:
    """The tables, one a length; ``where`` is the machine of the times."""
    parts = [HEAD]
    for tokens, (_, each) in SIZES.items():
        base = summed(kept, tokens, "dense", 1.0, times)
        if base is None:
            continue
        plural = "s" if base["documents"] > 1 else ""
        parts.append(f"## {tokens:,} tokens\n")
        parts.append(
            f"{base['documents']} document{plural}, {each} facts of either kind in each.\n"
        )
        parts.append(
            "| method | density | needle | multi-key | loss | time |\n|---|---|---|---|---|---|"
        )
        rows = [_row("dense", 1.0, base)]
        for name in METHODS:
            for wanted in DENSITIES:
                found = summed(kept, tokens, name, wanted, times)
                if found is not None:
                    rows.append(_row(name, wanted, found))
        parts.append("\n".join(rows) + "\n")
        worst = min(sum(base[kind]) / len(base[kind]) for kind in KINDS)
        if worst < 0.5:
            parts.append("Dense attention itself answers less than half of one kind here.\n")
    if points(kept, times)[1]:
        parts.append("![Accuracy against time](figures/sparse_quality.svg)\n")
    parts.append(
        f"`python -m benchmarks.sparse_quality`: {where['cpu']}, {where['cores']} cores, torch "
        f"{where['torch']}, transformers {where['transformers']}. Intervals: Wilson, 95 %."
    )
    return "\n".join(parts) + "\n"


def _row(name: str, wanted: float, found: Mapping[str, Any]) -> str:
    shares = []
    for kind in KINDS:
        right, n = sum(found[kind]), len(found[kind])
        low, high = wilson(right, n)
        shares.append(f"{100 * right / n:.0f} % ({100 * low:.0f}–{100 * high:.0f})")
    part = "1" if wanted == 1 else f"1/{round(1 / wanted)}"
    taken = "" if found["time"] is None else f"{found['time']:.2f}"
    return f"| {name} | {part} | {shares[0]} | {shares[1]} | {found['loss']:+.3f} | {taken} |"


def points(
    kept: Mapping[str, Any], times: Mapping[str, Any]
) -> tuple[int, list[tuple[str, float, float, float]]]:
    """For the plot: the longest length with times; method, density, time, share right."""
    for tokens in sorted(SIZES, reverse=True):
        found = []
        for name in ("dense", *METHODS):
            for wanted in (1.0,) if name == "dense" else DENSITIES:
                one = summed(kept, tokens, name, wanted, times)
                if one is not None and one["time"] is not None:
                    answers = [*one[KINDS[0]], *one[KINDS[1]]]
                    found.append((name, wanted, one["time"], sum(answers) / len(answers)))
        if len(found) > 2:
            return tokens, found
    return 0, []


def main(
    minutes: float | None = None, lengths: list[int] | None = None, times: list[int] | None = None
) -> None:
    """Ask (or take times), then write the page and the plot."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(2)
    for tokens in times or ():
        take_times(tokens)
    if not times:
        run(minutes, lengths)
    publish()


def publish() -> None:
    """Write the page and, where there are times, the plot."""
    whole = json.loads(FILE.read_text())
    times = whole.get("times", {})
    tokens, shown = points(whole["cells"], times)
    if shown:
        PLOT.write_text(svg(shown, f"needle and multi-key at {tokens:,} tokens"))
    PAGE.write_text(page(whole["cells"], whole["machine"], times))


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--minutes", type=float)
    options.add_argument("--length", type=int, action="append")
    options.add_argument("--times", type=int, action="append", metavar="LENGTH")
    given = options.parse_args()
    main(given.minutes, given.length, given.times)
