"""How often a gain is claimed where there is none: recorded outcomes, shuffled within each item."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from foveate.advise.ask import Answered, Recorded
from foveate.advise.candidates import Candidate, candidates
from foveate.advise.live import Live
from foveate.advise.search import search
from foveate.advise.split import split, too_few
from foveate.advise.verdict import verdict
from foveate.evaluate.journal import Journal
from foveate.evaluate.keys import model_facts, versions
from foveate.load import home, load
from foveate.policy import Policy
from foveate.statistics import wilson
from foveate.tasks import Item, Questions

from . import advice_data as data
from .harness import RESULTS, machine

MATRICES = RESULTS / "advice_matrices.json"
# what is recorded: with fewer than 100 items (two folds) and with more (one split)
RECORDED = {"notes": (data.notes, 50, 24), "facts": (data.facts, 120, 20)}


def record(small: bool) -> None:
    """Ask the model every candidate on every item; what was asked before is not asked again."""
    model, tokenizer = load("smollm2")
    facts = {**model_facts(model, tokenizer), **versions()}
    kept: dict[str, Any] = json.loads(MATRICES.read_text()) if MATRICES.exists() else {}
    folder = home() / "advise"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (make, n, tokens) in RECORDED.items():
        task = Questions.of(make(12 if small else n), name=name, max_new_tokens=tokens)
        items = task.items()
        live = Live(model, tokenizer, task, items, Journal(folder / f"record-{name}.jsonl"), facts)
        pool = candidates(model, tokenizer, items)
        found = {}
        for one in pool:
            answers = live(one, items)
            found[one.name] = "".join("01"[answer.right] for answer in answers)
            print(
                f"{name}: {sum(a.right for a in answers)} of {len(items)}  {one.name}", flush=True
            )
        kept[name] = {
            "n": len(items),
            "candidates": [{"name": c.name, "kind": c.kind, "parts": c.parts} for c in pool],
            "right": found,
            "machine": machine(),
        }
        if not small:
            MATRICES.write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n")


def resampled(matrix: np.ndarray, pool: list[Candidate], seed: int, answers: int) -> Any:
    """Split, search and verdict on outcomes that are shuffled, in each item, among candidates.

    Parameters
    ----------
    matrix : bool ``[candidates, items]``, the first row that of the model as it is
    pool : list of Candidate
    seed, answers : int
        Of the shuffle and the split; that the search of a fold may ask for.

    Returns
    -------
    Verdict or None
        None where there are too few failures to try.
    """
    shuffled = np.random.default_rng(seed).permuted(matrix, axis=0)
    n = matrix.shape[1]
    items = [Item(str(i), "", "") for i in range(n)]
    ask = Recorded(
        {
            one.name: {str(i): Answered(str(i), "", bool(shuffled[k, i]), 1.0) for i in range(n)}
            for k, one in enumerate(pool)
        }
    )
    base = ask(pool[0], items)
    right = [one.right for one in base]
    if too_few(right) is not None:
        return None
    folds = split(right, seed)
    found = [
        search(ask, pool, [items[i] for i in fold.tuning], [base[i] for i in fold.tuning],
               answers=answers)
        for fold in folds
    ]  # fmt: skip
    return verdict(ask, pool[0], items, base, folds, found, samples=1000)


def main(samples: int = 2000) -> None:
    """Every recorded matrix, with plenty of answers and with few."""
    if not MATRICES.exists():
        sys.exit(f"{MATRICES.name} is not there: python -m benchmarks.advice record makes it.")
    rows = []
    for name, kept in json.loads(MATRICES.read_text()).items():
        pool = [Candidate(Policy(name=c["name"]), c["kind"], c["parts"], "")
                for c in kept["candidates"]]  # fmt: skip
        matrix = np.array([[c == "1" for c in kept["right"][one.name]] for one in pool])
        n = matrix.shape[1]
        for budget, answers in (("all asked", 10**6), ("halving", 5 * n)):
            began, claims, tried, agreed, both = time.monotonic(), 0, 0, 0, 0
            for seed in range(samples):
                found = resampled(matrix, pool, seed, answers)
                tried += found is not None
                claims += found is not None and found.claimed
                chosen = set() if found is None else {*found.choices}
                if len(chosen) == 1 and "nothing" not in chosen:  # by the one part or both halves
                    agreed += 1
                    both += found.claimed
            low, high = wilson(claims, samples)
            rows.append(
                {"matrix": name, "n": n, "candidates": len(pool) - 1, "folds": 2 - (n >= 100),
                 "budget": budget, "samples": samples, "tried": tried, "claims": claims,
                 "agreed": agreed, "agreed_claims": both,
                 "low": low, "high": high,
                 "seconds": round(time.monotonic() - began, 1)}
            )  # fmt: skip
            print(f"{name}, {budget}: {claims} of {samples} claimed, upper {high:.3f}", flush=True)
    if samples >= 2000:
        path = Path(RESULTS / "advice_null.json")
        kept = {"title": "Gains claimed where there is none", "rows": rows, "machine": machine()}
        path.write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n")
