"""``foveate papers``: the literature on the command line: search it, add to it."""

from __future__ import annotations

import json as jsonlib
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from typer.core import TyperGroup

from foveate.catalog import follow_command, vectors
from foveate.catalog.add import Added, add, rehearse
from foveate.catalog.cards import card, page, show
from foveate.catalog.database import database
from foveate.catalog.encoder import encoder
from foveate.catalog.remove import remove
from foveate.catalog.status import import_rooms
from foveate.catalog.store import Paper, Papers, papers
from foveate.errors import FoveateError

__all__ = ["papers_command", "register"]

_SHOWN = 20  # rows a search prints when no limit is asked for: the rest matches ever less


def papers_command(
    words: str | None = None,
    *,
    area: str | None = None,
    tier: int | None = None,
    year: int | None = None,
    needs: str | None = None,
    status: str | None = None,
    mine: bool = False,
    limit: int | None = None,
    json: bool = False,
    html: Path | None = None,
) -> int:
    """Print the papers that match: as a table, the card of one if named, or as JSON.

    Parameters
    ----------
    words : str, optional
        What is looked for, or exactly the slug of one paper.
    area, tier, year, needs, status, mine, limit
        As for `foveate.catalog.papers`. A table of a search shows 20 unless ``limit`` is
        given; JSON and a list without words are complete.
    json : bool
        Print one JSON array of objects instead.
    html : Path, optional
        Write the card of the paper that is named there, as a page, instead.

    Returns
    -------
    int
        The exit code: 0 if a paper matches, 1 if none does.

    Raises
    ------
    FoveateError
        If a value is not one the catalogue knows, or ``html`` is given and ``words`` is no slug
        or the file cannot be written.
    """
    filters = {"area": area, "tier": tier, "year": year, "needs": needs, "status": status}
    given = {key: value for key, value in filters.items() if value is not None}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = papers(words, **given, mine=mine, limit=limit)  # type: ignore[arg-type]
    for warning in caught:
        print(f"note: {warning.message}", file=sys.stderr)
    named = [row for row in found if row.slug == words]
    if json:
        print(jsonlib.dumps([row.to_dict() for row in named or found]))
    elif html is not None:
        _write_card(named[0] if named else None, words, html)
    elif named:
        show(card(named[0]), Console(markup=False, highlight=False))
    elif found:
        shown = found if words is None or limit is not None else found[:_SHOWN]
        _print_table(shown, total=len(found))
    if not found:
        asked = [repr(words)] if words is not None else []
        asked += [f"{key}={value!r}" for key, value in given.items()]
        asked += ["--mine"] if mine else []
        print(f"nothing matches {', '.join(asked)}", file=sys.stderr)
        return 1
    return 0


class _Words(TyperGroup):
    """Whatever is no command under ``foveate papers`` is searched for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            if len(args) > 1 and Path(args[1]).is_file():
                for name in filter(lambda name: _one_edit(args[0], name), self.commands):
                    print(
                        f"error: {args[0]!r} is no command and {args[1]!r} is a file; did you mean "
                        f"`papers {name} {args[1]}`? `papers search …` searches for words",
                        file=sys.stderr,
                    )
                    raise typer.Exit(2)
            args = ["search", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FoveateError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from None


def _one_edit(a: str, b: str) -> bool:
    """Whether a letter put in, left out or changed makes one word of the other."""
    a, b = sorted((a, b), key=len)
    same = next(
        (n for n, letters in enumerate(zip(a, b, strict=False)) if len({*letters}) > 1), len(a)
    )
    return b[same + 1 :] == a[same + (len(a) == len(b)) :]


def register(app: typer.Typer) -> None:
    """Add the command ``papers``, and those under it, to a command line.

    Parameters
    ----------
    app : typer.Typer
        The application; changed in place.
    """
    under = typer.Typer(
        cls=_Words,
        help="Search the literature on attention, add to it, follow it. `foveate papers WORDS` is "
        "`foveate papers search WORDS`.",
    )
    under.command("search")(_papers)
    under.command("add")(_add)
    under.command("remove")(_remove)
    under.command("index")(_index)
    follow_command.register(under)
    app.add_typer(under, name="papers")


def _papers(
    words: Annotated[
        list[str] | None,
        typer.Argument(help="What is looked for, in plain words, or exactly the slug of a paper."),
    ] = None,
    area: Annotated[
        str | None, typer.Option("--family", "--area", help="Such as steer-text, sparse, probe.")
    ] = None,
    tier: Annotated[int | None, typer.Option(help="1 (core), 2 or 3.")] = None,
    year: Annotated[int | None, typer.Option(help="Year of publication.")] = None,
    needs: Annotated[str | None, typer.Option(help="Such as causal-lm, vlm, diffusion.")] = None,
    status: Annotated[
        str | None, typer.Option(help="works, partial, 'catalogue only' or 'off topic'.")
    ] = None,
    mine: Annotated[bool, typer.Option("--mine", help="Only papers that you added.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(help=f"At most so many; a printed search shows {_SHOWN} by default."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a complete JSON array.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write the card of one paper as a page; name its slug.")
    ] = None,
) -> None:
    """Search the literature on attention and see how far each paper works here."""
    code = papers_command(
        " ".join(words) if words else None,
        area=area,
        tier=tier,
        year=year,
        needs=needs,
        status=status,
        mine=mine,
        limit=limit,
        json=json,
        html=html,
    )
    raise typer.Exit(code)


def _add(
    files: Annotated[
        list[Path],
        typer.Argument(help="BibTeX, RIS, Atom, JSON, or the text of a reading list; any number."),
    ],
    year: Annotated[int | None, typer.Option(help="Of papers for which a file names none.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """Add papers from files: each file wholly or, if anything in it is wrong, not at all."""
    rows: list[dict[str, Any]] = []
    outcomes = rehearse(files, year=year) if dry_run else (_added(file, year) for file in files)
    for file, outcome in zip(files, outcomes, strict=True):
        if isinstance(outcome, FoveateError):
            rows.append({"file": str(file), "error": str(outcome)})
            print(f"error: {outcome}", file=sys.stderr)
            continue
        rows.append(outcome.to_dict())
        if not json:
            _print_added(outcome, dry_run)
    if json:
        print(jsonlib.dumps(rows))
    elif not dry_run and any(row.get("new") for row in rows):
        _compute_vectors()
    raise typer.Exit(2 if any("error" in row for row in rows) else 0)


def _added(file: Path, year: int | None) -> Added | FoveateError:
    try:
        return add(file, year=year)
    except FoveateError as error:
        return error


def _remove(
    slugs: Annotated[list[str], typer.Argument(help="Slugs of papers of yours (see --mine).")],
) -> None:
    """Take papers that you added out again: all that are named or, if one cannot go, none."""
    for slug in remove(*slugs):
        print(f"removed: {slug}")


def _index() -> None:
    """Make the vectors that searching by meaning needs, for papers that have none yet."""
    if encoder() is None:
        raise FoveateError(
            "there is no sentence encoder to make vectors with: pip install 'foveate[search]'"
        )
    done = _compute_vectors()
    print(f"{done:,} vectors made" if done else "every paper has its vector")


def _print_added(added: Added, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    print(
        f"{added.file} ({added.format}): {would}{added.new:,} new, {added.completed:,} completed, "
        f"{added.known:,} known"
    )
    if added.without_year:
        print(f"  without a year: {added.without_year:,}; --year gives them one")


def _compute_vectors() -> int:
    """Make the vectors that are missing, with a bar; how many. An interrupt keeps what is done."""
    coder = encoder()
    if coder is None or not vectors.missing(database(), coder):
        return 0
    with Progress(transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("vectors (Ctrl-C stops; `foveate papers index` goes on)")
        return vectors.compute(
            database(), coder, lambda done, of: bar.update(task, completed=done, total=of)
        )


def _print_table(rows: Papers, total: int) -> None:
    console = Console(markup=False, highlight=False)
    # A slug is there to be copied, so it is never broken; the text takes about two lines of
    # what the other columns leave.
    slug_width = max(len(row.slug) for row in rows)
    text_width = max(20, console.width - slug_width - 24)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("slug", no_wrap=True, min_width=slug_width, style="cyan")
    table.add_column("year", no_wrap=True, width=4)
    table.add_column("status", no_wrap=True, width=14)
    table.add_column("what it does")
    for row in rows:
        text = textwrap.shorten(f"{row.name}: {row.summary}", 2 * text_width, placeholder=" …")
        table.add_row(row.slug, str(row.year or ""), row.status, text)
    console.print(table)
    counted = f"{total} paper{'' if total == 1 else 's'}"
    if len(rows) < total:
        counted = f"the best {len(rows)} of {counted}; --limit shows more"
    console.print(f"\n{counted}; `foveate papers SLUG` shows one in full")
    for failure in import_rooms():
        console.print(failure, style="yellow")


def _write_card(row: Paper | None, words: str | None, path: Path) -> None:
    if row is None:
        raise FoveateError(
            f"--html writes the card of one paper, and {words!r} is no slug; `foveate papers "
            "WORDS` shows slugs"
        )
    try:
        path.write_text(page(card(row)), "utf-8")
    except OSError as error:
        raise FoveateError(f"{path} cannot be written ({error.strerror})") from error
    print(path)
