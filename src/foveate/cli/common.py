"""What the commands share: the options, the model, the prompt, how progress is shown."""

from __future__ import annotations

import json as jsonlib
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..engine import measures as m
from ..engine.measures import Read
from ..errors import FoveateError
from ..load import load as _load
from ..policy import Policy
from ..prompt import Prompt
from ..tasks import Item, prompts

PromptText = Annotated[
    str | None, typer.Argument(metavar="PROMPT", help="What the user says to the model.")
]
File = Annotated[
    Path | None, typer.Option("--file", help="Read the prompt from a file (- for stdin).")
]
Messages = Annotated[
    Path | None,
    typer.Option("--messages", help='A JSON file with a chat: [{"role": …, "content": …}, …].'),
]
Raw = Annotated[
    bool, typer.Option("--raw", help="Give the text to the model as it is, not as a chat.")
]
Marks = Annotated[
    list[str] | None,
    typer.Option("--mark", metavar="NAME=TEXT", help="Name a piece of the prompt; repeatable."),
]
Model = Annotated[
    str, typer.Option("--model", help="smollm2 (embedded), a local folder or a hub id.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Report = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Write a self-contained HTML page.")
]
NewTokens = Annotated[
    int, typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens.")
]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def load(name: str) -> tuple[Any, Any]:
    """:func:`foveate.load`, without what transformers says of packages that are not needed.

    Without torchvision it prepares pictures with Pillow, to the same end, and warns of every class
    that does so. What it says of weights is heard.
    """
    told = logging.getLogger("transformers.utils.import_utils")
    level = told.level
    told.setLevel(logging.ERROR)
    try:
        return _load(name)
    finally:
        told.setLevel(level)


def load_model(name: str) -> tuple[Any, Any]:
    """Load a causal language model, saying so on stderr."""
    with err.status(f"Loading {name} …"):
        model, tokenizer = load(name)
    if not hasattr(model, "generate") or getattr(model.config, "is_encoder_decoder", False):
        raise FoveateError(
            f"{name!r} is a {type(model).__name__}; this command wants a language model that "
            "generates from left to right, such as smollm2."
        )
    return model, tokenizer


def content(text: str | None, file: Path | None, messages: Path | None) -> str | list[Any]:
    """What the options give the model to read: a text, or the messages of a chat."""
    given = [name for name, one in (("PROMPT", text), ("--file", file), ("--messages", messages))
             if one is not None]  # fmt: skip
    if len(given) != 1:
        raise FoveateError(
            f"Give the prompt in one way: as PROMPT, with --file or with --messages; "
            f"{' and '.join(given) or 'none of them'} was given."
        )
    if messages is None:
        said = text if file is None else _read(file)
        if not said or not said.strip():
            raise FoveateError("The prompt is empty; give the model something to read.")
        return said
    try:
        chat = jsonlib.loads(_read(messages))
    except jsonlib.JSONDecodeError as error:
        raise FoveateError(
            f"--messages {messages} is no JSON ({error}); it holds a list such as "
            '[{"role": "user", "content": "…"}].'
        ) from error
    if not isinstance(chat, list) or not all(isinstance(one, dict) for one in chat):
        raise FoveateError(
            f"--messages {messages} holds no chat; a list such as "
            '[{"role": "user", "content": "…"}] was wanted.'
        )
    return chat


def named(marks: Sequence[str] | None) -> list[tuple[str, str]]:
    """``NAME=TEXT`` as pairs."""
    pairs = []
    for mark in marks or ():
        name, equals, piece = mark.partition("=")
        if not equals or not name or not piece:
            raise FoveateError(
                f"--mark {mark!r} was given; NAME=TEXT was wanted, such as "
                "--mark 'evidence=It was built in 1877.'"
            )
        pairs.append((name, piece))
    return pairs


def policy_option(means: str) -> Any:
    """``--policy FILE``, and what it means to this command."""
    return typer.Option("--policy", metavar="FILE", help=means)


def read_policy(path: Path | None) -> Policy | None:
    """The policy of a file, before a model is loaded for nothing."""
    if path is None:
        return None
    with _told():
        return Policy.load(path)


def for_model(policy: Policy | None, live: Any) -> Policy | None:
    """The policy, where it is one for this model; a doubt is told once, on stderr."""
    if policy is None:
        return None
    with _told():
        policy.check_model(live)
    return replace(policy, model=None)  # it was checked


def everywhere(policy: Policy, command: str) -> Policy:
    """A policy for a command that asks with prompts of its own, or a refusal."""
    has = (*policy.rewrites, *(name for one in policy.methods for name in _regions(one)))
    if policy.asking is not None:
        has = (f"{type(policy.asking).__name__}, which asks by itself",)
    if has:
        raise FoveateError(
            f"foveate {command} asks with prompts of its own, on which the policy "
            f"{policy.name!r} has no hold: it has {', '.join(map(str, has))}. Give it one of "
            "patterns, gains on no region and the like, or ask foveate compare what this one does."
        )
    return policy


def _regions(method: Any) -> Sequence[str]:
    return getattr(method, "regions", ())


@contextmanager
def _told() -> Iterator[None]:
    """Warnings as lines of the command's own."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for one in caught:
        err.print(f"[yellow]warning:[/] {one.message}", soft_wrap=True)


def make_prompt(
    tokenizer: Any,
    content: str | list[Any],
    raw: bool,
    marks: Sequence[tuple[str, str]],
    policy: Policy | None = None,
) -> Prompt:
    """The prompt, with its marks; a text is what a user says, where the model knows chats.

    With a policy it is as the policy asks it: rewritten, and its regions marked.
    """
    if policy is not None:
        given: dict[str, Any] = {}
        for name, piece in marks:
            given.setdefault(name, []).append(piece)
        item = Item("prompt", content, "", given, raw=raw)
        ((_, asked),) = prompts(policy.items([item]), tokenizer, 1)
        return asked
    if isinstance(content, str) and not raw and getattr(tokenizer, "chat_template", None):
        content = [{"role": "user", "content": content}]
    prompt = Prompt(tokenizer, content)
    for name, piece in marks:
        prompt.mark(name, piece)
    return prompt


def _read(path: Path) -> str:
    if str(path) == "-":
        return sys.stdin.read()
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise FoveateError(f"{str(path)!r} cannot be read ({why}); give a text file.") from error


def marked(prompt: Prompt) -> list[str]:
    """The regions that the user named."""
    built_in = ("system", "user", "assistant", "special", "first", "generated")
    return [name for name in prompt.regions if name not in built_in]


def masses(prompt: Prompt) -> list[Read]:
    """The mass of every region that has tokens."""
    return [m.mass(name) for name, mask in prompt.regions.items() if bool(mask.any())]


def details() -> list[Read]:
    """What a report shows besides masses; all of it of the prefill."""
    return [m.entropy(), m.distance(), m.received(), m.rows([-1]), m.block_map(32)]


def numbers(option: str, text: str | None) -> list[int] | None:
    """``3-10,12`` as a list of whole numbers."""
    if text is None:
        return None
    found: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            found += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError:
        found = []
    if not found:
        raise FoveateError(f"{option} {text!r} was given; numbers such as 3-10,12 were wanted.")
    return found


def head_numbers(
    text: str | None, option: str = "--heads"
) -> list[int] | dict[int, list[int]] | None:
    """``0,3`` as heads of every layer; ``5.0,7.3`` as head 0 of layer 5 and head 3 of layer 7."""
    if text is None or "." not in text:
        return numbers(option, text)
    pairs: dict[int, list[int]] = {}
    try:
        for part in text.split(","):
            layer, _, head = part.strip().partition(".")
            pairs.setdefault(int(layer), []).append(int(head))
    except ValueError:
        raise FoveateError(
            f"{option} {text!r} was given; heads such as 0,3 or layer.head pairs such as 5.0,7.3 "
            "were wanted."
        ) from None
    return pairs


def check_report(path: Path | None) -> None:
    """Refuse a report that cannot be written before the work is done, not after."""
    if path is not None and not path.expanduser().resolve().parent.is_dir():
        raise FoveateError(
            f"--report {path}: there is no folder {str(path.expanduser().resolve().parent)!r}."
        )


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    print(jsonlib.dumps(value, ensure_ascii=False, indent=2))


@contextmanager
def progress(what: str, total: int) -> Iterator[Any]:
    """A progress bar on stderr; yields a function to call with the number just done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=err, transient=True) as shown:
        task = shown.add_task(what, total=total)
        yield lambda done: shown.advance(task, done)
