"""Write ``docs/figures.md`` from ``results/*.json``, so that no figure is copied by hand."""

from __future__ import annotations

import json
from pathlib import Path

from .harness import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "figures.md"
OWN_PAGE = (
    "architectures",
    "candidates",
    "compatibility",
    "literature",
    "sparse_quality",
)  # their benchmarks write a page of their own
HEAD = """# Figures

Made by `make bench` (`python -m benchmarks`), side by side in one run: the candidates in turn; the
ratio is the median over the rounds of candidate / baseline of the same round (of the seconds, or of
what the row names: memory, errors, how much faster). This page is written
by that command from `benchmarks/results/*.json`.
"""


def _row(row: dict) -> str:
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f} ×"
    met = {True: "met", False: "**missed**", None: ""}[row["met"]]
    seconds = row["seconds_median"]
    taken = (
        "" if not seconds else f"{seconds:.3g} s" if seconds >= 0.1 else f"{seconds * 1e3:.3g} ms"
    )
    return f"| {row['name']} | {taken} | {ratio} | {row['target']} | {met} | {row['note']} |"


def main() -> None:
    """Render every result there is."""
    parts = [HEAD]
    for path in sorted(RESULTS.glob("*.json")):
        # benchmarks.peers, benchmarks.advice, …
        if path.stem.startswith(("peers_", "advice_")) or path.stem in OWN_PAGE:
            continue
        found = json.loads(path.read_text())
        where = found["machine"]
        parts.append(f"## {found['title']}\n")
        parts.append("| | time | ratio | target | | |\n|---|---|---|---|---|---|")
        parts.append("\n".join(_row(row) for row in found["rows"]))
        parts.append(
            f"\n`{found['command']}` at {where['commit']}, {where['date']}: {where['cpu']}, "
            f"{where['cores']} cores, {where['threads']} threads, torch {where['torch']}, "
            f"transformers {where['transformers']}, Python {where['python']}.\n"
        )
    PAGE.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
