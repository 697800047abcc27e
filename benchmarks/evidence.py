"""Write ``docs/evidence.md``: what was seen of each paper's claim, from the evidence files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foveate.catalog import papers
from foveate.catalog.verdicts import Evidence, read_evidence

PAGE = Path(__file__).parent.parent / "docs" / "evidence.md"
HEAD = """# What was seen of each claim

Each row is one run of `foveate reproduce SLUG` on SmolLM2-135M-Instruct, on a model trained in
the run, or on tensors alone (memory, speed, error of an estimate), reported on other items than
those it was tuned on. The interval is the paired 95 % bootstrap interval of the difference,
method less baseline. *Basis*: whether the paper or its authors' code was read, or its abstract
alone. *n*: the items reported. "Not observed" is a result like the other. One small model and
made-up items, {least} to {most} of them: a direction, not a size to expect elsewhere. Where a
setting was changed after a first look at the outcome, the page of the method says so. Settings,
controls and seeds are in `src/foveate/catalog/evidence/SLUG.json`. This page is written by
`python -m benchmarks.evidence`.

| paper | basis | n | baseline | method | difference | verdict |
|---|---|---:|---|---|---|---|
"""
# What an experiment calls its items, and under which use it counts those it reports.
ITEMS = (
    *("items", "prompts", "texts", "replies", "sentences", "needles", "paragraphs", "documents"),
    *("signals", "images", "passkeys asked", "kept", "pictures", "layouts", "scenes"),
)
USES = (
    *("report", "reported, of each size", "described"),
    *("loss", "held out", "test, each seed"),
)


def reported(found: Evidence) -> int:
    """How many items the figures of an experiment rest on."""
    count: Any = next(found.details[name] for name in ITEMS if name in found.details)
    if isinstance(count, dict):
        count = next((count[use] for use in USES if use in count), len(count))
    return int(str(count).split()[0])  # "10 settings of 8,192 tokens"


def page() -> str:
    """The page, from the catalogue and its evidence files."""
    rows, counts = [], []
    for paper in papers():
        found = read_evidence(paper.slug) if paper.status == "works" else None
        if found is None or found.baseline is None or found.method is None or not found.interval:
            continue
        low, high = found.interval
        counts.append(reported(found))
        a, b = (
            f"{side['name']}: {side['value']:.3g}".replace("|", "and")
            for side in (found.baseline, found.method)
        )
        rows.append(
            f"| {paper.title} (`{paper.slug}`) | {paper.basis} | {counts[-1]} | {a} | {b} | "
            f"{low:.3g} to {high:.3g} | {found.verdict} |"
        )
    head = HEAD.format(least=min(counts), most=max(counts))
    return head + "\n".join(sorted(rows, key=str.lower)) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
