"""Finding a piece of text, or the piece that is most like it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from heapq import nlargest
from itertools import accumulate
from typing import Any

__all__ = ["brief", "find", "nearest", "short"]


def find(text: str, wanted: str) -> Iterator[tuple[int, int]]:
    start = text.find(wanted)
    while start >= 0:
        yield start, start + len(wanted)
        start = text.find(wanted, start + len(wanted))


def nearest(text: str, wanted: str) -> str:
    """The piece of the text most like the wanted one, cut at words.

    Windows of the wanted length are ranked by the three-letter groups they share with it (one
    running sum over the text), and only the best few are compared properly.
    """
    hay, needle = _lowered(text), _lowered(wanted)[:300]
    width = min(len(needle), len(hay))
    group = min(3, width)
    groups = {needle[i : i + group] for i in range(len(needle) - group + 1)}
    hits = [0, *accumulate(hay[i : i + group] in groups for i in range(len(hay)))]

    def shared(start: int) -> int:
        return hits[start + width - group + 1] - hits[start]

    # The best start of every half width: else all candidates would be neighbours of one.
    last = len(hay) - width + 1
    step = max(width // 2, 1)
    starts = [max(range(i, min(i + step, last)), key=shared) for i in range(0, last, step)]
    best = nlargest(16, starts, key=shared)
    matcher = SequenceMatcher(None, autojunk=False)
    matcher.set_seq2(needle)  # the cached side

    def likeness(start: int) -> float:
        matcher.set_seq1(hay[start : start + width])
        return matcher.ratio()

    start = max(best, key=likeness)
    end = start + width
    while start > 0 and not text[start - 1].isspace() and not text[start].isspace():
        start -= 1
    while end < len(text) and not text[end].isspace() and not text[end - 1].isspace():
        end += 1
    return text[start:end].strip()


def _lowered(text: str) -> str:
    """Lower case, character by character, so that positions stay what they are."""
    return "".join(low if len(low := char.lower()) == 1 else char for char in text)


def brief(value: Any, width: int = 160) -> str:
    """A value for an error's sentence: cut short, and of arrays and the like their shape alone."""
    if isinstance(value, str):
        return repr(short(value, width))
    if isinstance(value, Mapping):
        inside = (f"{brief(k, width)}: {brief(v, width)}" for k, v in value.items())
        return short(f"{{{', '.join(inside)}}}", width)
    if isinstance(value, list | tuple) and len(value) > 2:
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, list):
        return short(f"[{', '.join(brief(one, width) for one in value)}]", width)
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"{type(value).__name__} {list(shape)}"
    return short(repr(value), width)


def short(text: str, width: int = 160) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
