"""How well a text-to-image model draws what it is asked for, and the model written down."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import SHIPPED

from foveate.load import load
from foveate.tasks.shapes import rate
from foveate.tasks.shapes.drawing import DRAWN, drawn, judged, prompts

SIDES = (10, 14)  # pixels: smallest and largest thing
NAMES = ("right", "all_there", "neglected", "leaked")


def shares(asked: list[str], pictures: list[Any]) -> dict[str, Any]:
    """Shares of pictures, with Wilson's intervals.

    ``right``: what was asked for and nothing else. ``all_there``: everything that was asked for.
    ``neglected``: a shape that was asked for is missing. ``leaked``: one that is there has a colour
    that was not its own.
    """
    told = [
        (seen.perfect, seen.all_there, seen.neglected > 0, seen.leaked > 0)
        for seen in judged(asked, pictures)
    ]
    found = [rate(column) for column in zip(*told, strict=True)]
    return {"n": len(asked)} | {
        name: [round(x, 3) for x in (share.value, share.low, share.high)]
        for name, share in zip(NAMES, found, strict=True)
    }


def figures(pipeline: Any, n: int = 240, **options: Any) -> dict[str, Any]:
    """How often a pipeline draws what it is asked for."""
    began, told = time.monotonic(), {}
    for count, name in ((1, "one"), (2, "two")):
        asked = prompts(count, n)
        told[name] = shares(asked, drawn(pipeline, asked, **options))
    return told | {"seconds_a_picture": round((time.monotonic() - began) / (2 * n), 3)}


def montage(pipeline: Any, file: Path, rows: int = 4) -> None:
    """Eight pictures of one thing and eight of two a row, five times as large, as one file."""
    from PIL import Image

    asked = list(chain.from_iterable(zip(prompts(1, 4 * rows), prompts(2, 4 * rows), strict=True)))
    pictures = [np.asarray(p) for p in drawn(pipeline, asked)]
    lines = [np.concatenate(pictures[i : i + 8], 1) for i in range(0, len(pictures), 8)]
    sheet = np.concatenate(lines, 0).repeat(5, 0).repeat(5, 1)
    Image.fromarray(sheet).save(file)
    file.with_suffix(".txt").write_text("\n".join(asked) + "\n", encoding="utf-8")


# --------------------------------------------------------------------------- shipping

CARD = """# {name}

{about}

| | |
|---|---|
| classes | {classes} |
| parameters | {parameters:,} (text encoder included), stored as float16 |
| pictures | 32 × 32 pixels, plain background, things of {least} to {most} pixels |
| knows | {kinds} |
| trained on | {steps:,} batches of {batch} pictures |
| time | {minutes:.0f} minutes, one thread of a busy, shared CPU |

`pipeline, _ = fv.load("{name}")`, then `pipeline("a red circle and a blue square",
num_inference_steps=20, guidance_scale=4)`.

What the world's checker reads off its pictures (20 steps, guidance 4, {n} prompts of each kind;
Wilson's 95 % intervals):

| asked for | exactly that | all of it, or more | a shape missing | a colour not its own |
|---|---|---|---|---|
{rows}

It knows no other shapes or colours, no numbers, no places ("left of") and no third thing. Other
words of the world have a token each, but were never trained.
"""


def ship(trained: Any, pipeline: Any, name: str, about: str, folder: Path, size: int) -> None:
    """Write the pipeline into the package, judge what is read back, and write down what it does."""
    target = SHIPPED / name
    pipeline.to(torch.float16).save_pretrained(target)
    for left in target.glob("**/README.md"):
        left.unlink()
    for written in target.glob("**/*.safetensors"):
        written.chmod(0o644)  # weights are written for one user only
    pipe, _ = load(target)
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    told: dict[str, Any] = {"steps": state["step"], "batch": size, "seconds": state["seconds"]}
    told |= {"settings": {"steps": 20, "guidance": 4.0}} | figures(pipe)
    curve = (folder / "figures.jsonl").read_text(encoding="utf-8").splitlines()
    told["curve"] = [json.loads(line) for line in curve]
    (target / "figures.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    rows = [
        f"| {number} | " + " | ".join(_percent(told[key][name]) for name in NAMES) + " |"
        for key, number in (("one", "one thing"), ("two", "two things"))
    ]
    denoiser, encoder = trained.average["denoiser"], trained.average["encoder"]
    card = CARD.format(
        name=name,
        about=about,
        classes=", ".join(f"`{type(part).__name__}`" for part in (denoiser, encoder, pipe)),
        parameters=sum(p.numel() for p in trained.average.parameters()),
        least=SIDES[0],
        most=SIDES[1],
        kinds=f"{_listed(c for _, c in DRAWN)} × {_listed(s for s, _ in DRAWN)}",
        steps=told["steps"],
        batch=size,
        minutes=told["seconds"] / 60,
        n=told["one"]["n"],
        rows="\n".join(rows),
    )
    (target / "CARD.md").write_text(card, encoding="utf-8")
    montage(pipe, folder / "shipped.png")
    print(json.dumps({key: told[key] for key in ("one", "two", "seconds_a_picture")}, indent=1))


def _listed(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _percent(share: list[float]) -> str:
    value, low, high = (100 * x for x in share)
    return f"{value:.0f} % ({low:.0f} to {high:.0f})"
