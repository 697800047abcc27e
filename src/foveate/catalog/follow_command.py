"""``foveate papers follow``, ``unfollow`` and ``digest``."""

from __future__ import annotations

import datetime
import json as jsonlib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..errors import FoveateError
from .deliver import Delivery, deliver, interrupted
from .digest import day_of, digest
from .digest_pages import WRITERS, Issue, counted, text
from .follow import Follow, follow, follows, now, unfollow
from .search import notes

__all__ = ["register"]

_DAYS = 7  # back, where no day is given

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``foveate papers``.

    Parameters
    ----------
    app : typer.Typer
        Changed in place.
    """
    app.command("follow")(_follow)
    app.command("unfollow")(_unfollow)
    app.command("digest")(_digest)


def _follow(
    words: Annotated[
        list[str] | None, typer.Argument(help="What to look for; none: list what is followed.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="mail, atom or file.")] = None,
    to: Annotated[
        str | None, typer.Option(help="An address, or a file (.xml, .atom, .md, .html).")
    ] = None,
    json: Json = False,
) -> None:
    """Save a query, and hear of new papers that fit it (see `digest`)."""
    if not words:
        if by is not None or to is not None:
            raise FoveateError('say what to follow: foveate papers follow "kv cache eviction" …')
        _list(follows(), json)
        return
    if by is None or to is None:
        raise FoveateError("following takes --by mail|atom|file and --to ADDRESS or FILE")
    found = follow(" ".join(words), by, to)
    if json:
        print(jsonlib.dumps(asdict(found)))
        return
    out = Console(markup=False, highlight=False, soft_wrap=True)
    out.print(f"{found.id}: {found.query!r} by {found.by} to {found.target}")
    wanted = "foveate papers digest --mail" if by == "mail" else "foveate papers digest"
    out.print(f"`{wanted}`, once a day from cron for instance, brings what is new")


def _unfollow(
    what: Annotated[list[str], typer.Argument(help="Its number or its words.")],
    json: Json = False,
) -> None:
    """Forget a saved query."""
    _list(unfollow(" ".join(what)), json, "forgotten: ")


def _digest(
    since: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="Default: seven days ago.")
    ] = None,
    mail: Annotated[bool, typer.Option("--mail", help="Send mail too.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show it; write, record and send nothing.")
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help=f"Only write one digest of all saved queries ({', '.join(WRITERS)}).",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Papers in a digest.")] = 20,
    json: Json = False,
) -> None:
    """Rank what is new by what is followed, and bring it to the followers."""
    day = day_of(since) if since else now().date() - datetime.timedelta(days=_DAYS)
    queries = list(dict.fromkeys(one.query for one in follows()))
    if not queries:
        raise FoveateError(
            'nothing is followed yet: foveate papers follow "kv cache eviction" --by file '
            "--to papers.md"
        )
    out = Console(markup=False, highlight=False, soft_wrap=True)
    if to is not None:
        _write(to, Issue(now(), digest(queries, day, limit=limit)), dry_run, out)
        return
    if not dry_run:
        for follower, when, slugs in interrupted():
            out.print(
                f"the mail of {when} to {follower.target} was cut off and may not have arrived; it "
                f"is not sent again. It held {', '.join(slugs)}",
                style="yellow",
            )
    found = deliver(day, mail=mail, dry_run=dry_run, limit=limit)
    if json:
        print(jsonlib.dumps([asdict(one) for one in found]))
    else:
        told: set[str] = set()
        for one in found:
            _tell(one, out, dry_run)
            if one.why and one.why not in told:  # a setting that is missing is told once
                out.print(f"  {one.why}", style="red")
                told.add(one.why)
        for note in notes():
            out.print(note, style="dim")
    if any(one.state in ("failed", "unsure") for one in found):
        raise typer.Exit(1)


def _tell(one: Delivery, out: Console, dry_run: bool) -> None:
    papers = f", {counted(len(one.items))}" if one.items else ""
    hint = " (--mail sends it)" if one.state == "mail not asked for" else ""
    out.print(f"{one.follower.by} {one.follower.target}: {one.state}{papers}{hint}")
    if dry_run and one.items:
        out.print(text([Issue(now(), one.items)]))
    elif one.state == "sent":
        out.print("  " + ", ".join(item.slug for item in one.items))


def _write(path: Path, issue: Issue, dry_run: bool, out: Console) -> None:
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise FoveateError(f"--out {path} ends in none of {', '.join(WRITERS)}")
    if dry_run:
        out.print(text([issue]))
        return
    try:
        path.write_text(writer([issue]), "utf-8")
    except OSError as error:
        raise FoveateError(f"{path} cannot be written ({error.strerror})") from error
    out.print(f"{path}: {counted(len(issue.items))}")


def _list(found: list[Follow], json: bool, before: str = "") -> None:
    if json:
        print(jsonlib.dumps([asdict(one) for one in found]))
        return
    out = Console(markup=False, highlight=False, soft_wrap=True)
    for one in found:
        out.print(f"{before}{one.id}: {one.query!r} by {one.by} to {one.target}")
    if not found:
        out.print("nothing is followed yet")
