"""docs/architectures.md, written from the sweep's results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .classes import KINDS

__all__ = ["page", "write_page"]

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"
_ORDER = ("works", "works in part", "refused", "fails", "not shown", "no attention")
_MEANS = {
    "works": "all tests that apply passed, at every site of softmax attention that was run",
    "works in part": "what was tested passed; some sites are refused with a sentence, or out of "
    "reach and listed",
    "refused": "foveate says in a sentence that it does not do this",
    "fails": "a test failed",
    "not shown": "nothing could be edited with these inputs",
    "no attention": "there is none; what mixes the tokens instead is named",
    "cannot be built": "no tiny model of it ran here; the reason is the model's own error "
    "(transformers calls timm missing where torchvision is)",
}

_HEAD = """# Model families

*Written by `python -m benchmarks architectures`; do not edit.*

Every modelling file of transformers {transformers} was taken ({files} of them). Its main class was
built as a tiny random model and put through [`foveate check`](#the-tests), in a process of its own,
without downloads. A family counts by how its file attends: through the attention interface of
transformers, by code of its own (a softmax written out, or
`F.scaled_dot_product_attention` called by itself), or only through the models of other files.

Measured {date} at commit {commit}, torch {torch}, {cpu}, {seconds} s on {cores} cores.

"""

_TESTS = """
## The tests

| test | passes when |
|---|---|
| passthrough | the outputs under an attachment without methods, and after it, are bit for bit those of before |
| restore | modules, hooks, configs, weights and the files' own names are what they were, also after an error inside the block |
| gain 1 | a gain of 1 on all keys leaves the outputs as they are: foveate computes what the model computes |
| gain on all keys | a gain of 5 on all keys cancels (not where a learned sink takes a share) |
| masses | all visible keys together have mass 1 |
| gain | a gain of 5 raises a region's mass m to 5m / (5m + 1 − m), on the first layer |
| maps | masses and maxima are those of the model's own eager attention maps, where it hands them out |
| padding | a text padded on the left, or right, beside a longer one is answered and measured as alone, under a gain |
| cache | a prefill and decode steps under a gain equal one long prefill under it |

Errors are relative to the largest value; 1e-5 is allowed in float32, or ten times what a change of
every head's output in its last place does to the model. Your own model:
`foveate check MODEL`, or `fv.check(model, inputs)`.
"""  # noqa: E501


def page(payload: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    rows = payload["rows"]
    text = _HEAD.format(files=len(rows), seconds=payload["seconds"], **payload["machine"])
    text += _totals(payload["totals"])
    text += _run(rows)
    for kind, means in KINDS.items():
        of_kind = [row for row in rows if row["kind"] == kind]
        if of_kind:
            text += f"\n## {means[0].upper()}{means[1:]}: {len(of_kind)}\n"
            text += "".join(_section(name, of_kind) for name in (*_ORDER, "cannot be built"))
    return text + _TESTS


def _totals(totals: Mapping[str, Mapping[str, int]]) -> str:
    text = "| the file … | files | built | " + " | ".join(_ORDER) + " |\n"
    text += "|---" * (3 + len(_ORDER)) + "|\n"
    for kind, means in KINDS.items():
        counts = totals.get(kind, {})
        files = sum(counts.values())
        built = files - counts.get("cannot be built", 0)
        cells = [_share(counts.get(name, 0), built) for name in _ORDER]
        text += f"| {means} | {files} | {built} | " + " | ".join(cells) + " |\n"
    text += "\nPercentages are of those that were built.\n\n"
    return text + "".join(f"- **{name}**: {means}.\n" for name, means in _MEANS.items())


def _run(rows: Iterable[Mapping[str, Any]]) -> str:
    """How much of what works was run at all."""
    works = [row for row in rows if row["verdict"] == "works"]
    partly = [row for row in works if "not run with these inputs" in row["why"]]
    return (
        f"\nOf the {len(works)} files that work, {len(works) - len(partly)} had every stack run; "
        f"in the other {len(partly)} the inputs made up here reach a part of the model only (no "
        "picture or sound that its tower takes, say). The tables name what was not run, and what "
        "holds no softmax over keys: linear attention, and deformable attention, which samples "
        "between positions and is refused.\n"
    )


def _share(count: int, of: int) -> str:
    return f"{count} ({100 * count / of:.0f} %)" if count else "–"


def _section(verdict: str, rows: Iterable[Mapping[str, Any]]) -> str:
    found = [row for row in rows if row["verdict"] == verdict]
    if not found:
        return ""
    text = f"\n### {verdict[0].upper()}{verdict[1:]}: {len(found)}\n\n"
    plain = [row["family"] for row in found if not row["why"]]
    if plain:
        text += ", ".join(f"`{name}`" for name in plain) + "\n"
    reasons = [row for row in found if row["why"]]
    if reasons:
        text += "\n| family | class | |\n|---|---|---|\n"
        for row in reasons:
            why = " ".join(row["why"].split()).replace("|", "\\|").replace("<", "&lt;")
            text += f"| `{row['family']}` | {row['class'] or ''} | {why[:300]} |\n"
    return text


def write_page(payload: Mapping[str, Any], path: Path = _PAGE) -> None:
    """Write the page beside the others."""
    path.write_text(page(payload), encoding="utf-8")
