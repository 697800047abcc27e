"""A prompt's tokens shaded by how much they are looked at, as runs that a template can draw."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

__all__ = ["Block", "Run", "blocks", "highest", "shades"]

LEVELS = 8
_WHOLE = 400  # tokens up to which nothing is folded
_AROUND = 12  # tokens shown on each side of what is worth seeing
_FOLD = 30  # tokens that are worth a fold
_TOP = 8  # most looked-at tokens that stay in sight
_TAIL = 60  # the question stands last, mostly


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens that look alike."""

    text: str
    level: int
    kinds: tuple[str, ...]
    share: float


@dataclass(frozen=True)
class Block:
    """Runs in sight, or folded behind a line that says how many tokens they are."""

    runs: tuple[Run, ...]
    folded: bool
    tokens: int
    share: float


def highest(*weights: Sequence[float]) -> float:
    """The largest share but the first token's: what the colours of several looks end at."""
    return max((w for one in weights for w in one[1:]), default=0.0) or 1.0


def blocks(
    tokens: Sequence[str],
    weights: Sequence[float],
    top: float,
    *,
    evidence: Collection[int] = (),
    raised: Collection[int] = (),
    said: int = 0,
) -> list[Block]:
    """Tokens with their shares, shaded up to ``top``; what nobody looks at in long texts is folded.

    Parameters
    ----------
    tokens : sequence of str
    weights : sequence of float
        A share a token; the first is the sink, which is not shaded. May be empty.
    top : float
        The share of the strongest shade, as :func:`highest` finds it.
    evidence, raised : collection of int
        Tokens to outline, and to underline.
    said : int
        How many of the last tokens are the reply's.
    """
    shares = list(weights) or [0.0] * len(tokens)
    outlined, underlined, start = set(evidence), set(raised), len(tokens) - said

    def look(i: int) -> tuple[int, tuple[str, ...]]:
        level = 0 if i == 0 else round(LEVELS * math.sqrt(min(1.0, max(0.0, shares[i]) / top)))
        kinds = (("sink", i == 0 and bool(weights)), ("evidence", i in outlined),
                 ("raised", i in underlined), ("said", i >= start),
                 ("special", bool(_SPECIAL.fullmatch(tokens[i]))))  # fmt: skip
        return level, tuple(name for name, holds in kinds if holds)

    def block(places: Sequence[int], folded: bool) -> Block:
        runs = []
        for (level, kinds), group in groupby(places, key=look):
            here = list(group)
            text = "".join(tokens[i].replace("\t", "→") or "·" for i in here)
            runs.append(Run(text, level, kinds, sum(shares[i] for i in here)))
        return Block(tuple(runs), folded, len(places), sum(shares[i] for i in places))

    return [block(*one) for one in _folded(len(tokens), _seen(shares, outlined | underlined))]


_SPECIAL = re.compile(r"<[|\w/]+>|\[[A-Z]+\]")


def _seen(shares: Sequence[float], marked: Collection[int]) -> set[int]:
    """The tokens that stay in sight."""
    n = len(shares)
    if n <= _WHOLE:
        return set(range(n))
    ranked = sorted(range(1, n), key=lambda i: -shares[i])[:_TOP]
    # of a long marked region its ends are enough, where nobody looks at its middle
    ends = [i for i in marked if i - 1 not in marked or i + 1 not in marked]
    near = {j for i in (0, *ranked, *ends) for j in range(i - _AROUND, i + _AROUND + 1)}
    return {i for i in near if 0 <= i < n} | set(range(n - _TAIL, n))


def _folded(n: int, seen: set[int]) -> Iterator[tuple[list[int], bool]]:
    open_: list[int] = []
    for shown, group in groupby(range(n), key=seen.__contains__):
        here = list(group)
        if shown or len(here) < _FOLD:
            open_ += here
            continue
        if open_:
            yield open_, False
        yield here, True
        open_ = []
    if open_:
        yield open_, False


def shades(css: str) -> str:
    """Rules ``.w1`` … ``.w8`` out of the ``--ramp`` of a style sheet: light first, then dark."""
    ramps = [re.findall(r"#\w{6}", found) for found in re.findall(r"--ramp:([^;]+);", css)]
    light, dark = (_rules(stops) for stops in ramps)
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}"


def _rules(stops: Sequence[str]) -> str:
    colours = [[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in stops]
    rules = []
    for level in range(1, LEVELS + 1):
        x = level / LEVELS * (len(colours) - 1)
        i = min(len(colours) - 2, int(x))
        mixed = [round(a + (b - a) * (x - i)) for a, b in zip(*colours[i : i + 2], strict=True)]
        bright = sum(w * c for w, c in zip((0.299, 0.587, 0.114), mixed, strict=True)) > 140
        ink = "#1a1815" if bright else "#fdfaf4"
        rules.append(f".w{level} {{ background: rgb({','.join(map(str, mixed))}); color: {ink}; }}")
    return " ".join(rules)
