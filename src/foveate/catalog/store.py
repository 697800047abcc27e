"""The list of papers: every row of the catalogue with its computed status."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import html
import json
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any, SupportsIndex, overload

from foveate._implements import Basis, Maturity
from foveate.catalog.search import Index
from foveate.catalog.status import STATUSES, status_of
from foveate.errors import FoveateError

__all__ = ["Paper", "Papers", "paper", "papers"]

# Fields that are searched and what a match in each counts: what a paper is called says more
# about it than the experiment proposed to check it.
_WEIGHTS = {
    "slug": 6.0,
    "name": 8.0,
    "title": 8.0,
    "does": 3.0,
    "claim": 2.0,
    "area": 2.0,
    "stage": 1.0,
    "needs": 1.0,
    "check": 0.5,
}
_SHOWN = 20  # rows of a printed list


@dataclass(frozen=True, repr=False)
class Paper:
    """One paper and how far it works here.

    Attributes
    ----------
    slug : str
        Its name in foveate, as in ``foveate papers SLUG``.
    title, name : str
        The paper's title, and what its method is called.
    year : int or None
        None where it is not known.
    area : str
        Such as ``"steer-text"``, ``"sparse"``, ``"probe"``.
    tier : int
        1: at the core of foveate, 2: at its edge, 3: an oracle alone is enough.
    stage : tuple of str
        Which stages of an attention call it touches, as in a program: ``"select"``,
        ``"score"``, ``"normalize"``, ``"reweight"``, ``"combine"``, ...
    does, claim, check : str
        What it does, what it claims, and how to tell whether an implementation is right.
        "(unsure)" marks what the abstract leaves open.
    needs : str
        The kind of model it needs, such as ``"causal-lm"``, ``"vlm"``, ``"diffusion"``.
    status : {"works", "partial", "catalogue only", "off topic"}
    basis : {"paper", "abstract"} or None
    maturity : {"stable", "experimental"} or None
    implements : tuple of str
        Dotted names of the objects that implement it.
    evidence : str or None
        Path of the file that says what was seen when its claim was tried.
    note : str or None
        Why it is off topic, or what could not be looked at when the status was computed.
    """

    slug: str
    title: str
    name: str
    year: int | None
    area: str
    tier: int
    stage: tuple[str, ...]
    does: str
    claim: str
    check: str
    needs: str
    status: str
    basis: Basis | None
    maturity: Maturity | None
    implements: tuple[str, ...]
    evidence: str | None
    note: str | None

    def __repr__(self) -> str:
        return f"Paper({self.slug!r}, {self.title!r}, {self.year}, {self.status!r})"

    def to_dict(self) -> dict[str, Any]:
        """Return all fields under their names, ready for JSON."""
        data = dataclasses.asdict(self)
        return {key: list(value) if type(value) is tuple else value for key, value in data.items()}


class Papers(list[Paper]):
    """A list of papers that prints as a table, in a notebook too."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> Paper: ...
    @overload
    def __getitem__(self, index: slice) -> Papers: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Paper | Papers:
        if isinstance(index, slice):
            return Papers(super().__getitem__(index))
        return super().__getitem__(index)

    def __repr__(self) -> str:
        lines = [f"{len(self)} paper{'' if len(self) == 1 else 's'}"]
        for row in self[:_SHOWN]:
            name = textwrap.shorten(row.name, 40, placeholder="…")
            lines.append(f"  {row.slug:<36} {row.year or '    '}  {row.status:<14}  {name}")
        if len(self) > _SHOWN:
            lines.append(f"  … and {len(self) - _SHOWN} more")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = ("slug", "title", "year", "status", "what it does")
        body = [
            (row.slug, row.title, row.year or "", row.status, textwrap.shorten(row.does, 160))
            for row in self
        ]
        return (
            f"<p>{len(self)} paper{'' if len(self) == 1 else 's'}</p><table><thead>"
            f"{_html_row(head, 'th')}</thead><tbody>"
            f"{''.join(_html_row(cells, 'td') for cells in body)}</tbody></table>"
        )


def papers(
    words: str | None = None,
    *,
    area: str | None = None,
    tier: int | None = None,
    year: int | None = None,
    needs: str | None = None,
    status: str | None = None,
    limit: int | None = None,
) -> Papers:
    """List papers of the catalogue, best match first.

    Parameters
    ----------
    words : str, optional
        Keywords; a paper is listed if any of them occurs, in any inflection. A whole slug,
        name or title puts that paper first. Without words: all, in the catalogue's order.
    area, needs, status : str, optional
        Only papers with exactly this value.
    tier, year : int, optional
        Only papers of this tier (1 to 3), of this year.
    limit : int, optional
        At most so many.

    Returns
    -------
    Papers
        A list of `Paper`; empty if nothing matches.

    Raises
    ------
    FoveateError
        If a value is not one the catalogue knows; the sentence lists those it does.

    Examples
    --------
    >>> papers("attention sinks", needs="causal-lm", limit=5)  # doctest: +SKIP
    """
    rows = _rows()
    _check("area", area, sorted({row["area"] for row in rows}))
    _check("needs", needs, sorted({row["needs"] for row in rows}))
    _check("tier", tier, sorted({row["tier"] for row in rows}))
    _check("status", status, STATUSES)
    if year is not None and type(year) is not int:
        raise FoveateError(f"year={year!r} must be a whole number such as 2024")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise FoveateError(f"limit={limit!r} must be a whole number of at least 1")
    if words is not None and not isinstance(words, str):
        raise FoveateError(f"words={words!r} must be text such as 'attention sinks'")

    wanted = {"area": area, "tier": tier, "year": year, "needs": needs}
    found = Papers()
    for row in _ranked(words):
        if any(value is not None and row[field] != value for field, value in wanted.items()):
            continue
        item = _paper(row)
        if status is None or item.status == status:
            found.append(item)
    return found[:limit]


def paper(slug: str) -> Paper:
    """Return one paper by its slug.

    Raises
    ------
    FoveateError
        If the catalogue has no such slug; the sentence names the nearest ones.
    """
    for row in _rows():
        if row["slug"] == slug:
            return _paper(row)
    near = difflib.get_close_matches(str(slug), [row["slug"] for row in _rows()], cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`foveate papers WORDS` searches it"
    raise FoveateError(f"the catalogue has no paper {slug!r}; {hint}")


@functools.cache
def _rows() -> tuple[dict[str, Any], ...]:
    lines = _data("catalog.jsonl").splitlines()
    return tuple(json.loads(line) for line in lines)


@functools.cache
def off_topic() -> dict[str, str]:
    """Why each paper that is not about attention is not, by slug."""
    reasons: dict[str, str] = json.loads(_data("off_topic.json"))
    return reasons


@functools.cache
def _index() -> Index:
    documents = [
        [" ".join(row[field]) if field == "stage" else row[field] for field in _WEIGHTS]
        for row in _rows()
    ]
    return Index(documents, list(_WEIGHTS.values()))


def _data(name: str) -> str:
    return resources.files(__package__).joinpath("data", name).read_text(encoding="utf-8")


def _ranked(words: str | None) -> list[dict[str, Any]]:
    rows = _rows()
    if words is None:
        return list(rows)
    found = [rows[number] for number in _index().search(words)]
    whole = words.strip().casefold()
    # Stable: among the named and among the others, the order of the search stands.
    return sorted(
        found, key=lambda row: whole not in {row[k].casefold() for k in ("slug", "name", "title")}
    )


def _paper(row: dict[str, Any]) -> Paper:
    state = status_of(row["slug"], off_topic().get(row["slug"]))
    own = {key: value for key, value in row.items() if key not in ("n", "stage")}
    return Paper(**own, stage=tuple(row["stage"]), **vars(state))


def _check(field: str, value: object, known: Iterable[object]) -> None:
    values = list(known)
    if value is not None and value not in values:
        raise FoveateError(
            f"{field}={value!r} is unknown; it is one of {', '.join(map(str, values))}"
        )


def _html_row(cells: Iterable[object], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(str(cell))}</{tag}>' for cell in cells)}</tr>"
