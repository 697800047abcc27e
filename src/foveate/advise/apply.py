"""How advice is applied: a policy as an expression, as a command line, as Python."""

from __future__ import annotations

from collections.abc import Sequence
from json import dumps  # its texts are Python's, and in double quotes
from pathlib import Path
from shlex import quote
from typing import Any

from ..errors import FoveateError
from ..policy import Policy
from ..policy.written import write_method

__all__ = ["command", "expression", "python"]


def expression(policy: Policy) -> str:
    """A policy as one writes it: its rewrites, and its methods as the command line takes them."""
    parts = [f"rewrite {name!r}" for name in policy.rewrites]
    for one in policy.methods:
        try:
            table = write_method(one)
        except FoveateError:
            parts.append(repr(one))
            continue
        given = {k: v for k, v in table.items() if k not in ("name", "none")}
        said = ", ".join(f"{k}={_short(v)}" for k, v in given.items())
        parts.append(f"{table['name']}({said})")
    return " + ".join(parts) or "nothing"


def _short(value: Any) -> str:
    """A value as written; layers in a row as a range, which the command line reads too."""
    if isinstance(value, Sequence) and len(value) > 2 and all(type(one) is int for one in value):
        row = range(value[0], value[0] + len(value))
        if list(value) == list(row):
            return repr(row)
    return repr(value)


def command(model: str, data: str, policy: Policy) -> str:
    """The command that shows the policy beside the model as it is, on questions that did not choose
    it.
    """
    if not policy.methods and not policy.rewrites:
        return ""
    task = quote(_other(data))
    return f"foveate compare --model {quote(model)} --task {task} --policy policy.toml"


def _other(data: str) -> str:
    """Another file than the one that chose; of a task, another seed."""
    suffix = Path(data).suffix.lower()
    if suffix in (".jsonl", ".csv"):
        return f"other{suffix}"
    head, _, rest = data.strip().partition("(")
    given = [one.strip() for one in rest.removesuffix(")").split(",") if one.strip()]
    seeds = [one.partition("=")[2].strip() for one in given if one.startswith("seed")]
    seed = int(seeds[0]) + 1 if seeds and seeds[0].isdigit() else 1
    kept = [one for one in given if not one.startswith("seed")]
    return f"{head}({', '.join([*kept, f'seed={seed}'])})"


def python(model: str, policy: Policy, max_new_tokens: int) -> str:
    """The Python that applies the policy."""
    if not policy.methods and not policy.rewrites:
        return ""
    lines = [
        "import foveate as fv",
        "",
        f"model, tokenizer = fv.load({dumps(model, ensure_ascii=False)})",
        'policy = fv.Policy.load("policy.toml")',
        'asked = {"context": ["…", "…"], "prompt": "…"}  # as in a line of the data',
    ]
    if policy.asking is not None:
        lines.append(f"print(policy.generate(model, tokenizer, [asked], {max_new_tokens})[0])")
        return "\n".join(lines)
    longer = f"max_new_tokens={max_new_tokens + _extra(policy)}"
    reply = "tokenizer.decode(ids[0, prompt.length :], skip_special_tokens=True)"
    return "\n".join(
        [
            *lines,
            "prompt = policy.prompt(tokenizer, asked)",
            "with fv.attach(model, policy, prompt=prompt):",
            f"    ids = model.generate(**prompt.inputs, {longer}, do_sample=False)",
            f"print({f'policy.reply({reply})' if policy.rewrites else reply})",
        ]
    )


def _extra(policy: Policy) -> int:
    from ..policy.rewrites import REWRITES

    return sum(REWRITES[name].extra_tokens for name in policy.rewrites)
