"""``foveate check``: does foveate tell the truth about this model?"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from torch import nn

from ..check import Report
from ..check import check as run_check
from ..check.report import FAILED, NOT_APPLICABLE, PASSED, REFUSED
from ..errors import FoveateError
from . import common
from .common import err, load, out

_COLOURS = {PASSED: "green", FAILED: "red", REFUSED: "yellow", NOT_APPLICABLE: "dim"}


def check(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="smollm2 (embedded), a local folder or a hub id."),
    ] = None,
    factory: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="MODULE:FACTORY",
            help="A Python callable that returns your model, or (model, inputs).",
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        common.policy_option(
            "Check too that this policy is for the model and leaves it as it was."
        ),
    ] = None,
    json: common.Json = False,
) -> None:
    """Check a model: passthrough, restore, gains, masses, maps, padding and cache.

    Exit status: 0 when all that applies passed, 1 when something failed, 2 for bad input.
    """
    if (model is None) == (factory is None):
        given = "both were" if model is not None else "neither was"
        raise FoveateError(
            f"check takes one model: MODEL, or --class module:factory; {given} given."
        )
    inputs: Mapping[str, Any] | None = None
    held = common.read_policy(policy)
    if factory is not None:
        live, inputs = _made(factory)
    else:
        assert model is not None
        with err.status(f"Loading {model} …"):
            live, _ = load(model)
    with err.status(f"Checking {type(live).__name__} …"):
        report = run_check(live, inputs, policy=common.for_model(held, live))
    if json:
        common.print_json({"asked": model or factory} | report.to_dict())
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(1)


def _made(path: str) -> tuple[nn.Module, Mapping[str, Any] | None]:
    """What a user's own callable returns."""
    module, colon, name = path.partition(":")
    if not colon or not module or not name:
        raise FoveateError(
            f"--class {path!r} was given; module:factory was wanted, such as mymodels:tiny."
        )
    here = os.getcwd()  # as with python -m: a user's module lies where he stands
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise FoveateError(
            f"--class {path!r} names nothing that can be imported ({error}); a callable in a "
            "module on the Python path was wanted."
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    made = found
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise FoveateError(f"--class {path!r} is {type(found).__name__}; give a callable.")
        try:
            made = found()
        except Exception as error:  # whatever a user's code raises is bad input, with its name
            raise FoveateError(
                f"--class {path!r} was called without arguments and raised "
                f"{type(error).__name__} ({error}); give a function of no arguments that returns "
                "the model, or (model, inputs)."
            ) from error
    model, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module) or not (inputs is None or isinstance(inputs, Mapping)):
        raise FoveateError(
            f"--class {path!r} gave {type(made).__name__}; a torch.nn.Module was wanted, or a "
            "pair of one and a dict of its forward's arguments."
        )
    return model, inputs


def _show(report: Report) -> None:
    out.print(f"\n[bold]{report.model}[/]")
    head, *rows = report.site_rows()
    sites = Table(*head, box=None, header_style="dim", pad_edge=False)
    for row in rows:
        sites.add_row(*(text.replace("[", r"\[") for text in row))
    if rows:
        out.print(sites)
    for name, kind in report.unreached:
        out.print(f"[yellow]{name}[/] ({kind}) is out of reach")
    if report.note:
        out.print(report.note)
    if report.outcomes:
        tests = Table(
            "", "test", "stack", "error", "", box=None, header_style="dim", pad_edge=False
        )
        for one, row in zip(report.outcomes, report.test_rows()[1:], strict=True):
            mark, *rest = (text.replace("[", r"\[") for text in row)
            tests.add_row(f"[{_COLOURS[one.state]}]{mark}[/]", *rest)
        out.print()
        out.print(tests)
    colour = "green" if report.ok else "red"
    out.print(f"\n[{colour}]{report.verdict}[/]")
