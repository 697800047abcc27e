"""What a search gives: papers, and a list of them that prints as a table."""

from __future__ import annotations

import dataclasses
import html
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, SupportsIndex, overload

from foveate._implements import Basis, Maturity

__all__ = ["Paper", "Papers"]

_SHOWN = 20  # rows of a printed list


@dataclass(frozen=True, repr=False)
class Paper:
    """One paper and how far it works here.

    A paper that a user's file brought has no area, tier, stage, does, claim, check and needs: these
    are empty, the tier None.

    Attributes
    ----------
    slug : str
        Its name in foveate, as in ``foveate papers SLUG``.
    title, name : str
        The paper's title, and what its method is called.
    year : int or None
        None where it is not known.
    area : str
        Its family, such as ``"steer-text"``, ``"sparse"``, ``"probe"``.
    tier : int or None
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
    date : str or None
        When it was published, ``YYYY-MM-DD``.
    authors : tuple of str
        Names; empty where they are not known.
    author_count : int or None
        Of the authors, where their names are not known.
    organisation : str or None
    comments : int or None
        How much it was talked about where the file came from.
    doi, arxiv, url, abstract : str or None
        As the user's files had them.
    source : str
        ``"foveate"`` if it is shipped, else the name of the file that brought it.
    added : str
        The day it came into the user's store, ``YYYY-MM-DD``.
    """

    slug: str
    title: str
    name: str
    year: int | None
    area: str
    tier: int | None
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
    date: str | None = None
    authors: tuple[str, ...] = ()
    author_count: int | None = None
    organisation: str | None = None
    comments: int | None = None
    doi: str | None = None
    arxiv: str | None = None
    url: str | None = None
    abstract: str | None = None
    source: str = "foveate"
    added: str = ""

    def __repr__(self) -> str:
        return f"Paper({self.slug!r}, {self.title!r}, {self.year}, {self.status!r})"

    def _repr_html_(self) -> str:
        from .cards import card, fragment  # cards are made of papers

        return fragment(card(self))

    @property
    def summary(self) -> str:
        """What it does, or its abstract if nobody here has said so; may be empty."""
        return self.does or self.abstract or ""

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
            (row.slug, row.title, row.year or "", row.status, textwrap.shorten(row.summary, 160))
            for row in self
        ]
        return (
            f"<p>{len(self)} paper{'' if len(self) == 1 else 's'}</p><table><thead>"
            f"{_html_row(head, 'th')}</thead><tbody>"
            f"{''.join(_html_row(cells, 'td') for cells in body)}</tbody></table>"
        )


def _html_row(cells: Iterable[object], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(str(cell))}</{tag}>' for cell in cells)}</tr>"
