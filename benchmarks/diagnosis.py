"""How long ``fv.diagnose`` takes on SmolLM2 for fifty questions over six notes; what it says."""

from __future__ import annotations

import time

import torch

import foveate as fv

from .harness import Timing, write

SECONDS = 60.0
LIMIT = 1.25  # of what is aimed at: sizes are rounded down, but raised replies may be longer


def main() -> None:
    """Measure and write ``results/diagnosis.json``."""
    torch.set_num_threads(2)
    model, tokenizer = fv.load("smollm2")
    rows, said = [], {}
    for template in ("houses", "facts"):
        task = fv.tasks.Distractors(template=template, passages=6, n=50)
        items = task.items()
        replies = fv.tasks.answer(model, tokenizer, items, max_new_tokens=task.max_new_tokens)
        right = [task.right(item, reply) for item, reply in zip(items, replies, strict=True)]
        start = time.perf_counter()
        found = fv.diagnose(
            *(model, tokenizer, items, right),
            judge=task.right, max_new_tokens=task.max_new_tokens, seconds=SECONDS,
        )  # fmt: skip
        took = time.perf_counter() - start
        name = f"diagnose 50 questions over 6 notes ({template}), seconds={SECONDS:.0f}"
        about = f"{len(found.items)} of 50 looked at"
        rows.append(
            Timing(name, took, took, target=f"≤ {SECONDS * LIMIT:.0f} s",
                   met=took <= SECONDS * LIMIT, note=about)
        )  # fmt: skip
        said[template] = [*found.sentences]
        print(template, *found.sentences, sep="\n  ")
    write("diagnosis", "Diagnosis of failing questions, SmolLM2", rows, {"sentences": said})


if __name__ == "__main__":
    main()
