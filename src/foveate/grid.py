"""The grid of patches that a model makes of a picture: from pixels to tokens and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import FoveateError

__all__ = ["Box", "Grid"]

Box = tuple[float, float, float, float]

_TOUCH = 1e-6  # of a patch: less than that is no overlap


@dataclass(frozen=True)
class Grid:
    """Patches in rows and columns over a picture, one token each, row by row from the upper left.

    Parameters
    ----------
    rows, columns : int
        Patches.
    width, height : float, optional
        Of the picture, in its own pixels; default: one pixel a patch. Boxes are given in them.
    lead : int
        Tokens before the patches: 1 in a tower with a class token.
    frame : (x0, y0, x1, y1), optional
        What of the picture the grid lies over, in its pixels; default all of it. A processor that
        cuts out the middle shows less, one that adds a margin more.
    at : tuple of int, optional
        Where the patches' tokens stand in a row of tokens; default ``lead, lead + 1, …``. A
        prompt's grids (:attr:`foveate.Prompt.grids`) have it.
    item : int
        Of a prompt: which item of the batch.
    overview : Grid, optional
        The same picture once more in fewer patches, where a processor shows it twice: in tiles
        and as a whole.

    Raises
    ------
    FoveateError
        Numbers that make no grid.

    Examples
    --------
    >>> import foveate as fv
    >>> grid = fv.Grid(8, 8, width=32, height=32, lead=1)  # a tower: 8 × 8 patches, a class token
    >>> grid.mask((4, 0, 12, 8)).nonzero().flatten().tolist()
    [2, 3, 10, 11]
    >>> grid.picture(grid.mask((4, 0, 12, 8)))[:2, :4].int().tolist()
    [[0, 1, 1, 0], [0, 1, 1, 0]]
    """

    rows: int
    columns: int
    width: float | None = None
    height: float | None = None
    lead: int = 0
    frame: Box | None = None
    at: tuple[int, ...] | None = None
    item: int = 0
    overview: Grid | None = None

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("columns", 1), ("lead", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise FoveateError(
                    f"Grid({name}={value!r}): a whole number of at least {least} was wanted."
                )
        for name, patches in (("width", self.columns), ("height", self.rows)):
            value = getattr(self, name)
            if value is None:
                object.__setattr__(self, name, patches)
            elif not _real(value) or value <= 0:
                raise FoveateError(f"Grid({name}={value!r}): a number of pixels was wanted.")
        if self.frame is None:
            object.__setattr__(self, "frame", (0, 0, self.width, self.height))
        else:
            object.__setattr__(self, "frame", corners("Grid(frame=…)", self.frame))
        if self.at is not None and len(self.at) != self.rows * self.columns:
            raise FoveateError(
                f"Grid(at=…) has {len(self.at)} places for {self.rows} × {self.columns} patches."
            )

    @property
    def patches(self) -> int:
        """How many patches there are."""
        return self.rows * self.columns

    @property
    def places(self) -> tuple[int, ...]:
        """Where the patches' tokens stand."""
        return self.at or tuple(range(self.lead, self.lead + self.patches))

    @property
    def patch(self) -> tuple[float, float]:
        """Width and height of a patch, in pixels of the picture."""
        x0, y0, x1, y1 = self._frame
        return (x1 - x0) / self.columns, (y1 - y0) / self.rows

    @property
    def _frame(self) -> Box:
        assert self.frame is not None
        return self.frame

    def box(self, row: int, column: int) -> Box:
        """What a patch covers of the picture: ``(x0, y0, x1, y1)`` in its pixels.

        Raises
        ------
        FoveateError
            No such patch.
        """
        for name, value, size in (("row", row, self.rows), ("column", column, self.columns)):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < size:
                raise FoveateError(f"{name}={value!r}, but {name}s go from 0 to {size - 1}.")
        (width, height), (left, top) = self.patch, self._frame[:2]
        return (
            left + column * width,
            top + row * height,
            left + (column + 1) * width,
            top + (row + 1) * height,
        )

    def mask(self, box: Sequence[float]) -> Tensor:
        """The tokens whose patch a box covers, be it in part.

        As with text, where a token is inside if one of its characters is: what shows a piece of a
        thing may be enough for a model to know it.

        Parameters
        ----------
        box : (x0, y0, x1, y1)
            In the picture's own pixels, from its upper left corner; ``x0 <= x < x1``. What reaches
            beyond the picture is cut off.

        Returns
        -------
        Tensor
            bool ``[lead + rows * columns]``, false on the tokens before the patches: a region for
            ``fv.attach(model, …, regions={"box": grid.mask(box)})``.

        Raises
        ------
        FoveateError
            A box that is none, or that covers nothing of any patch.
        """
        x0, y0, x1, y1 = corners("box", box)
        (width, height), (left, top) = self.patch, self._frame[:2]
        x = left + torch.arange(self.columns, dtype=torch.float64) * width
        y = top + torch.arange(self.rows, dtype=torch.float64) * height
        least = _TOUCH * width, _TOUCH * height  # an edge is not inside for the sake of rounding
        across = torch.minimum(x + width, torch.tensor(x1)) - x.clamp(min=x0) > least[0]
        down = torch.minimum(y + height, torch.tensor(y1)) - y.clamp(min=y0) > least[1]
        inside = down[:, None] & across
        if not inside.any():
            row = int((y + height / 2 - (y0 + y1) / 2).abs().argmin())
            column = int((x + width / 2 - (x0 + x1) / 2).abs().argmin())
            near = ", ".join(f"{edge:g}" for edge in self.box(row, column))
            raise FoveateError(
                f"The box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) covers nothing of any patch: the "
                f"patches are {width:g} × {height:g} pixels of a picture of {self.width:g} × "
                f"{self.height:g}, and the nearest covers ({near}). Give a box in the picture's "
                "own pixels that covers a part of at least one."
            )
        return torch.cat([torch.zeros(self.lead, dtype=torch.bool), inside.flatten()])

    def picture(self, weights: Tensor) -> Tensor:
        """What each patch has, as a picture.

        Parameters
        ----------
        weights : Tensor
            ``[..., S]``, a number a token: of the grid's own tokens (``lead + rows * columns``), or
            where the grid knows its places in a row (``at``), of the whole row.

        Returns
        -------
        Tensor
            ``[..., rows, columns]``.

        Raises
        ------
        FoveateError
            A tensor of another length.
        """
        length = weights.shape[-1] if isinstance(weights, Tensor) and weights.dim() else 0
        own = self.lead + self.patches
        if not (length == own or (self.at is not None and length > max(self.at))):
            raise FoveateError(
                f"{getattr(weights, 'shape', type(weights).__name__)} was given for {own} tokens; "
                "a tensor [..., tokens] was wanted"
                + (f", or of a whole row with at least {max(self.at) + 1}." if self.at else ".")
            )
        places = self.at if self.at is not None and length > max(self.at) else None
        chosen = weights[..., list(places)] if places else weights[..., self.lead :]
        return chosen.unflatten(-1, (self.rows, self.columns))


def corners(name: str, given: Any) -> Box:
    """Four numbers as the corners of a box that is not empty."""
    given = given.tolist() if hasattr(given, "tolist") else given
    fit = isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 4
    if not fit or not all(map(_real, given)):
        raise FoveateError(
            f"{name} is {given!r}; (x0, y0, x1, y1) was wanted, in pixels from the upper left."
        )
    x0, y0, x1, y1 = map(float, given)
    if not (x0 < x1 and y0 < y1):
        raise FoveateError(
            f"{name} ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is empty: x0 < x1 and y0 < y1 were wanted, "
            "from the upper left corner to the lower right one."
        )
    return x0, y0, x1, y1


def _real(value: Any) -> bool:
    kind = isinstance(value, int | float) or hasattr(value, "__float__")
    return kind and not isinstance(value, bool | str) and math.isfinite(float(value))
