"""What the training scripts share: a loop that can be stopped and resumed, and shipping."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foveate.load import home
from foveate.tasks.shapes import Scene, render

SHIPPED = Path(__file__).resolve().parents[2] / "src" / "foveate" / "models"


def arguments(name: str, about: str | None, *, steps: int, batch: int) -> argparse.ArgumentParser:
    """The options that every script has; what is given here are the ones that were used."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--folder", type=Path, default=home() / "training" / name)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch, help="pictures a step")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this long")
    parser.add_argument("--export", action="store_true", help="write the model into the package")
    parser.add_argument("--evaluate", action="store_true", help="measure it and store the figures")
    return parser


def fit(
    module: nn.Module,
    loss: Callable[[int], dict[str, Tensor]],
    *,
    steps: int,
    rate: float,
    file: Path,
    minutes: float = math.inf,
    warm: int = 100,
    decay: float = 0.01,
    report: int = 50,
    also: Callable[[int], None] | None = None,
) -> bool:
    """Train with AdamW, a warm start and a cosine; what was done before is picked up again.

    A checkpoint is written every two minutes, at the end and when the process is asked to stop
    (SIGTERM, Ctrl-C). ``loss(step)`` makes its own batch out of the step, so that a resumed run
    sees the same pictures.

    Parameters
    ----------
    module : nn.Module
        Those of its parameters that require gradients are trained.
    loss : callable
        Step to named losses; ``"loss"`` is the one that is minimised.
    steps, rate, warm, decay
        Number of steps, peak learning rate, steps until it, weight decay.
    file : Path
        The checkpoint; the curve lies beside it, one JSON line each `report` steps.
    also : callable, optional
        Called after each step.

    Returns
    -------
    bool
        Whether all steps are done.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.98), weight_decay=decay)
    file.parent.mkdir(parents=True, exist_ok=True)
    start, spent = 0, 0.0
    if file.exists():
        state = torch.load(file, weights_only=True)
        module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, spent = state["step"], state["seconds"]
    stop: list[int] = []
    before = {
        s: signal.signal(s, lambda n, _: stop.append(n)) for s in (signal.SIGTERM, signal.SIGINT)
    }
    began = saved = time.monotonic()

    def save(step: int) -> None:
        state = {
            "model": module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "seconds": spent + time.monotonic() - began,
        }
        torch.save(state, file.with_suffix(".new"))
        os.replace(file.with_suffix(".new"), file)

    means: dict[str, list[float]] = {}  # since the last line of the curve
    step = start
    try:
        while step < steps and not stop and time.monotonic() - began < 60 * minutes:
            part = min(1.0, (step + 1) / warm) * (0.02 + 0.98 * _cosine(step / steps))
            for group in optimizer.param_groups:
                group["lr"] = rate * part
            losses = loss(step)
            losses["loss"].backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            for name, value in losses.items():
                means.setdefault(name, []).append(float(value.detach()))
            if step % report == 0:
                seconds = round(spent + time.monotonic() - began)
                line = {
                    "step": step,
                    "seconds": seconds,
                    **{k: round(sum(v) / len(v), 4) for k, v in means.items()},
                }
                with file.with_suffix(".jsonl").open("a", encoding="utf-8") as curve:
                    print(json.dumps(line), file=curve)
                print(json.dumps(line), flush=True)
                means = {}
            if also is not None:
                also(step)
            if time.monotonic() - saved > 120:
                save(step)
                saved = time.monotonic()
        if step > start:
            save(step)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return step >= steps


def _cosine(part: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))


def parameters(module: nn.Module) -> int:
    """How many numbers a model learns."""
    return sum(p.numel() for p in module.parameters())


def pictures(drawn: Sequence[Scene]) -> Tensor:
    """Pixel values as the processor makes them, float32 ``[B, 3, H, W]`` in -1 to 1."""
    stacked = np.stack([render(scene) for scene in drawn]).transpose(0, 3, 1, 2)
    return torch.from_numpy(stacked).float() / 127.5 - 1


def export(
    model: Any, file: Path, folder: Path, processor: Any, card: str, **training: Any
) -> None:
    """Write what a checkpoint holds into the package, in half precision, and begin its card."""
    state = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    model.to(torch.bfloat16).eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    for written in folder.iterdir():
        written.chmod(0o644)  # weights are written for one user only
    training = {
        "parameters": parameters(model),
        "steps": state["step"],
        "minutes on one shared core": round(state["seconds"] / 60, 1),
        **training,
    }
    note(folder, card, training=training)
    print(f"{training}; written to {folder}", flush=True)


def note(folder: Path, prose: str, **facts: Any) -> None:
    """Add to a model's figures, and write its card: prose, and a table of all figures.

    ``training=...`` is known when a model is written, ``held_out=...`` when it is measured.
    """
    file = folder / "figures.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    known |= facts
    file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    training = ", ".join(f"{name}: {value}" for name, value in known.get("training", {}).items())
    rows = [f"| {name} | {value} |" for name, value in _rows(known.get("held_out", {}), "")]
    table = ["| on scenes it was not trained on | |", "|---|---|", *rows]
    parts = [f"# {folder.name}", prose.strip(), f"Training: {training}.", "\n".join(table)]
    (folder / "CARD.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _rows(figures: dict[str, Any], before: str) -> Iterator[tuple[str, str]]:
    for name, value in figures.items():
        if isinstance(value, dict) and {"low", "high"} <= set(value):
            shares = [f"{100 * value[key]:.1f}" for key in ("value", "low", "high")]
            yield before + name, f"{shares[0]} % [{shares[1]}, {shares[2]}], n = {value['n']}"
        elif isinstance(value, dict):
            yield from _rows(value, f"{before}{name}: ")
        else:
            yield before + name, f"{value:.3g}"
