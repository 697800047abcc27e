"""Small worlds to train on: associative recall and copying of tokens, matching shapes in images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import FoveateError
from ._text import whole

__all__ = ["MQAR", "CopyTokens", "GroupRecall", "MatchingShapes"]

NONE = -100  # a place without a question, as torch's cross entropy skips it


@dataclass(frozen=True)
class MQAR:
    """Multi-query associative recall: keys and values first, then the keys again, out of order.

    ``pairs`` different keys, each followed by its value; behind them every key comes once more, at
    a random place, and the value is asked for there. All other places hold random tokens.

    Parameters
    ----------
    length : int
        Tokens of a sequence, even.
    pairs : int
        At most a quarter of ``length``, and fewer than half of ``vocab``.
    vocab : int
        Tokens there are, even: the lower half are keys (0 is none), the upper half values.
    power : float
        Gaps between a pair and its question follow ``gap ** (power - 1)``: 1 is uniform, towards 0
        they get short (Zoology: 0.01).

    References
    ----------
    Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language Models", 2023, and
    the authors' ``multiquery_ar.py``.
    """

    length: int = 256
    pairs: int = 8
    vocab: int = 128
    power: float = 1.0

    def __post_init__(self) -> None:
        for name in ("length", "pairs", "vocab"):
            whole(name, getattr(self, name))
        if self.length % 2 or self.vocab % 2:
            raise FoveateError(
                f"MQAR(length={self.length}, vocab={self.vocab}): even numbers were wanted."
            )
        if 4 * self.pairs > self.length or self.pairs > self.vocab // 2 - 1:
            raise FoveateError(
                f"MQAR(pairs={self.pairs}): at most a quarter of length={self.length} and fewer "
                f"than half of vocab={self.vocab} were wanted."
            )
        if not 0 < self.power <= 1:
            raise FoveateError(f"MQAR(power={self.power!r}): above 0 and at most 1 was wanted.")

    @property
    def chance(self) -> float:
        """The accuracy of guessing among the values."""
        return 2 / self.vocab

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` sequences: tokens and what is asked for, int64 ``[n, length]`` (-100 nowhere)."""
        half, context = self.vocab // 2, 2 * self.pairs
        keys = _different(n, half - 1, self.pairs, generator) + 1
        values = _different(n, half, self.pairs, generator) + half
        tokens = torch.randint(self.vocab, (n, self.length), generator=generator)
        tokens[:, 0:context:2], tokens[:, 1:context:2] = keys, values
        space = (self.length - context) // 2
        weight = torch.arange(1, space + 1, dtype=torch.float64) ** (self.power - 1)
        gaps = torch.multinomial(weight.expand(n, -1), self.pairs, generator=generator)
        targets = torch.full_like(tokens, NONE)
        tokens.scatter_(1, context + 2 * gaps, keys)
        targets.scatter_(1, context + 2 * gaps, values)
        return tokens, targets


@dataclass(frozen=True)
class CopyTokens:
    """Copy: random tokens, a mark, and the same tokens again, which are to be foretold.

    Parameters
    ----------
    length : int
        Tokens to copy; a sequence has twice as many.
    vocab : int
        Tokens there are; 0 is the mark.
    """

    length: int = 128
    vocab: int = 32

    def __post_init__(self) -> None:
        whole("length", self.length)
        if whole("vocab", self.vocab) < 3:
            raise FoveateError(f"CopyTokens(vocab={self.vocab}): at least 3 tokens were wanted.")

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""
        return 1 / (self.vocab - 1)

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` sequences: tokens and what is asked for, int64 ``[n, 2 * length]``."""
        text = torch.randint(1, self.vocab, (n, self.length), generator=generator)
        mark = torch.zeros(n, 1, dtype=torch.int64)
        tokens = torch.cat([text, mark, text[:, :-1]], 1)
        return tokens, torch.cat([torch.full_like(text, NONE), text], 1)


@dataclass(frozen=True)
class GroupRecall:
    """Tokens of groups that hold a value each: said in the first half, asked for in the second.

    In every sequence each group has a value of its own. The first half names groups with their
    values, the second half groups alone, and the value is asked for at each.

    Parameters
    ----------
    length : int
        Tokens of a sequence; each group stands ``length / (2 * groups)`` times in either half.
    groups, values : int

    Notes
    -----
    Tokens: ``group * (1 + values)`` a group alone, and behind it the group with its values.
    """

    length: int = 128
    groups: int = 16
    values: int = 4

    def __post_init__(self) -> None:
        for name in ("length", "groups", "values"):
            whole(name, getattr(self, name))
        if self.length % (2 * self.groups):
            raise FoveateError(
                f"GroupRecall(length={self.length}, groups={self.groups}): a length that is a "
                "multiple of twice the groups was wanted."
            )

    @property
    def vocab(self) -> int:
        """Tokens there are."""
        return self.groups * (1 + self.values)

    @property
    def chance(self) -> float:
        """The accuracy of guessing among the values."""
        return 1 / self.values

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` sequences: tokens and the values asked for, int64 ``[n, length]``."""
        half = self.length // 2
        value = torch.randint(1, 1 + self.values, (n, self.groups), generator=generator)
        said, asked = (_different(n, half, half, generator) % self.groups for _ in range(2))
        tokens = torch.cat([said * (1 + self.values) + value.gather(1, said),
                            asked * (1 + self.values)], 1)  # fmt: skip
        targets = torch.full_like(tokens, NONE)
        targets[:, half:] = value.gather(1, asked)
        return tokens, targets


@dataclass(frozen=True)
class MatchingShapes:
    """Images in which every shape stands twice, far apart, once in colour: which colour was it?

    Cells of tokens (patches), each with one shape or empty. The shapes of an image stand in its
    upper half in a colour, and in its lower half, elsewhere, in grey; at every token of a grey one
    its colour is asked for. No window that keeps to a half holds both.

    Parameters
    ----------
    side : int
        Tokens along each side: an even number of cells.
    cell : int
        Tokens along a cell's side.
    shapes : int
        Different shapes of an image; at most the cells of a half.
    kinds : int
        Shapes there are.
    colours : int

    Notes
    -----
    Tokens: 0 is empty; ``1 + kind * (1 + colours)`` a shape in grey, and behind it its colours.
    """

    side: int = 8
    cell: int = 2
    shapes: int = 8
    kinds: int = 8
    colours: int = 4

    def __post_init__(self) -> None:
        for name in ("side", "cell", "shapes", "kinds", "colours"):
            whole(name, getattr(self, name))
        if self.side % (2 * self.cell):
            raise FoveateError(
                f"MatchingShapes(side={self.side}, cell={self.cell}): a side that is a multiple of "
                "twice the cell was wanted."
            )
        half = (self.side // self.cell) ** 2 // 2
        if self.shapes > min(self.kinds, half):
            raise FoveateError(
                f"MatchingShapes(shapes={self.shapes}): at most kinds={self.kinds}, and the "
                f"{half} cells of a half, were wanted."
            )

    @property
    def vocab(self) -> int:
        """Tokens there are."""
        return 1 + self.kinds * (1 + self.colours)

    @property
    def chance(self) -> float:
        """The accuracy of guessing among the colours."""
        return 1 / self.colours

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` images: tokens and the colours asked for, int64 ``[n, side * side]``."""
        cells = (self.side // self.cell) ** 2
        kind = _different(n, self.kinds, self.shapes, generator) * (1 + self.colours) + 1
        colour = torch.randint(1, 1 + self.colours, (n, self.shapes), generator=generator)
        painted, grey = (_different(n, cells // 2, self.shapes, generator) for _ in range(2))
        grey = grey + cells // 2
        tokens = torch.zeros(n, cells, dtype=torch.int64)
        tokens.scatter_(1, grey, kind).scatter_(1, painted, kind + colour)
        targets = torch.full_like(tokens, NONE).scatter_(1, grey, colour)
        return self._drawn(tokens), self._drawn(targets)

    def _drawn(self, cells: Tensor) -> Tensor:
        """``[n, cells] -> [n, side * side]``: every cell's value at all of its tokens."""
        image = cells.unflatten(1, (self.side // self.cell, -1))
        image = image.repeat_interleave(self.cell, 1).repeat_interleave(self.cell, 2)
        return image.flatten(1)


def _different(n: int, of: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` different numbers below ``of``, in random order, for each of ``n``."""
    return torch.rand(n, of, generator=generator).topk(count, -1).indices
