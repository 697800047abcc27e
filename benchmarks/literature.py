"""The figures of the paper store: what a search finds, how quickly, and how fast papers come in.

``python -m benchmarks.literature`` (about two minutes; with the extra ``search``, else words alone)
writes ``results/literature.json`` and the tables of ``docs/literature.md``. The questions, the
lists and their queries are data of the project (``tests/catalog/questions.json``, ``lists.json``);
the 20,000 papers are made up, their vectors too: a search takes as long whatever a vector says.
"""

from __future__ import annotations

import functools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import RESULTS, machine, peak_extra_mb, resident_kb
from foveate.catalog import search
from foveate.catalog.add import add
from foveate.catalog.database import Database
from foveate.catalog.encoder import WIDTH, encoder
from foveate.catalog.seed import shipped

DATA = Path(__file__).parents[1] / "tests" / "catalog"
PAGE = Path(__file__).parents[1] / "docs" / "literature.md"
MARK = "<!-- made by python -m benchmarks.literature -->"
MANY = 20_000
NAMES = {"words": "full text", "meaning": "vectors", "both": "fusion"}


def main() -> None:
    ways = search.WAYS if encoder() else ("words",)
    with tempfile.TemporaryDirectory() as folder:
        store = Database(Path(folder) / "papers.sqlite")
        found = {"quality": {way: quality(way, store) for way in ways}}
        print(json.dumps(found["quality"], indent=1))
        found["seconds, 308 papers"] = seconds(store)
        found |= many(Path(folder))
    found["machine"] = machine()
    print(json.dumps({k: v for k, v in found.items() if k != "quality"}, indent=1))
    RESULTS.joinpath("literature.json").write_text(json.dumps(found, indent=2) + "\n")
    write_page(found)


def quality(way: str, store: Database) -> dict[str, Any]:
    """Titles found first, recall of the answers at 5, average precision of every list."""

    def slugs(words: str) -> list[str]:
        return [hit.slug for hit in search.search(words, way, store=store)]

    questions = json.loads((DATA / "questions.json").read_text("utf-8"))
    lists = json.loads((DATA / "lists.json").read_text("utf-8"))
    recall = [
        len(set(slugs(item["question"])[:5]) & set(item["answers"])) / len(item["answers"])
        for item in questions
    ]
    precision = {
        one["query"]: average_precision(slugs(one["query"]), one["slugs"]) for one in lists
    }
    return {
        "titles first": sum(slugs(row["title"])[0] == row["slug"] for row in shipped()),
        "recall at 5": statistics.mean(recall),
        "average precision": precision,
        "MAP": statistics.mean(precision.values()),
    }


def average_precision(ranking: list[str], wanted: list[str]) -> float:
    """The mean, over the wanted, of the precision where each is found; 0 for one that is not."""
    hits, total = 0, 0.0
    for place, slug in enumerate(ranking, 1):
        if slug in set(wanted):
            hits += 1
            total += hits / place
    return total / len(wanted)


def seconds(store: Database) -> dict[str, Any]:
    """Medians over the questions, once warm: the encoder has encoded, the vectors are loaded."""
    queries = [row["question"] for row in json.loads((DATA / "questions.json").read_text("utf-8"))]
    ways = search.WAYS if encoder() else ("words",)
    taken = {
        way: timed(functools.partial(search.search, how=way, store=store), queries) for way in ways
    }
    if coder := encoder():
        taken["encode the query alone"] = timed(lambda q: coder.encode([q]), queries)
    taken["10,000 characters"] = timed(
        lambda q: search.search((q + " ") * (10_000 // len(q)), store=store), queries[:5]
    )
    return taken


def timed(run: Callable[[str], Any], queries: list[str]) -> dict[str, float]:
    start = time.perf_counter()
    run(queries[0])
    first = time.perf_counter() - start
    each = []
    for query in queries:
        start = time.perf_counter()
        run(query)
        each.append(time.perf_counter() - start)
    return {"first": first, "median": statistics.median(each), "slowest": max(each)}


def many(folder: Path) -> dict[str, Any]:
    """The same with 20,000 papers more: import, search, memory."""
    store = Database(folder / "many.sqlite")
    file = folder / "many.jsonl"
    make_up(file)
    with store.read():
        pass  # made and seeded
    spent: list[float] = []

    def run() -> None:
        start = time.perf_counter()
        assert add(file, store=store).new == MANY
        spent.append(time.perf_counter() - start)

    extra = peak_extra_mb(run)
    found: dict[str, Any] = {
        "import": {
            "papers": MANY,
            "file MB": file.stat().st_size / 1e6,
            "seconds": spent[0],
            "papers a second": MANY / spent[0],
            "extra MB": extra,
            "store MB": store.path.stat().st_size / 1e6,
        }
    }
    if coder := encoder():
        found["encode"] = rate(coder, store)
        give_vectors(store, coder.fingerprint)
    before = resident_kb()
    found[f"seconds, {MANY:,} papers"] = seconds(store)
    found["search, extra MB"] = (resident_kb() - before) / 1024
    return found


def make_up(file: Path) -> None:
    """Papers of the catalogue's own words, mixed: a title of 8, an abstract of 150."""
    chance = random.Random(0)
    words = " ".join(row["does"] for row in shipped()).split()
    with file.open("w", encoding="utf-8") as out:
        for n in range(MANY):
            title = " ".join([*chance.choices(words, k=8), str(n)])
            abstract = " ".join(chance.choices(words, k=150))
            row = {"title": title, "abstract": abstract, "year": 2000 + n % 25, "authors": ["A. B"]}
            out.write(json.dumps(row) + "\n")


def rate(coder: Any, store: Database) -> dict[str, float]:
    """How many of the made-up papers get their vector in a second."""
    with store.read() as db:
        rows = db.execute(
            "SELECT title, abstract FROM papers WHERE NOT shipped LIMIT 64"
        ).fetchall()
    texts = [text for row in rows for text in row]
    start = time.perf_counter()
    coder.encode(texts)
    return {"papers a second": len(rows) / (time.perf_counter() - start)}


def give_vectors(store: Database, fingerprint: str) -> None:
    chance = np.random.default_rng(0)
    with store.write() as db:
        ids = [paper for (paper,) in db.execute("SELECT id FROM papers")]
        made = chance.normal(size=(len(ids), WIDTH)).astype(np.float32)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        db.executemany(
            "INSERT INTO vectors(paper, encoder, vector) VALUES (?, ?, ?)",
            [
                (paper, fingerprint, one.astype(np.float16).tobytes())
                for paper, one in zip(ids, made, strict=True)
            ],
        )


def write_page(found: dict[str, Any]) -> None:
    """Replace what stands behind the mark in ``docs/literature.md``."""
    before = PAGE.read_text("utf-8").partition(MARK)[0]
    PAGE.write_text(before + MARK + "\n" + tables(found), "utf-8")


def tables(found: dict[str, Any]) -> str:
    """The tables of ``docs/literature.md``."""
    kinds = found["quality"]
    all_of = kinds.values()

    def precision(query: str) -> list[str]:
        return [f"{kind['average precision'][query]:.3f}" for kind in all_of]

    head = [NAMES[way] for way in kinds]
    queries = next(iter(all_of))["average precision"]
    rows = [
        ["titles that find their paper first, of 308", *(f"{k['titles first']}" for k in all_of)],
        ["recall at 5 of the 40 questions", *(f"{k['recall at 5']:.3f}" for k in all_of)],
        *([f"average precision, “{query}”", *precision(query)] for query in queries),
        ["mean average precision (MAP)", *(f"{k['MAP']:.3f}" for k in all_of)],
    ]
    text = ["", "## What is found", "", *_table(["", *head], rows), ""]
    text += ["## How quickly", ""]
    few, lots = found["seconds, 308 papers"], found[f"seconds, {MANY:,} papers"]
    rows = [
        [
            {**NAMES, "both": "fusion, encoder included"}.get(way, way),
            f"{1e3 * few[way]['median']:.0f} ({1e3 * few[way]['slowest']:.0f})",
            f"{1e3 * lots[way]['median']:.0f} ({1e3 * lots[way]['slowest']:.0f})",
        ]
        for way in few
    ]
    text += _table(["milliseconds, median (slowest)", "308 papers", f"{MANY + 308:,} papers"], rows)
    come = found["import"]
    text += [
        "",
        f"{come['papers']:,} made-up papers of {come['file MB']:.0f} MB as JSON lines come in at "
        f"{come['papers a second']:,.0f} a second without vectors, with {come['extra MB']:.0f} MB "
        f"of memory more than before; the store is then {come['store MB']:.0f} MB. Searching them "
        f"takes {found['search, extra MB']:.0f} MB more.",
    ]
    if "encode" in found:
        text.append(
            f"Their vectors take longer: {found['encode']['papers a second']:.0f} papers a second."
        )
    box = found["machine"]
    text += [
        "",
        f"`python -m benchmarks.literature` at {box['commit']}, {box['date']}: {box['cpu']}, "
        f"{box['threads']} thread(s), Python {box['python']}, torch {box['torch']}, transformers "
        f"{box['transformers']}.",
        "",
    ]
    return "\n".join(text)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


if __name__ == "__main__":
    main()
