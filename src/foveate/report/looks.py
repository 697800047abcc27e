"""A prompt's tokens shaded by how much they are looked at, as runs that a template can draw."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

__all__ = ["Block", "Run", "Stretch", "blocks", "highest", "seen", "shades"]

LEVELS = 8
_WHOLE = 400  # tokens up to which nothing is folded
_AROUND = 12  # tokens shown on each side of what is worth seeing
_FOLD = 30  # tokens that are worth a fold
_TOP = 8  # most looked-at tokens that stay in sight
_TAIL = 60  # the question stands last, mostly


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens of one shade, and their share in all."""

    text: str
    level: int
    share: float
    kind: str = ""


@dataclass(frozen=True)
class Stretch:
    """Runs that are marked alike: ``evidence``, ``raised``, ``said``."""

    marks: tuple[str, ...]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Block:
    """Stretches in sight, or folded behind a line that says how many tokens they are."""

    stretches: tuple[Stretch, ...]
    folded: bool
    tokens: int
    share: float


def highest(*weights: Sequence[float]) -> float:
    """The largest share but the first token's: what the colours of several looks end at."""
    return max((w for one in weights for w in one[1:]), default=0.0) or 1.0


def seen(weights: Sequence[float], marked: Collection[int]) -> set[int]:
    """The tokens that stay in sight: all of a short text; of a long one what matters."""
    n = len(weights)
    if n <= _WHOLE:
        return set(range(n))
    ranked = sorted(range(1, n), key=lambda i: -weights[i])[:_TOP]
    # of a long marked region its ends are enough, where nobody looks at its middle
    ends = [i for i in marked if i - 1 not in marked or i + 1 not in marked]
    near = {j for i in (0, *ranked, *ends) for j in range(i - _AROUND, i + _AROUND + 1)}
    return {i for i in near if 0 <= i < n} | set(range(n - _TAIL, n))


def blocks(
    tokens: Sequence[str],
    weights: Sequence[float],
    top: float,
    *,
    evidence: Collection[int] = (),
    raised: Collection[int] = (),
    said: int = 0,
    sight: Collection[int] | None = None,
) -> list[Block]:
    """Tokens with their shares, shaded up to ``top``.

    Parameters
    ----------
    tokens : sequence of str
    weights : sequence of float
        A share a token; the first is the sink, which is not shaded.
    top : float
        The share of the strongest shade, as :func:`highest` finds it. Shades go with the share to
        the power of 2/3; what is under 4 % of the top has none.
    evidence, raised : collection of int
        Tokens to outline, and to underline.
    said : int
        How many of the last tokens are the reply's.
    sight : collection of int, optional
        Tokens not to fold; default: :func:`seen`.
    """
    outlined, underlined, start = set(evidence), set(raised), len(tokens) - said
    keep = seen(weights, outlined | underlined) if sight is None else sight

    def marks(i: int) -> tuple[str, ...]:
        named = (("evidence", i in outlined), ("raised", i in underlined), ("said", i >= start))
        return tuple(name for name, holds in named if holds)

    def look(i: int) -> tuple[int, str]:
        if i == 0:
            return 0, "sink"
        level = int(LEVELS * min(1.0, max(0.0, weights[i]) / top) ** (2 / 3))
        return level, "special" if _SPECIAL.fullmatch(tokens[i]) else ""

    def run(places: Sequence[int], level: int, kind: str) -> Run:
        text = "".join(tokens[i].replace("\t", "→") or "·" for i in places)
        return Run(text, level, sum(weights[i] for i in places), kind)

    def stretch(places: Sequence[int], named: tuple[str, ...]) -> Stretch:
        return Stretch(named, tuple(run(list(g), *k) for k, g in groupby(places, key=look)))

    return [
        Block(
            tuple(stretch(list(g), named) for named, g in groupby(places, key=marks)),
            folded,
            len(places),
            sum(weights[i] for i in places),
        )
        for places, folded in _folded(len(tokens), keep)
    ]


_SPECIAL = re.compile(r"<[|\w/]+>|\[[A-Z]+\]")


def _folded(n: int, sight: Collection[int]) -> Iterator[tuple[list[int], bool]]:
    open_: list[int] = []
    for shown, group in groupby(range(n), key=sight.__contains__):
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
