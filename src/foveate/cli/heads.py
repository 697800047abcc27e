"""``foveate heads``: which heads of a model do what?"""

from __future__ import annotations

import html
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..attach import attach
from ..display import heat
from ..errors import FoveateError
from ..find.heads import KINDS, find_heads
from ..find.scores import HeadScores
from . import common
from .common import err, out


def heads(
    kind: Annotated[
        str, typer.Option("--kind", help=f"What to look for: {', '.join(KINDS)}.")
    ] = "retrieval",
    top: Annotated[int, typer.Option("--top", min=1, help="How many heads to list.")] = 10,
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="How many prompts; default the kind's own.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the prompts.")] = 0,
    save: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Keep all scores (HeadScores.load reads them)."),
    ] = None,
    policy: Annotated[
        Path | None,
        common.policy_option(
            "Score the heads under this policy, if it needs no prompt of its own."
        ),
    ] = None,
    model: common.Model = "smollm2",
    json: common.Json = False,
    report: common.Report = None,
) -> None:
    """Score every head of a model for one kind of behaviour, and list the best."""
    if kind not in KINDS:
        raise FoveateError(f"--kind {kind!r} was given; there are: {', '.join(KINDS)}.")
    common.check_report(report)
    if save is not None and not save.expanduser().resolve().parent.is_dir():
        raise FoveateError(f"--out {save}: there is no such folder.")
    held = common.read_policy(policy)
    held = held and common.everywhere(held, "heads")
    live, tokenizer = common.load_model(model)
    held = common.for_model(held, live)
    settings: dict[str, Any] = {} if n is None else {"n": n}
    with err.status(f"Looking for {kind} heads …") as status:
        done = 0

        def progress(more: int) -> None:
            nonlocal done
            done += more
            status.update(f"Looking for {kind} heads: {done} prompts read …")

        with attach(live, held) if held else nullcontext():
            scores = find_heads(live, tokenizer, kind, seed=seed, progress=progress, **settings)
    best = scores.top(min(top, scores.layers * scores.heads))
    if save is not None:
        scores.save(save)
    if report is not None:
        report.expanduser().write_text(_page(scores, best), "utf-8")
    if json:
        common.print_json(_plain(scores, best, model, report, save))
        return
    _show(scores, best, save)
    for name, path in (("scores", save), ("report", report)):
        if path is not None:
            err.print(f"{name}: {path}")


def _plain(
    scores: HeadScores, best: list[tuple[int, int]], model: str, report: Any, save: Any
) -> dict[str, Any]:
    return {
        "model": model,
        "kind": scores.kind,
        "means": KINDS[scores.kind].means,
        "layers": scores.layers,
        "heads": scores.heads,
        "settings": dict(scores.settings),
        "top": [
            {"layer": layer, "head": head, "score": round(scores[layer, head], 6)}
            for layer, head in best
        ],
        "out": str(save) if save is not None else None,
        "report": str(report) if report is not None else None,
    }


def _show(scores: HeadScores, best: list[tuple[int, int]], save: Path | None) -> None:
    means = KINDS[scores.kind].means
    out.print(f"\n[bold]{scores.kind} heads[/] of {scores.model.name} [dim](score: {means})[/]")
    table = Table("layer.head", "score", "", box=None, header_style="dim")
    most = max(abs(scores[pair]) for pair in best) or 1.0
    for layer, head in best:
        score = scores[layer, head]
        table.add_row(f"{layer}.{head}", f"{score:.3f}", "█" * round(24 * abs(score) / most))
    out.print(table)
    values = scores.values[~scores.values.isnan()]
    out.print(
        f"[dim]mean of all {values.numel()} heads {values.mean():.3f}, median "
        f"{values.median():.3f}[/]"
    )
    pairs = ",".join(f"{layer}.{head}" for layer, head in best)
    out.print(f"\nUse them: foveate steer … --heads {pairs}")
    where = f"{save or 'FILE.json'}:{len(best)}"
    note = "" if save else "  (keep them with --out FILE.json)"
    out.print(f"          foveate compare … --method \"PASTA(evidence, heads='{where}')\"{note}")
    out.print(f"          heads=scores.top({len(best)}) in Python")


def _page(scores: HeadScores, best: list[tuple[int, int]]) -> str:
    """A page of its own: the grid, the best heads, how they were found."""
    rows = "".join(f"<tr><td>{a}.{b}<td>{scores[a, b]:.4f}" for a, b in best)
    found = "".join(
        f"<tr><td>{html.escape(str(key))}<td>{html.escape(str(value))}"
        for key, value in {**scores.settings, "fingerprint": scores.model.fingerprint}.items()
    )
    title = html.escape(f"{scores.kind} heads of {scores.model.name}")
    picture = heat(scores.values, range(scores.layers), scores.kind)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 "
        "1rem;color:#222;background:#fff}td{padding:.1rem 1.5rem .1rem 0}"
        "main{display:flex;flex-wrap:wrap;gap:3rem}@media(prefers-color-scheme:dark)"
        "{body{color:#ddd;background:#181818}}</style>"
        f"<h1>{title}</h1><p>A head's score: {html.escape(KINDS[scores.kind].means)}. Rows are "
        f"layers, columns heads.<main><div>{picture}</div><div><h2>Highest</h2>"
        f"<table>{rows}</table><h2>How</h2><table>{found}</table></div></main></html>\n"
    )
