"""Write the shipped catalogue from the list of papers it is kept in.

    python scripts/build_catalog.py papers.jsonl

The input has one JSON object a line. Every row is checked; one bad row and nothing is
written. The texts ``does``, ``claim`` and ``check`` are the project's own words about a
paper; sentences of abstracts are not shipped, and fields not named here are dropped.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).resolve().parents[1] / "src/foveate/catalog/data/catalog.jsonl"

FIELDS: dict[str, tuple[type, ...]] = {
    "n": (int,),
    "slug": (str,),
    "title": (str,),
    "name": (str,),
    "year": (int, type(None)),
    "area": (str,),
    "tier": (int,),
    "stage": (list,),
    "needs": (str,),
    "does": (str,),
    "claim": (str,),
    "check": (str,),
}

# What the input says in words meant for those who collected it.
CORRECTIONS = {"daily-papers": {"title": "Daily Papers"}}


def clean(row: dict[str, Any]) -> dict[str, Any]:
    """Keep the shipped fields of one row, corrected.

    Raises
    ------
    ValueError
        If a field is missing, empty or of the wrong type.
    """
    row = {**row, **CORRECTIONS.get(row.get("slug", ""), {})}
    for field, kinds in FIELDS.items():
        if field not in row or type(row[field]) not in kinds:
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"field {field!r} must be {wanted}, got {row.get(field)!r}")
        if row[field] == "":
            raise ValueError(f"field {field!r} is empty")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row["slug"]):
        raise ValueError(f"slug {row['slug']!r} is malformed")
    if row["tier"] not in (1, 2, 3):
        raise ValueError(f"tier must be 1, 2 or 3, got {row['tier']}")
    return {field: row[field] for field in FIELDS}


def main() -> int:
    """Read the input, check it and write the catalogue; 1 if a row is bad."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", type=Path, help="the list of papers, one JSON object a line")
    source = parser.parse_args().input

    rows: list[dict[str, Any]] = []
    for line, text in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = clean(json.loads(text))
            # n counts the rows, so a lost or doubled line cannot pass unseen.
            if row["n"] != len(rows):
                raise ValueError(f"n must be {len(rows)} here, got {row['n']}")
            if any(row[key] == other[key] for other in rows for key in ("slug", "title")):
                raise ValueError(f"slug {row['slug']!r} or its title occurs twice")
        except ValueError as error:
            print(f"{source}, line {line}: {error}", file=sys.stderr)
            return 1
        rows.append(row)

    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    print(f"{len(rows)} papers written to {OUTPUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
