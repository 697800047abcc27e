"""The command line: ``foveate demo``, ``see``, ``steer``, ``heads``, ``compare``, …"""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from ..catalog.command import register as register_papers
from ..errors import FoveateError
from . import advise, check, compare, demo, heads, reproduce, see, steer, tune, ui

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Bad input is one red line on stderr and exit code 2, not a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FoveateError as error:
            # soft_wrap: one line stays one line, whatever the width of the terminal
            Console(stderr=True).print(Text(f"error: {error}", style="red"), soft_wrap=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Measure where a model looks, steer it, and see whether it mattered.",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"foveate {metadata.version('foveate')}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("demo")(demo.demo)
app.command("see")(see.see)
app.command("steer")(steer.steer)
app.command("check")(check.check)
app.command("heads")(heads.heads)
app.command("compare")(compare.compare)
app.command("advise")(advise.advise)
app.command("tune")(tune.tune)
app.command("reproduce")(reproduce.reproduce)
app.command("ui")(ui.ui)
register_papers(app)


def main() -> None:
    """Run the command line."""
    sys.exit(app())
