"""How advice is applied: a policy as an expression, as a command line, as Python."""

from __future__ import annotations

from json import dumps  # its texts are Python's, and in double quotes
from shlex import quote

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
        said = ", ".join(f"{k}={v!r}" for k, v in given.items())
        parts.append(f"{table['name']}({said})")
    return " + ".join(parts) or "nothing"


def command(model: str, data: str, policy: Policy) -> str:
    """The command that shows the policy beside the model as it is, on the same questions."""
    if not policy.methods and not policy.rewrites:
        return ""
    return f"foveate compare --model {quote(model)} --task {quote(data)} --policy policy.toml"


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
