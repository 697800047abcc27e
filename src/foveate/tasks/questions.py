"""Questions of one's own, from JSON lines or CSV: read whole and checked, or not at all."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..errors import FoveateError
from ._records import item_of
from ._task import Item, Task
from ._text import whole
from .replies import Check

__all__ = ["Questions"]

_SHOWN = 5  # bad lines told in one refusal
_NAMED = 20  # of the others, by their numbers


@dataclass(frozen=True)
class Questions(Task):
    """Questions with answers that can be checked; made by :meth:`load` or :meth:`of`.

    A record has

    ``prompt`` or ``messages``
        What the user says; or the messages of a chat, ``[{"role": …, "content": …}]``.
    ``context``
        What it is about: a text, or a list of passages. It goes before the prompt (before the last
        user's message), set apart by an empty line, or where ``{context}`` stands.
    ``evidence``
        Where the answer stands: a piece of the context, word for word, or several, or the number
        of a passage, counted from 0.
    ``answer`` and ``check``
        What a right reply says, and how to tell (see :mod:`foveate.tasks.replies`): ``contains``
        (as whole words), ``exact``, ``regex``, ``choices``, ``json-schema``, or the dotted path of
        a function of one's own.
    ``choices``
        What can be answered; with them ``check`` is ``choices`` if not given.
    ``id``
        Default: the number of the line.

    Other fields are kept in ``item.info``. Regions: ``context``, ``passage 0``, ``passage 1`` …,
    ``evidence`` and ``question``, where there are such (with ``messages``: ``context`` and
    ``evidence`` by their words).

    Attributes
    ----------
    records : tuple of Item
        The questions.
    checks : mapping of str to Check
        How each is checked, by id.
    fingerprint : str
        Of the records: what a policy says it was found on.
    """

    records: tuple[Item, ...]
    checks: Mapping[str, Check] = field(repr=False)
    fingerprint: str
    name: str = "questions"
    max_new_tokens: int = 32

    SUFFIXES: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson", ".csv")

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        check: str | None = None,
        name: str | None = None,
        max_new_tokens: int = 32,
    ) -> Questions:
        """Read a ``.jsonl`` (or ``.ndjson``) or ``.csv`` file.

        In CSV, ``messages``, ``evidence``, ``context`` and an answer that is a schema may be
        written as JSON; ``choices`` as JSON or apart by ``|``.

        Parameters
        ----------
        path : str or Path
        check : str, optional
            For records that say none.
        name : str, optional
            Default: that of the file.
        max_new_tokens : int
            How long a reply may be.

        Raises
        ------
        FoveateError
            No such file, another ending, a bad line: all are named with their numbers, and nothing
            is read.
        """
        path = Path(path)
        if not path.is_file():
            raise FoveateError(f"{path}: no such file; a .jsonl or .csv file was wanted.")
        if path.suffix.lower() not in cls.SUFFIXES:
            raise FoveateError(
                f"{path}: a .jsonl file (a JSON object a line) or a .csv file was wanted; this "
                f"ends in {path.suffix or 'nothing'!r}."
            )
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise FoveateError(
                f"{path}: not UTF-8 ({error.reason} at byte {error.start})."
            ) from None
        rows = _csv(text, path) if path.suffix.lower() == ".csv" else _lines(text)
        return cls._checked(rows, str(path), check, name or path.stem, max_new_tokens)

    @classmethod
    def of(
        cls,
        records: Iterable[Mapping[str, Any]],
        *,
        check: str | None = None,
        name: str = "questions",
        max_new_tokens: int = 32,
    ) -> Questions:
        """The same from dicts, as :meth:`load` reads them."""
        rows = [(number, record) for number, record in enumerate(records, 1)]
        return cls._checked(rows, "records", check, name, max_new_tokens)

    @classmethod
    def _checked(
        cls,
        rows: Sequence[tuple[int, Any]],
        source: str,
        check: str | None,
        name: str,
        max_new_tokens: int,
    ) -> Questions:
        whole("max_new_tokens", max_new_tokens)
        found: list[Item] = []
        checks: dict[str, Check] = {}
        bad: list[tuple[int, FoveateError]] = []
        for number, row in rows:
            try:
                if isinstance(row, FoveateError):
                    raise row
                item, how = item_of(number, row, check)
                if item.id in checks:
                    raise FoveateError(f"the id {item.id!r} was there before; ids must differ")
            except FoveateError as error:
                bad.append((number, error))
                continue
            found.append(item)
            checks[item.id] = how
        if bad:
            rest = [str(number) for number, _ in bad[_SHOWN:]]
            more = f"\n… and line{'s' * (len(rest) > 1)} {', '.join(rest[:_NAMED])}" if rest else ""
            more += f" and {len(rest) - _NAMED} more" if len(rest) > _NAMED else ""
            lines = f"{len(bad)} bad line{'s' * (len(bad) > 1)} of {len(rows)}; nothing was read"
            told = [f"line {number}: {error}" for number, error in bad[:_SHOWN]]
            raise FoveateError(f"{source}: {lines}.\n" + "\n".join(told) + more)
        if not found:
            raise FoveateError(f"{source}: there is no question in it; at least one was wanted.")
        said = json.dumps([row for _, row in rows], sort_keys=True, ensure_ascii=False, default=str)
        digest = hashlib.sha256(f"{check}\n{said}".encode()).hexdigest()[:16]
        return cls(tuple(found), checks, digest, name, max_new_tokens)

    def items(self, tokenizer: Any = None) -> list[Item]:
        """The questions, in the order of the file."""
        return list(self.records)

    def right(self, item: Item, reply: str) -> bool:
        """Whether a reply passes the question's check."""
        return self.checks[item.id](reply)

    def __len__(self) -> int:
        return len(self.records)


def _lines(text: str) -> list[tuple[int, Any]]:
    rows: list[tuple[int, Any]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            rows.append((number, json.loads(line)))
        except json.JSONDecodeError as error:
            rows.append((number, FoveateError(f"no JSON ({error.msg} at column {error.colno})")))
    return rows


def _csv(text: str, path: Path) -> list[tuple[int, Any]]:
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    rows: list[tuple[int, Any]] = []
    try:
        for row in reader:
            number = reader.line_num
            if None in row or None in row.values():
                wanted = len(reader.fieldnames or ())
                rows.append(
                    (number, FoveateError(f"the header has {wanted} columns, the line not"))
                )
                continue
            rows.append((number, _cells(row)))
    except csv.Error as error:
        raise FoveateError(f"{path}: line {reader.line_num}: no CSV ({error}).") from None
    return rows


def _cells(row: Mapping[str, str]) -> Any:
    found: dict[str, Any] = {}
    for name, cell in row.items():
        if cell == "":
            continue
        start = cell.lstrip()[:1]
        if name in ("messages", "context", "evidence", "choices", "answer") and start in "[{":
            try:
                found[name] = json.loads(cell)
                continue
            except json.JSONDecodeError:
                pass  # a text that begins with a bracket
        if name == "choices":
            found[name] = [part.strip() for part in cell.split("|")]
        else:
            found[name] = int(cell) if name == "evidence" and cell.isdigit() else cell
    return found
