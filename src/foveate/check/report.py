"""What a check found: a table of stacks, and what became of each test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

__all__ = ["NOT_APPLICABLE", "Outcome", "Report", "Stack"]

PASSED, FAILED, REFUSED, NOT_APPLICABLE = "passed", "failed", "refused", "not applicable"
# Tests that show something of a stack's attention beyond its being left alone.
SHOWS = frozenset({"gain 1", "gain on all keys", "masses", "gain", "maps"})
_MARKS = {PASSED: "✓", FAILED: "✗", REFUSED: "–", NOT_APPLICABLE: "·"}


@dataclass(frozen=True)
class Outcome:
    """One test.

    Attributes
    ----------
    test : str
        ``passthrough``, ``restore``, ``policy``, ``gain 1``, ``gain on all keys``, ``masses``,
        ``gain``, ``maps``, ``padding left``, ``padding right`` or ``cache``.
    stack : str or None
        The stack it was about; None for the whole model.
    state : {"passed", "failed", "refused", "not applicable"}
        ``refused``: foveate said in a sentence that it does not do this here.
    why : str
        Why it did not pass; empty where it did.
    error : float or None
        The largest difference seen, relative to the largest value compared.
    """

    test: str
    stack: str | None
    state: str
    why: str = ""
    error: float | None = None


@dataclass(frozen=True)
class Stack:
    """The attention sites of one stack.

    Attributes
    ----------
    stack, kind : str
        Its name and what it is (``decoder``, ``encoder``, ``cross``, ``vision``, …).
    layers : int
    heads : int or None
        Query heads a layer; None where the modules do not say, or differ.
    reach : str
        How it is reached: ``interface`` (transformers' attention interface), or otherwise.
    first, last : str
        Addresses of the first and the last site.
    """

    stack: str
    kind: str
    layers: int
    heads: int | None
    reach: str
    first: str
    last: str


@dataclass(frozen=True, repr=False)
class Report:
    """What :func:`check` found.

    Attributes
    ----------
    model : str
        The model's class.
    stacks : tuple of Stack
        Where it attends and foveate can reach.
    unreached : tuple of (str, str)
        Modules that look like attention and cannot be reached: address and class.
    outcomes : tuple of Outcome
    note : str
        Anything that holds for all tests, such as why none could be run.
    """

    model: str
    stacks: tuple[Stack, ...]
    unreached: tuple[tuple[str, str], ...]
    outcomes: tuple[Outcome, ...]
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether passthrough and a test of every kind of gain held, and nothing failed."""
        states = {one.state for one in self.outcomes}
        passed = {one.test for one in self.outcomes if one.state == PASSED}
        shown = "passthrough" in passed and bool(passed & SHOWS)
        return shown and not states & {FAILED, REFUSED}

    @property
    def failures(self) -> list[Outcome]:
        """What failed or was refused."""
        return [one for one in self.outcomes if one.state in (FAILED, REFUSED)]

    def works(self, stack: str) -> list[str]:
        """The tests that a stack passed."""
        return [o.test for o in self.outcomes if o.stack == stack and o.state == PASSED]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON holds it."""
        return {
            "model": self.model,
            "ok": self.ok,
            "note": self.note,
            "stacks": [asdict(one) | {"works": self.works(one.stack)} for one in self.stacks],
            "unreached": [list(one) for one in self.unreached],
            "outcomes": [asdict(one) for one in self.outcomes],
        }

    def site_rows(self) -> list[tuple[str, ...]]:
        """The table of sites as texts, its head first."""
        rows: list[tuple[str, ...]] = [
            ("stack", "layers", "heads", "kind", "reached", "sites", "what works")
        ]
        return rows + [
            (
                one.stack,
                str(one.layers),
                "?" if one.heads is None else str(one.heads),
                one.kind,
                one.reach,
                one.first if one.layers == 1 else f"{one.first} … {one.last}",
                ", ".join(self.works(one.stack)) or "nothing",
            )
            for one in self.stacks
        ]

    def test_rows(self) -> list[tuple[str, ...]]:
        """The table of tests as texts, its head first."""
        rows: list[tuple[str, ...]] = [("", "test", "stack", "error", "why")]
        return rows + [
            (
                _MARKS[one.state],
                one.test,
                one.stack or "",
                "" if one.error is None else f"{one.error:.1e}",
                one.why if one.state != REFUSED else f"refused: {one.why}",
            )
            for one in self.outcomes
        ]

    @property
    def verdict(self) -> str:
        """One line."""
        counts = {
            state: sum(one.state == state for one in self.outcomes)
            for state in (PASSED, FAILED, REFUSED, NOT_APPLICABLE)
        }
        return ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "nothing to test"

    def __repr__(self) -> str:
        parts = [f"{self.model}: {self.verdict}"]
        parts += [f"  {name} ({kind}): out of reach" for name, kind in self.unreached]
        if self.note:
            parts.append(self.note)
        return "\n".join([*parts, "", *_aligned(self.site_rows()), "", *_aligned(self.test_rows())])

    def _repr_html_(self) -> str:
        rest = "".join(
            f"<p><code>{escape(name)}</code> ({escape(kind)}) is out of reach.</p>"
            for name, kind in self.unreached
        )
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        return (
            f"<b>{escape(self.model)}</b>: {escape(self.verdict)}{note}"
            f"{_table(self.site_rows())}{rest}{_table(self.test_rows())}"
        )


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    if len(rows) < 2:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    if len(rows) < 2:
        return ""
    cells = ["".join(f"<td>{escape(text)}</td>" for text in row) for row in rows[1:]]
    head = "".join(f"<th>{escape(text)}</th>" for text in rows[0])
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
