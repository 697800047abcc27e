"""The stable methods, as data: what each needs, how one is made for a model, where it ends.

Stable means: on every model family of the tests that it acts on, padded and not, with grouped
heads, from a cache, in half precision and beside every other stable method it equals its definition
written out in float64, or it is refused in a sentence. ``docs/compatibility.md`` is the matrix.
The other methods are experimental.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..adapters.sites import sites
from ..attach import attach
from ..engine.measures import distance, mass
from ..errors import FoveateError
from ..find._model import ModelId
from ..patterns import SlidingWindow
from .act import ACT
from .attend_to import AttendTo
from .emphasis import Emphasize
from .focus_directions import FocusDirections
from .heads import Ablate, Capture, Shift
from .hide import Hide
from .measure import Measure
from .pasta import PASTA
from .select import Select
from .sparse import DeltaCorrection
from .tuned import Choice, Tuned
from .zerotuning import ZeroTuning

__all__ = ["STABLE", "Stable", "Target"]

Stage = Literal["inputs", "select", "score", "reweight", "correct", "combine", "read"]


@dataclass(frozen=True, eq=False)
class Target:
    """What a method is made for: a stack of a model, two regions of a prompt, and their sizes.

    Attributes
    ----------
    model : torch.nn.Module
    stack : str
    region, other : str
        Names of two regions. ``first`` is a third: the first real token, as a prompt marks it.
    tokens : int
        Keys of the prompt.
    layers : int
    q, k, v, out : tuple of int
        ``[B, H, S, D]`` of a layer's queries, keys, values and head outputs.
    """

    model: nn.Module
    stack: str
    region: str
    other: str
    tokens: int
    layers: int
    q: tuple[int, ...]
    k: tuple[int, ...]
    v: tuple[int, ...]
    out: tuple[int, ...]

    @classmethod
    @torch.no_grad()
    def of(
        cls, model: nn.Module, inputs: Mapping[str, Any], region: str, other: str, stack: str = ""
    ) -> Target:
        """Look at one forward of ``model(**inputs)`` and take the sizes from it.

        Raises
        ------
        FoveateError
            For a stack that the model does not have.
        """
        stack = stack or sites(model)[0].stack
        looks = {part: Capture(part, stack=stack) for part in ("q", "k", "v", "out")}
        with attach(model, *looks.values()):
            model(**inputs)
        found = {part: tuple(look[0].shape) for part, look in looks.items()}
        depth = sum(site.stack == stack for site in sites(model))
        return cls(model, stack, region, other, found["k"][2], depth, **found)

    @property
    def causal(self) -> bool:
        """Whether the stack writes text."""
        return any(s.stack == self.stack and s.kind == "decoder" for s in sites(self.model))

    def window(self, part: int = 3, sinks: int = 1) -> SlidingWindow:
        """A window over a ``part``-th of the prompt."""
        return SlidingWindow(1 + self.tokens // part, sinks=sinks, causal=self.causal)

    def vectors(self, part: str, seed: int) -> Tensor:
        """Random directions, one for each head of ``part``: ``[H, D]``."""
        shape: tuple[int, ...] = getattr(self, part)
        g = torch.Generator().manual_seed(seed)
        return torch.randn(shape[1], shape[3], generator=g)


@dataclass(frozen=True)
class Stable:
    """One stable method.

    Attributes
    ----------
    name : str
        As in ``fv.NAME``.
    make : callable
        ``make(target, again)``: one that acts on that target, with what goes along (a window for
        what mends windows); ``again`` makes a second one beside the first.
    stages : tuple of str
        The stages of a call that it acts in. The order of methods matters within a stage; what
        looks before it edits (ACT) also depends on what was given before it.
    needs : tuple of str
        What it has to be given.
    decoding : {"alike", "each forward", "from the prompt", "full rows", "prefill only"}
        What a token generated from a cache gets, beside one forward over the whole text: the same;
        what the last query of its own forward gets; what was found in the prompt; rows computed in
        full; dense attention.
    limits : str
        Where it ends, in a sentence or two.
    """

    name: str
    make: Callable[[Target, bool], tuple[Any, ...]]
    stages: tuple[Stage, ...]
    needs: tuple[str, ...]
    decoding: str
    limits: str

    @property
    def looks(self) -> bool:
        """Whether it only looks, and changes nothing."""
        return self.name in ("Capture", "Measure")


def _tuned(at: Target, again: bool) -> tuple[Any, ...]:
    if at.stack != "decoder":
        raise FoveateError(
            f"Tuned holds patterns of a decoder's self-attention; {at.stack!r} is another stack: "
            "give it a pattern with fv.Select(pattern, stack=…)."
        )
    heads = at.q[1]
    near: Sequence[int]
    far: Sequence[int]
    near, far = ((heads - 1,), (1,)) if again else (tuple(range(heads // 2, heads)), (0,))
    choices: list[Choice] = [
        (at.window(5), {0: near}),
        (at.window(3), {0: far, at.layers - 1: far}),
    ]
    return (Tuned(choices, ModelId.of(at.model), (at.layers, heads)),)


def _focus(at: Target, again: bool) -> tuple[Any, ...]:
    found = {layer: at.vectors("q", layer + 9 * again) for layer in range(at.layers)}
    heads = {0: [at.q[1] - 1]} if again else None
    return (FocusDirections(found, -0.5 if again else 0.7, heads=heads, stack=at.stack),)


def _delta(at: Target, again: bool) -> tuple[Any, ...]:
    stack = {"stack": at.stack}
    every, last = (2, 3) if again else (3, 2) if at.tokens > 10 else (2, 1)
    return Select(at.window(sinks=2), **stack), DeltaCorrection(every, last=last, **stack)


_LISTED = (
    Stable(
        "Emphasize",
        lambda at, again: (
            Emphasize(at.other, 0.3, heads={0: [1]}, stack=at.stack)
            if again
            else Emphasize(at.region, 4.0, stack=at.stack),
        ),
        ("reweight",),
        ("a region",),
        "alike",
        "Acts on keys that a head can see: what a window has left behind gets no gain.",
    ),
    Stable(
        "PASTA",
        lambda at, again: (
            PASTA(at.other, 0.3, heads=[0], stack=at.stack)
            if again
            else PASTA(at.region, 0.1, heads={0: [1], at.layers - 1: [0, 1]}, stack=at.stack),
        ),
        ("reweight",),
        ("a region", "heads (all of them does harm)"),
        "alike",
        "Tokens generated count with the region: they are not scaled down.",
    ),
    Stable(
        "ZeroTuning",
        lambda at, again: (
            ZeroTuning(0.3, heads=[0], stack=at.stack)
            if again
            else ZeroTuning(3.0, stack=at.stack),
        ),
        ("reweight",),
        ("prompt= (for the first real token)",),
        "alike",
        "Layers whose window has left the first token behind do nothing.",
    ),
    Stable(
        "ACT",
        lambda at, again: (
            ACT(1.5, 0.6, heads=[0], layers=range(at.layers), share_first=True, stack=at.stack)
            if again
            else ACT(1.1, 0.3, layers=range(at.layers), stack=at.stack),
        ),
        ("reweight",),
        ("prompt= (for the first real token)",),
        "from the prompt",
        "Sinks are found in the prompt, under what was attached before it; new tokens never become "
        "sinks. One more pass over the prompt.",
    ),
    Stable(
        "AttendTo",
        lambda at, again: (
            AttendTo(at.region, weights="own", heads={0: [0]}, stack=at.stack)
            if again
            else AttendTo(at.region, heads=[1], stack=at.stack),
        ),
        ("score",),
        ("a region that the rows see",),
        "each forward",
        "Refused where scores hold a dense bias (T5), where a row sees nothing of the region (a "
        "window, a pattern, Hide), where two of them write the same rows, and for the last token "
        "of a batch padded on the right.",
    ),
    Stable(
        "Hide",
        lambda at, again: (
            Hide(at.region, heads=[at.q[1] - 1], stack=at.stack)
            if again
            else Hide(at.other, stack=at.stack),
        ),
        ("select",),
        ("a region",),
        "alike",
        "A query that sees nothing else has an output of 0.",
    ),
    Stable(
        "Select",
        lambda at, again: (
            Select(at.window(5), heads=[0], stack=at.stack)
            if again
            else Select(at.window(), stack=at.stack),
        ),
        ("select",),
        ("a pattern",),
        "alike",
        "Patterns count from the first real token, and show no more than the model itself does. "
        "Refused on cross-attention to keys padded on the left.",
    ),
    Stable(
        "Tuned",
        _tuned,
        ("select",),
        ("patterns found for this model (fv.tune)",),
        "prefill only",
        "Decoder self-attention of the architecture that it was tuned on.",
    ),
    Stable(
        "DeltaCorrection",
        _delta,
        ("select", "correct"),
        ("a pattern beside it",),
        "full rows",
        "Nothing without a pattern. Beside it mass, distance and block_map can be measured where "
        "there is no learned sink (GPT-OSS); ACT goes before it.",
    ),
    Stable(
        "FocusDirections",
        _focus,
        ("inputs",),
        ("directions fitted for this model (fv.find.fit_focus_directions)",),
        "alike",
        "Directions lie behind the rotary embedding: positions count from the first real token "
        "(generate passes them).",
    ),
    Stable(
        "Shift",
        lambda at, again: (
            Shift("out", at.vectors("out", 5), heads=[0], stack=at.stack)
            if again
            else Shift("v", at.vectors("v", 4), 0.5, stack=at.stack),
        ),
        ("inputs", "combine"),
        ("vectors of the heads' size",),
        "alike",
        "Shifted keys and values are the call's: the cache stays as it is.",
    ),
    Stable(
        "Ablate",
        lambda at, again: (
            Ablate({0: [0, 1]}, at.vectors("out", 6), stack=at.stack)
            if again
            else Ablate({0: [0], at.layers - 1: [1]}, stack=at.stack),
        ),
        ("combine",),
        ("heads",),
        "alike",
        "Not where a module hands out its scores alone; measures read the attention of ablated "
        "heads as it was.",
    ),
    Stable(
        "Measure",
        lambda at, again: (
            Measure(mass(at.other), stack=at.stack)
            if again
            else Measure(mass(at.region), *[distance()] * at.causal, stack=at.stack),
        ),
        ("read",),
        (),
        "alike",
        "Reads what all methods together made of the attention.",
    ),
    Stable(
        "Capture",
        lambda at, again: (Capture("q" if again else "out", stack=at.stack),),
        ("inputs", "combine"),
        (),
        "alike",
        "Keeps what the methods before it left.",
    ),
)

STABLE: dict[str, Stable] = {one.name: one for one in _LISTED}
"""The stable methods by name."""
