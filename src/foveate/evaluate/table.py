"""The table that ``evaluate`` gives: cells, how sure they are, and the ways out of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .. import display
from ..errors import FoveateError
from ..statistics import mcnemar, paired_bootstrap, wilson
from .page import markdown, page, rows

__all__ = ["Cell", "Table"]

_FORMAT = 1


@dataclass(frozen=True)
class Cell:
    """One method on one task.

    Attributes
    ----------
    task, method : str
    n : int
        Items asked.
    accuracy : float
        The share of right replies.
    interval : (float, float)
        Its 95 % Wilson interval.
    difference, difference_interval, p
        Accuracy less the base's, the 95 % interval of that (bootstrap over the items, paired), and
        the exact two-sided McNemar p-value, for this one comparison. None for the base itself.
    seconds : float
        An item, prefill and generation together, the batch's time shared evenly.
    memory : int or None
        Peak bytes over what was held before, of the batch that took most; None where unknown.
    ids, answers, replies, right : tuple
        By item: its id, the right answer, what was said and whether that is right.
    """

    task: str
    method: str
    n: int
    accuracy: float
    interval: tuple[float, float]
    difference: float | None
    difference_interval: tuple[float, float] | None
    p: float | None
    seconds: float
    memory: int | None
    ids: tuple[str, ...]
    answers: tuple[str, ...]
    replies: tuple[str, ...]
    right: tuple[bool, ...]

    @classmethod
    def of(
        cls,
        *,
        task: str,
        method: str,
        ids: Sequence[str],
        answers: Sequence[str],
        replies: Sequence[str],
        right: Sequence[bool],
        seconds: float,
        memory: int | None,
        against: Sequence[bool] | None = None,
    ) -> Cell:
        """A cell with its figures; ``against`` is whether the base was right, by item."""
        n, good = len(right), sum(right)
        return cls(
            task=task,
            method=method,
            n=n,
            accuracy=good / n,
            interval=wilson(good, n),
            difference=None if against is None else (good - sum(against)) / n,
            difference_interval=None if against is None else paired_bootstrap(against, right),
            p=None if against is None else mcnemar(against, right),
            seconds=seconds,
            memory=memory,
            ids=tuple(ids),
            answers=tuple(answers),
            replies=tuple(replies),
            right=tuple(right),
        )


@dataclass(frozen=True, repr=False)
class Table:
    """Methods × tasks.

    Attributes
    ----------
    cells : tuple of Cell
        Task by task, in the order of the methods.
    base : str
        The method that the others are compared with.
    settings : mapping
        Model, device, versions, batch size, date.

    Examples
    --------
    >>> table["needle 1024", "window"].accuracy
    >>> table.save("table.json"), table.save("table.html")
    """

    cells: tuple[Cell, ...]
    base: str
    settings: Mapping[str, Any]

    @property
    def tasks(self) -> list[str]:
        """The tasks' names."""
        return list(dict.fromkeys(cell.task for cell in self.cells))

    @property
    def methods(self) -> list[str]:
        """The methods' names."""
        return list(dict.fromkeys(cell.method for cell in self.cells))

    def __getitem__(self, key: tuple[str, str]) -> Cell:
        for cell in self.cells:
            if (cell.task, cell.method) == key:
                return cell
        raise FoveateError(
            f"The table has no cell {key!r}; a pair of a task ({', '.join(self.tasks)}) and a "
            f"method ({', '.join(self.methods)}) was wanted."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON holds it."""
        return {
            "format": _FORMAT,
            "base": self.base,
            "settings": dict(self.settings),
            "cells": [asdict(cell) for cell in self.cells],
        }

    def to_json(self) -> str:
        """All of it, replies too."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1)

    def to_markdown(self) -> str:
        """The figures as a Markdown table."""
        return markdown(self)

    def to_html(self) -> str:
        """A self-contained page: the figures, and every reply."""
        return page(self)

    def to_pandas(self) -> Any:
        """One row a cell."""
        try:
            import pandas
        except ImportError as error:
            raise FoveateError("to_pandas needs pandas: pip install 'foveate[tables]'.") from error
        long = {"ids", "answers", "replies", "right"}
        return pandas.DataFrame(
            [
                {one.name: getattr(cell, one.name) for one in fields(cell) if one.name not in long}
                for cell in self.cells
            ]
        )

    def save(self, path: str | Path) -> Path:
        """Write the table; the ending says how: ``.json`` (which :meth:`load` reads), ``.md``,
        ``.html``.
        """
        path = Path(path).expanduser()
        ways = {".json": self.to_json, ".md": self.to_markdown, ".html": self.to_html}
        if path.suffix not in ways:
            raise FoveateError(f"{str(path)!r}: a name that ends in {', '.join(ways)} was wanted.")
        try:
            path.write_text(ways[path.suffix]() + "\n", encoding="utf-8")
        except OSError as error:
            raise FoveateError(
                f"The table cannot be written to {str(path)!r} ({error.strerror or error}); give "
                "the name of a file in a folder that is there."
            ) from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> Table:
        """A table that was saved as JSON."""
        try:
            data = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
            if data["format"] != _FORMAT:
                raise FoveateError(
                    f"{str(path)!r} has format {data['format']}; this foveate reads {_FORMAT}."
                )
            cells = tuple(map(_cell, data["cells"]))
            return cls(cells, data["base"], data["settings"])
        except OSError as error:
            raise FoveateError(
                f"{str(path)!r} cannot be read ({error.strerror or error})."
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise FoveateError(
                f"{str(path)!r} holds no table; a file from table.save('….json') was wanted."
            ) from error

    def __repr__(self) -> str:
        lines = rows(self)
        widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))]
        return "\n".join(
            "  ".join(
                text.ljust(width) if i < 2 else text.rjust(width)
                for i, (text, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in lines
        )

    def _repr_html_(self) -> str:
        """The figures; green and red rows are those that both tests call different."""
        from .page import fragment

        setting = ", ".join(f"{name}: {value}" for name, value in self.settings.items())
        note = display.note(f"differences are from {self.base}; {setting}")
        return display.lines(fragment(self), note)


def _cell(data: Mapping[str, Any]) -> Cell:
    """A cell out of plain data; JSON knows lists alone."""
    given: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    return Cell(**given)
