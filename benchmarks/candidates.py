"""What ``advise`` tries, each on 24 questions: how it was ordered, and how strong it is set.

``python -m benchmarks.candidates [--minutes 15]`` asks what is not in ``results/candidates.json``
yet and writes the table into ``docs/candidates.md``. SmolLM2, 12 questions on houses and 12 on
facts, six passages each. What right answers there are does not depend on the machine but for
rounding. The template ``messages`` is left for reporting: it is never asked here.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foveate as fv
from foveate.advise.ideas import Idea, accurate
from foveate.statistics import wilson
from foveate.tasks import Distractors, Item

from .harness import RESULTS, machine

FILE = RESULTS / "candidates.json"
PAGE = Path(__file__).parent.parent / "docs" / "candidates.md"
BEGIN, END = "<!-- table: python -m benchmarks.candidates -->", "<!-- end of table -->"
DEPTH = 30  # layers of SmolLM2
N, SEED, PASSAGES, BATCH = 12, 11, 6, 6


def more() -> Iterator[Idea]:
    """Strengths and places beside those that are tried, to see whether they are well set."""
    near, line = "closest passage", "closest sentence"
    for region, gain in (
        (near, 30),
        (line, 2),
        ("question", 2),
        ("instruction", 5),
        ("passages", 5),
    ):
        yield Idea(f"{region} × {gain}", "", methods=(fv.Emphasize(region, float(gain)),))
    for region, gain, a, b in (
        (near, 5, 10, 20), (near, 5, 10, 25), (near, 5, 20, 30), (near, 12, 10, 25),
        (line, 5, 10, 25),
    ):  # fmt: skip
        here = fv.Emphasize(region, float(gain), layers=list(range(a, b)))
        yield Idea(f"{region} × {gain}, layers {a}–{b - 1}", "", methods=(here,))
    for phase in ("prefill", "decode"):
        here = fv.Emphasize(near, 5.0, phase=phase)
        yield Idea(f"{near} × 5, {phase} only", "", methods=(here,))
    for rewrite, gain in (
        ("closest passage last", 2), ("closest passage first", 5), ("quote first", 5),
        ("instructions twice", 5), ("closest passages only", 5),
    ):  # fmt: skip
        name = f"{rewrite} + {near} × {gain}"
        yield Idea(name, "", (rewrite,), (fv.Emphasize(near, float(gain)),))
    for other in (line, "instruction", "question"):
        both = (fv.Emphasize(near, 5.0), fv.Emphasize(other, 2.0))
        yield Idea(f"{near} × 5 + {other} × 2", "", methods=both)
    yield Idea("PASTA, all heads, alpha 0.05", "", methods=(fv.methods.PASTA(near, 0.05),))
    asks = fv.AutoPASTA(None, math.log(5), unit="passage")
    yield Idea("AutoPASTA × 5, asking for a quote", "", methods=(asks,))


def items() -> list[Item]:
    """The questions: half on houses, half on facts."""
    return [
        item
        for template in ("houses", "facts")
        for item in Distractors(template=template, passages=PASSAGES, n=N, seed=SEED).items()
    ]


def run(minutes: float | None) -> dict[str, Any]:
    """Ask until the time is used up; what was answered is kept at once."""
    kept = json.loads(FILE.read_text())["candidates"] if FILE.exists() else {}
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    model: Any = None
    for idea in [*accurate(DEPTH), *more()]:
        if idea.name in kept:
            continue
        if time.monotonic() > end:
            break
        if model is None:
            model, tokenizer = fv.load("smollm2")
        policy, asked = fv.Policy(idea.methods, idea.rewrites, name=idea.name), items()
        said = policy.generate(model, tokenizer, asked, 16, batch_size=BATCH)
        right = [item.right(reply) for item, reply in zip(asked, said, strict=True)]
        kept[idea.name] = right
        print(idea.name, sum(right[:N]), sum(right[N:]), flush=True)
        result = {"settings": {"n": N, "seed": SEED, "passages": PASSAGES}, "machine": machine(),
                  "candidates": kept}  # fmt: skip
        FILE.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return kept


def table(kept: dict[str, list[bool]]) -> str:
    """What was measured, the best first; those that are tried in bold."""
    base, tried = kept["nothing"], {idea.name for idea in accurate(DEPTH)}
    lines = [
        "| candidate | houses | facts | right of 24 (95 %) | mended | broken |",
        "|---|---|---|---|---|---|",
    ]
    for name, right in sorted(kept.items(), key=lambda one: (-sum(one[1]), one[0])):
        pairs, n = list(zip(base, right, strict=True)), len(right)
        low, high = wilson(sum(right), n)
        cells = (
            f"**{name}**" if name in tried else name,
            sum(right[:N]),
            sum(right[N:]),
            f"{sum(right)} ({low * n:.0f}–{high * n:.0f})",
            pairs.count((False, True)),
            pairs.count((True, False)),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """Ask, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float)
    kept = run(parser.parse_known_args()[0].minutes)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(kept)}\n{END}{after}")


if __name__ == "__main__":
    main()
