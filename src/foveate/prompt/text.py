"""Finding a piece of text, or the piece that is most like it."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from heapq import nlargest
from itertools import accumulate

__all__ = ["find", "nearest", "short"]


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


def short(text: str, width: int = 160) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
