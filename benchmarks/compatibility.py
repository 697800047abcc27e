"""Which stable methods go together: every pair, in either order, on every family, padded and not.

Each pair is attached and compared with its definitions written out in float64
(``tests/by_definition.py``), or it is refused in a sentence. About ten minutes on one core.

    python -m benchmarks compatibility                       all of it, and docs/compatibility.md
    python -m benchmarks.compatibility --only llama,bert     some; the others are kept
    python -m benchmarks.compatibility --page                the page alone
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from foveate.methods.stable import STABLE

from . import harness

RESULTS = harness.RESULTS / "compatibility.json"
PAGE = Path(__file__).parent.parent / "docs" / "compatibility.md"
PADDED = (None, "left", "right")
HEAD = """# Which methods go together

A method is *stable* when on every model family that it acts on (padded on either side, with grouped
heads, from a cache, in half precision) it equals its definition, or is refused in a sentence; and
every pair of them, in either order, equals the two definitions in that order, or is refused. The
others are experimental. `fv.methods.STABLE` is the list, as data.

The definitions are written out in float64, apart from the engine: a model's own attention is
replaced by one that makes the whole matrix and edits its rows. Equal means that the model's output
and whatever was measured or captured differ by less than 1e-4 of the largest number. The families
are tiny models of random weights.
"""


def _matrix() -> Any:
    """The tests' own matrix."""
    tests = str(Path(__file__).parents[1] / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    import matrix

    return matrix


def ask(name: str, stack: str) -> dict[str, Any]:
    """All pairs at one place, under every padding that it can have."""
    m = _matrix()
    text = m.BY_NAME[name].inputs in ("ids", "both")
    found: dict[str, Any] = {"equal": 0, "refused": [], "alone": [], "wrong": []}
    for padded in PADDED if text else (None,):
        here = m.place(name, stack, padded)
        for a, b in m.PAIRS:
            got = here.pair(a, b, idle=False)
            if got.state == "equal":
                found["equal"] += 1
            elif got.state == "alone":  # the method's sentence, once
                who, _, why = got.why.partition(": ")
                row = {"methods": [who], "padded": padded, "why": why}
                found["alone"] += [row] if row not in found["alone"] else []
            else:
                row = {"methods": [a, b], "padded": padded, "why": got.why}
                found[got.state].append(row)
        found["asked"] = found.get("asked", 0) + len(m.PAIRS)
    return found


def sweep(only: list[str]) -> dict[str, Any]:
    """Ask every place, or those of some families; what is known of the others is kept."""
    import torch

    torch.set_num_threads(1)
    m = _matrix()
    known = json.loads(RESULTS.read_text())["places"] if only and RESULTS.exists() else {}
    places: dict[str, Any] = {}
    for name, stack in m.PLACES:
        title = repr(m.place(name, stack))
        if only and name not in only:
            places |= {title: known[title]} if title in known else {}
            continue
        places[title] = ask(name, stack)
        print(f"{title}: {_told(places[title])}", flush=True)
    return {
        "title": "Which stable methods go together",
        "command": "python -m benchmarks compatibility",
        "machine": harness.machine(),
        "places": places,
    }


def _told(found: dict[str, Any]) -> str:
    return ", ".join(f"{len(found[k])} {k}" for k in ("refused", "wrong")) + (
        f", {found['equal']} of {found['asked']} equal"
    )


def page(result: dict[str, Any]) -> str:
    """``docs/compatibility.md`` of the results."""
    places, methods = result["places"], STABLE
    exceptions: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    alone: dict[tuple[str, Any], dict[str, set[str]]] = defaultdict(dict)
    sentences: dict[Any, str] = {}
    for title, found in places.items():
        for row in [*found["refused"], *found["wrong"]]:
            key = row["methods"][0], row["methods"][1]
            exceptions[key][title].add(row["padded"] or "not padded")
            sentences.setdefault(key, row["why"])
        sides: dict[str, set[str]] = defaultdict(set)
        for row in found["alone"]:
            sides[row["methods"][0]].add(row["padded"] or "not padded")
        for row in found["alone"]:  # refused on one side of padding, or altogether
            who = row["methods"][0], tuple(sorted(sides[row["methods"][0]]))
            alone[who][title] = sides[row["methods"][0]]
            sentences.setdefault(who, row["why"])
    total = {k: sum(p[k] for p in places.values()) for k in ("equal", "asked")}
    refused, wrong = (sum(len(p[k]) for p in places.values()) for k in ("refused", "wrong"))
    lines = [
        HEAD,
        f"Asked were {len(methods) ** 2} ordered pairs at {len(places)} places (stacks of model "
        f"families), padded on the left, on the right and not at all where there is text: "
        f"{total['asked']:,} in all. {total['equal']:,} are equal to their definitions in order, "
        f"{refused} are refused together, {wrong} are wrong; in the others one of the two is "
        "refused by itself.\n",
        "## The methods\n",
        "| | acts in | needs | from a cache, beside one forward | limits |\n|---|---|---|---|---|",
    ]
    lines += [
        f"| `{name}` | {', '.join(one.stages)} | {'; '.join(one.needs) or 'nothing'} | "
        f"{one.decoding} | {one.limits} |"
        for name, one in methods.items()
    ]
    lines += [
        "\nA text read in steps from a cache gives what one forward over it gives (*alike*), but "
        "for what a method does by definition: *each forward*: the last query of every forward; "
        "*from the prompt*: what was found there; *full rows*: those decoded are; *prefill only*: "
        "decoding is dense. Those equal their definition.\n",
        "## The matrix\n",
        "A row's method first, a column's second. = equal everywhere; a number: the places (of "
        f"{len(places)}) where the pair is refused, listed below.\n",
        "| | " + " | ".join(f"`{b}`" for b in methods) + " |",
        "|---|" + ":-:|" * len(methods),
    ]
    for a in methods:
        cells = [str(len(exceptions[a, b])) if (a, b) in exceptions else "=" for b in methods]
        lines.append(f"| `{a}` | {' | '.join(cells)} |")
    lines.append(
        "\nThe order matters within a stage only. `ACT` looks before it edits, at what the methods "
        "given before it have made of the call.\n\n## Refused together\n"
    )
    by_why: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for (a, b), there in exceptions.items():
        where = tuple((title, tuple(sorted(how))) for title, how in there.items())
        by_why[where, sentences[a, b]].append(f"`{a}`, `{b}`")
    lines += [
        f"- {'; '.join(pairs)}: {_places(where, places)}. *{why}*"
        for (where, why), pairs in by_why.items()
    ] or ["None."]
    lines.append("\n## Refused by themselves\n")
    lines += [
        f"- `{who[0]}`: {_places(tuple((t, tuple(sorted(h))) for t, h in there.items()), places)}. "
        f"*{sentences[who]}*"
        for who, there in alone.items()
    ] or ["None."]
    where = result["machine"]
    lines.append(
        f"\n`{result['command']}` at {where['commit']}, {where['date']}: torch {where['torch']}, "
        f"transformers {where['transformers']}.\n"
    )
    return "\n".join(lines)


def _places(where: tuple[Any, ...], places: dict[str, Any]) -> str:
    """Places in words, with the padding where it is not all that there are."""
    if len(where) == len(places):
        return "everywhere"
    sides: dict[str, list[str]] = defaultdict(list)
    for title, how in where:
        padding = "" if "not padded" in how else f", padded on the {' or '.join(how)}"
        sides[padding].append(title)
    return "; ".join(f"{', '.join(titles)}{padding}" for padding, titles in sides.items())


def main(arguments: list[str] | None = None) -> None:
    """Ask, and write the results and the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compatibility")
    parser.add_argument("--only", default="", help="names of families, with commas between")
    parser.add_argument("--page", action="store_true", help="write the page of what is there")
    given = parser.parse_args(arguments or [])
    if not given.page:
        result = sweep([name for name in given.only.split(",") if name])
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.write_text(page(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main(sys.argv[1:])
