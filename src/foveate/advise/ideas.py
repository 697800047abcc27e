"""What can be tried: methods by rule, prompts written anew, patterns; always "change nothing".

Which, in what order and how strong comes from what was measured: docs/candidates.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from ..decoding import ChunkedPrefill
from ..methods import ACT, AutoPASTA, DeltaCorrection, Emphasize, Select, ZeroTuning
from ..patterns import PowerAttention, SlidingWindow
from ..policy.rewrites import REWRITES
from ..policy.rules import RULES

__all__ = ["Idea", "Kind", "accurate", "cheap"]

Kind = Literal["nothing", "prompt", "method", "pattern"]
_LATE = "later layers fetch the answer: they look at the closest passage more, the rest as before"
_ENOUGH = 512  # tokens of a prompt from which a pattern can pay


@dataclass(frozen=True)
class Idea:
    """Something to try, before it is known whether it fits.

    ``needs`` names rules that must find something, beside those of its regions; ``refused`` says
    why it does not go with the lengths of the items.
    """

    name: str
    why: str
    rewrites: tuple[str, ...] = ()
    methods: tuple[Any, ...] = ()
    needs: tuple[str, ...] = ()
    refused: str | None = None

    @property
    def kind(self) -> Kind:
        """A rewrite together with a method is a method."""
        if not self.methods:
            return "prompt" if self.rewrites else "nothing"
        sparse = (Select, DeltaCorrection, ChunkedPrefill)
        return "pattern" if all(isinstance(one, sparse) for one in self.methods) else "method"

    @property
    def rules(self) -> tuple[str, ...]:
        """Rules that must find something in an item."""
        named = [name for one in self.methods for name in getattr(one, "regions", ())]
        return (*(name for name in named if name in RULES), *self.needs)


# ------------------------------------------------------------------------------ right answers


def accurate(depth: int) -> list[Idea]:
    """For a model of so many layers, the most promising first.

    Where time is short only the first are tried, so that kinds are mixed there.
    """
    late = list(range(depth // 2, depth)) if depth > 3 else []

    def gain(region: str, by: float, layers: list[int] | None = None, more: str = "") -> Idea:
        where = f", layers {layers[0]}–{layers[-1]}" if layers else ""
        strong = more or RULES[region].why
        return Idea(f"{region} × {by:g}{where}", strong,
                     methods=(Emphasize(region, float(by), layers=layers),))  # fmt: skip

    def prompt(name: str) -> Idea:
        return Idea(name, REWRITES[name].why, (name,))

    def pair(name: str, region: str, by: float) -> Idea:
        why = f"{REWRITES[name].why}; and {RULES[region].why}"
        return Idea(f"{name} + {region} × {by:g}", why, (name,), (Emphasize(region, float(by)),))

    told = "the model itself says which passage matters: the one behind which it finds the question"
    return [
        Idea("nothing", "the model as it is"),
        gain("closest passage", 5),
        prompt("closest passage first"),
        gain("closest sentence", 5),
        pair("closest passage last", "closest passage", 5),
        prompt("closest passages only"),
        *([gain("closest passage", 5, late, _LATE)] if late else []),
        pair("question twice", "closest passage", 5),
        gain("closest sentence", 12),
        gain("closest passage", 12),
        Idea("AutoPASTA × 5", told, methods=(_autopasta(5.0),), needs=("closest passage",)),
        gain("closest passage", 2),
        prompt("passages by similarity"),
        gain("question", 5),
        gain("instruction", 2),
        prompt("instructions twice"),
        prompt("question twice"),
        gain("passages", 2),
        prompt("quote first"),
        prompt("closest passage last"),
        prompt("short answer"),
        *(
            Idea(f"first token × {by:g}", why, methods=(ZeroTuning(by),))
            for by, why in (
                (0.5, "less for the first token, more for what is read"),
                (1.5, "more for the first token evens out the rest"),
            )
        ),
        Idea("ACT", "attention that sinks in mid-sentence is given back", methods=(ACT(),)),
    ]


def _autopasta(gain: float) -> AutoPASTA:
    return AutoPASTA(None, math.log(gain), by="likelihood", unit="passage")


# ------------------------------------------------------------------------------ speed and memory


def cheap(goal: str, depth: int, length: int) -> list[Idea]:
    """For speed or memory, on prompts of so many tokens."""
    short = (
        f"the prompts have {length} tokens (median); under {_ENOUGH} attention is too small a part "
        "for a pattern to pay"
        if length < _ENOUGH
        else None
    )

    def pattern(name: str, why: str, *methods: Any) -> Idea:
        return Idea(name, why, methods=methods, refused=short)

    def window(part: int) -> SlidingWindow:
        return SlidingWindow(_round(length / part), sinks=4)

    patterns: list[Idea] = []
    for part in (4, 2, 8):
        near, size = window(part), _round(length / part)
        named = f"window {size} + 4 sinks"
        patterns.append(pattern(
            f"{named}, last 128 in full", "who asks sees everything, who reads sees what is near",
            Select(near), DeltaCorrection(None, last=128)))  # fmt: skip
        patterns.append(pattern(named, f"each token sees the {size} before it", Select(near)))
    late = list(range(depth // 3, depth))
    if late:
        patterns.append(pattern(
            f"window {_round(length / 4)} + 4 sinks, prefill of layers {late[0]}–{late[-1]}",
            "the first layers and the answer see everything",
            Select(window(4), layers=late, phase="prefill")))  # fmt: skip
    power = PowerAttention(block=_round(length / 16), window=2, sinks=1)
    patterns.append(pattern("PowerAttention", "near blocks, and blocks far off by powers of two",
                            Select(power)))  # fmt: skip
    sizes = [size for size in (1024, 512, 256, 128, 64) if size < length][:3]
    chunks = [
        Idea(f"prefill {size} tokens at a time", "the same answer with less memory at once",
              methods=(ChunkedPrefill(size),))
        for size in sizes
    ]  # fmt: skip
    fewer = [
        Idea(name, REWRITES[name].why, (name,))
        for name in ("closest passages only", "short answer")
    ]
    first = [Idea("nothing", "the model as it is")]
    rest = [*chunks, *patterns] if goal == "memory" else [*patterns, *chunks]
    return [*first, *fewer, *rest]


def _round(tokens: float) -> int:
    return max(16, round(tokens / 16) * 16)
