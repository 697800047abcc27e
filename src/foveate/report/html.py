"""The report as one HTML file: no network, no other file, light and dark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FoveateError
from .data import Ablation, ReportData, build

if TYPE_CHECKING:
    import os

    import jinja2


def write(
    run: Any,
    path: str | os.PathLike[str],
    *,
    baseline: Any = None,
    answers: Mapping[str, str | Sequence[str]] | None = None,
    ablations: Sequence[Ablation] = (),
    title: str | None = None,
    model: Any = None,
    policy: str | None = None,
    item: int | None = None,
    stack: str | None = None,
) -> Path:
    """Write what a run measured as a self-contained HTML file.

    Parameters are those of :func:`foveate.report.build`, and ``path``, whose folder must exist.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FoveateError
        As :func:`foveate.report.build`; also if the file cannot be written.
    """
    data = build(
        run,
        baseline=baseline,
        answers=answers,
        ablations=ablations,
        title=title,
        model=model,
        policy=policy,
        item=item,
        stack=stack,
    )
    return save(render(data), path)


def save(page: str, path: str | os.PathLike[str]) -> Path:
    """Write a page; the path is returned.

    Raises
    ------
    FoveateError
        If the file cannot be written.
    """
    path = Path(path).expanduser()
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise FoveateError(
            f"The report cannot be written to {str(path)!r} ({error.strerror or error}); give the "
            "name of a file in a folder that is there."
        ) from error
    return path


def render(data: ReportData) -> str:
    """The page of a report, as text."""
    plain = data.to_dict()
    # Inside <script> only "<" could end it or open a comment; as \u003c it is the same JSON.
    embedded = json.dumps(plain, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    from markupsafe import Markup

    return (
        environment()
        .get_template("report.html.j2")
        .render(
            data=plain,
            json=Markup(embedded.replace("<", "\\u003c")),
            css=Markup(asset("report.css")),
            js=Markup(asset("report.js")),
        )
    )


def thirds(layers: Sequence[float | None]) -> list[float | None]:
    """Means of the first, middle and last third of the layers; None where nothing is known."""
    edges = [round(i * len(layers) / 3) for i in range(4)]
    parts = [[v for v in layers[a:b] if v is not None] for a, b in pairwise(edges)]
    return [sum(part) / len(part) if part else None for part in parts]


@cache
def environment() -> jinja2.Environment:
    try:
        import jinja2
    except ImportError as error:
        raise FoveateError("HTML reports need jinja2: pip install jinja2.") from error
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.globals["thirds"] = thirds
    return environment


def asset(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")
