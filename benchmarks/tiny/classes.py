"""What a modelling file holds: how it attends, its main classes, and what a check of them says."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from foveate.check.report import FAILED, PASSED, REFUSED, Report

from .overrides import ABSENT, MAIN

__all__ = ["ABSENT", "KINDS", "candidates", "kind", "mixes", "totals", "verdict"]

KINDS = {
    "interface": "dispatches through the attention interface",
    "own": "attends by code of its own",
    "wrapper": "only composes models of other files",
    "none": "does not attend",
}
_ATTENDS = re.compile(
    r"softmax$|scaled_dot_product_attention|MultiheadAttention|multi_head_attention_forward"
)
# approximations of a softmax over keys by kernels of their own, which no name gives away
_APPROXIMATE = {"mra", "reformer", "yoso"}
# what unreachable() lists beside softmax attention: no softmax over keys, or no attention at all
_NOT_SOFTMAX = re.compile(
    r"Delta|Linear|Rwkv|Lightning|Deformable|AttentionStructure|AttentionBias|AttentionOutput"
)
_NAMED = re.compile(r"atten|attn|MultiHead", re.IGNORECASE)
_ORDER = (
    "ForConditionalGeneration", "ForMaskedLM", "ForCausalLM", "LMHeadModel", "Model",
    "ForImageClassification", "ForObjectDetection",
)  # fmt: skip


def kind(path: Path) -> str:
    """How the classes of a file attend, read from its source: a key of :data:`KINDS`."""
    source = path.read_text(encoding="utf-8")
    if path.parent.name in _APPROXIMATE:
        return "own"
    if "ALL_ATTENTION_FUNCTIONS" in source:
        return "interface"
    tree = ast.parse(source)
    functions = {f.name for f in tree.body if isinstance(f, ast.FunctionDef) and _attends(f)}
    for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        names = " ".join([cls.name, *(f.name for f in cls.body if isinstance(f, ast.FunctionDef))])
        if _NAMED.search(names) and (_attends(cls) or functions & _called(cls)):
            return "own"
        if "MultiheadAttention" in _called(cls):
            return "own"
    return "wrapper" if any(map(_wraps, ast.walk(tree))) else "none"


_MIXES = (
    (r"selective_scan|ssm_state|MambaMixer|Mamba2Mixer", "state space"),
    (r"rwkv_linear_attention", "linear attention"),
    (r"mlstm|mLSTM", "recurrence with a matrix memory"),
    (r"\bfft", "Fourier transforms"),
    (r"PoolFormerPooling", "pooling"),
    (r"nn\.Conv[12]d|ConvLayer", "convolutions"),
)


def mixes(path: Path) -> str:
    """What a file without attention has in its place, by what its source names."""
    source = path.read_text(encoding="utf-8")
    return next((name for pattern, name in _MIXES if re.search(pattern, source)), "other files")


def _wraps(node: ast.AST) -> bool:
    """Whether a line imports, or loads, the model of another file."""
    if isinstance(node, ast.Call):
        return getattr(node.func, "id", "") == "load_backbone"
    if not isinstance(node, ast.ImportFrom):
        return False
    names = {alias.name for alias in node.names}
    beside = node.level == 2 and ".modeling_" in f".{node.module}"
    return beside or any(name.startswith(("AutoModel", "AutoBackbone")) for name in names)


def _called(node: ast.AST) -> set[str]:
    return {
        one.func.attr if isinstance(one.func, ast.Attribute) else getattr(one.func, "id", "")
        for one in ast.walk(node)
        if isinstance(one, ast.Call)
    }


def _attends(node: ast.AST) -> bool:
    return any(
        _ATTENDS.search(name) or name == "Softmax" or "XSoftmax" in ast.unparse(node)
        for name in _called(node)
    )


def candidates(module: Any, family: str) -> list[Any]:
    """A file's model classes, the main one first; at most four are tried."""
    from transformers import PreTrainedModel

    names = MAIN[family] if family in MAIN else getattr(module, "__all__", [])
    found = [getattr(module, name, None) for name in names]
    found = [
        cls
        for cls in found
        if isinstance(cls, type)
        and issubclass(cls, PreTrainedModel)
        and not cls.__name__.endswith(("PreTrainedModel", "PretrainedModel"))
        and cls.config_class is not None
    ]
    if family in MAIN:
        return found

    def rank(cls: type) -> int:
        return next((i for i, end in enumerate(_ORDER) if cls.__name__.endswith(end)), len(_ORDER))

    return sorted(found, key=rank)[:4]


def verdict(kind_: str, report: Report) -> tuple[str, str]:
    """Works, works in part, fails or refused, and why."""
    softmax = [name for _, name in report.unreached if not _NOT_SOFTMAX.search(name)]
    if not report.stacks and not softmax:
        if kind_ in ("none", "wrapper"):
            return "no attention", ", ".join({name for _, name in report.unreached})
        return "fails", "it attends, and no site of it was found"
    failed = [o for o in report.outcomes if o.state == FAILED]
    refused = [o for o in report.outcomes if o.state == REFUSED]
    sampled = [o for o in refused if "has no attention to edit" in o.why and "Deformable" in o.why]
    refused = [o for o in refused if o not in sampled]
    passed = [o for o in report.outcomes if o.state == PASSED]
    edited = [o for o in passed if o.test in ("gain 1", "gain")]
    if failed:
        one = failed[0]
        return "fails", f"{one.test}{f' ({one.stack})' if one.stack else ''}: {one.why}"
    if refused and not edited:
        return "refused", refused[0].why
    if refused:
        one = refused[0]
        return "works in part", f"{one.test}{f' ({one.stack})' if one.stack else ''}: {one.why}"
    out = Counter(name for _, name in report.unreached)
    text = ", ".join(f"{n} × {name}" for name, n in out.items())
    if any(not _NOT_SOFTMAX.search(name) for name in out):
        return "works in part", f"out of reach: {text}"
    if not edited:
        others = [o for o in report.outcomes if o.state != PASSED]
        return "not shown", others[0].why if others else "nothing could be tested"
    idle = [stack.stack for stack in report.stacks if not report.works(stack.stack)]
    idle = [stack for stack in idle if stack not in {o.stack for o in sampled}]
    notes = [f"no softmax over keys in {text}"] if text else []
    if sampled:
        stacks = ", ".join(dict.fromkeys(o.stack for o in sampled if o.stack))
        notes.append(f"deformable attention, refused: {stacks}")
    notes += [f"not run with these inputs: {', '.join(idle)}"] if idle else []
    return "works", "; ".join(notes)


def totals(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Verdicts by kind."""
    found: dict[str, Counter[str]] = {name: Counter() for name in KINDS}
    for row in rows:
        found[row["kind"]][row["verdict"]] += 1
    return {name: dict(counts) for name, counts in found.items()}
