"""HeadHunter: the heads that make pictures best when a denoiser is guided away from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .._implements import implements
from ..adapters.diffusers import opened
from ..adapters.sites import Site, sites
from ..attach import attach
from ..errors import FoveateError
from ..methods.diffusion.pag import PAG
from .scores import Heads, HeadScores

__all__ = ["HeadHunt", "head_hunter"]

Head = tuple[int, int]
Objective = Callable[[Sequence[str], Sequence[Any]], Iterable[float]]


@dataclass(frozen=True, eq=False)
class HeadHunt:
    """What was found by :func:`head_hunter`.

    Attributes
    ----------
    heads : Heads
        ``(layer, head)`` in the order in which they were taken.
    scores : HeadScores
        Mean objective of the pictures guided by each head alone (the first round). ``top(k)`` are
        the heads of a hunt of one round.
    rounds : tuple of dict
        Mean objective for each head that was added to those taken before, a round.
    curve : tuple of float
        Mean objective without guidance, then with the heads taken after each round.
    guide : mapping
        What the guidance was hunted with, besides the heads.
    """

    heads: Heads
    scores: HeadScores
    rounds: tuple[Mapping[Head, float], ...]
    curve: tuple[float, ...]
    guide: Mapping[str, Any]

    @property
    def best(self) -> Heads:
        """The heads after the round with the highest mean; none where no round beat the start."""
        taken = max(range(len(self.curve)), key=lambda n: self.curve[n])
        each = len(self.heads) // (len(self.curve) - 1)
        return Heads(self.heads[: taken * each], self.heads.grid)

    def method(self, heads: Sequence[Head] | None = None, **changes: Any) -> PAG:
        """The guidance with the heads found, ``heads=best`` say; ``changes`` as ``strength=0.5``.

        The paper hunts at full strength and softens afterwards.
        """
        return PAG(**{**self.guide, "heads": self.heads if heads is None else heads, **changes})


@implements("headhunter-softpag", basis="paper")
@torch.no_grad()
def head_hunter(
    pipeline: Any,
    prompts: Sequence[str],
    objective: Objective,
    *,
    rounds: int = 5,
    per_round: int = 3,
    among: Iterable[Head] | None = None,
    stack: str | None = None,
    guide: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch: int = 32,
    progress: Callable[[str], None] = lambda told: None,
    **options: Any,
) -> HeadHunt:
    """Grow a set of heads for :class:`foveate.methods.PAG`, by an objective on the pictures.

    Each round draws the prompts once for each head that is left, guided by it together with the
    heads taken so far, and takes the ``per_round`` with the highest mean objective.

    Parameters
    ----------
    pipeline
        Of diffusers, text to image.
    prompts : sequence of str
        Drawn once each; the noise of prompt ``i`` is that of ``seed + i``, the same for all heads.
    objective : callable
        ``objective(prompts, pictures)``: a number for each picture, higher is better.
    rounds, per_round : int
        5 and 3 for a style, 1 and 24 of 576 heads for general quality in the paper.
    among : iterable of (layer, head), optional
        The heads that may be taken. Default: all of the stack.
    stack : str, optional
        Of self-attention or joint attention. Default: the only one.
    guide : mapping, optional
        Of :class:`~foveate.methods.PAG`: ``scale``, ``strength``, ``tokens``, ``steps``. Default:
        scale 3 at full strength.
    seed, batch : int
        Pictures at once change nothing but the speed.
    progress : callable, optional
        Told of each round and head.
    **options
        Go to the pipeline: ``num_inference_steps``, ``guidance_scale`` (the paper hunts without
        classifier-free guidance).

    Returns
    -------
    HeadHunt

    Raises
    ------
    FoveateError
        No prompts; more heads wanted than there are; a stack that is none or several; an objective
        that does not give one finite number a picture.

    Notes
    -----
    Algorithm 1 of Ahn et al. (2025), and the official ``pipeline_distributed.py``. Heads are taken
    in every round, also if the objective falls: ``curve`` (which the paper draws as validation
    images) tells. Cost: rounds × heads × prompts pictures, each of two forwards a step.

    Examples
    --------
    >>> import foveate as fv
    >>> from foveate.find import head_hunter
    >>> from foveate.tasks.shapes.drawing import judged, prompts
    >>> pipe, _ = fv.load("shapes-dit")
    >>> right = lambda texts, pictures: [told.right for told in judged(texts, pictures)]
    >>> short = {"num_inference_steps": 3, "guidance_scale": 1}
    >>> among = [(1, 0), (2, 3)]
    >>> hunt = head_hunter(pipe, prompts(1, 2), right, rounds=1, per_round=1, among=among, **short)
    >>> print(hunt.heads, hunt.curve)
    """
    asked = list(prompts)
    if isinstance(prompts, str) or not asked:
        raise FoveateError("head_hunter takes a list of prompts, at least one.")
    guide = {"scale": 3.0, "strength": 1.0, **(guide or {}), "stack": stack}
    here = _sites(pipeline, PAG(**guide))
    pool = [(s.layer, h) for s in here for h in range(s.heads or 0)]
    if among is not None:
        wanted = list(dict.fromkeys((int(layer), int(head)) for layer, head in among))
        if not set(wanted) <= set(pool):
            raise FoveateError(
                f"among= names {sorted(set(wanted) - set(pool))}; {here[0].stack!r} has layers 0–"
                f"{here[0].depth - 1} of heads 0–{(here[0].heads or 1) - 1}."
            )
        pool = wanted
    if min(rounds, per_round) < 1 or rounds * per_round > len(pool):
        raise FoveateError(
            f"rounds={rounds!r} of per_round={per_round!r} heads were asked for, out of "
            f"{len(pool)}; at least one of each, and no more than there are."
        )

    def drawn(heads: list[Head]) -> float:
        methods = [PAG(**guide, heads=heads)] if heads else []
        told: list[float] = []
        for first in range(0, len(asked), batch):
            part = asked[first : first + batch]
            noise = [torch.Generator().manual_seed(seed + first + i) for i in range(len(part))]
            with attach(pipeline, *methods):
                pictures = pipeline(part, generator=noise, **options).images
            told += _numbers(objective(part, pictures), len(part))
        return sum(told) / len(told)

    taken: list[Head] = []
    curve, seen = [drawn([])], []
    for turn in range(rounds):
        found: dict[Head, float] = {}
        for head in pool:
            if head not in taken:
                progress(f"round {turn + 1} of {rounds}: layer {head[0]}, head {head[1]}")
                found[head] = drawn([*taken, head])
        taken += sorted(found, key=lambda head: -found[head])[:per_round]
        seen.append(found)
        last = found[taken[-1]] if per_round == 1 else drawn(taken)
        curve.append(last)
    grid = here[0].depth, here[0].heads or 0
    values = torch.full(grid, float("nan"))
    for (layer, index), value in seen[0].items():
        values[layer, index] = value
    settings = {"prompts": len(asked), "seed": seed, "guide": {**guide, "stack": here[0].stack}}
    scores = HeadScores(
        "guidance", values, opened(pipeline).get_submodule(here[0].name.split(".")[0]), settings,
        here[0].stack,
    )  # fmt: skip
    return HeadHunt(Heads(taken, grid), scores, tuple(seen), tuple(curve), guide)


def _sites(pipeline: Any, method: PAG) -> list[Site]:
    """The attention sites to hunt in: one stack of as many heads a layer."""
    if not hasattr(pipeline, "components"):
        raise FoveateError(
            f"head_hunter draws with a pipeline of diffusers; {type(pipeline).__name__} was given: "
            'pipe, _ = fv.load("shapes-dit").'
        )
    here: list[Site] = method.scope.select(sites(opened(pipeline)), "head_hunter")
    for site in here:
        method.check(site)
    if len({site.stack for site in here}) != 1:
        names = ", ".join(dict.fromkeys(repr(site.stack) for site in here))
        raise FoveateError(f"stack={method.scope.stack!r} names several: {names}. Give one.")
    return here


def _numbers(given: Iterable[float], count: int) -> list[float]:
    numbers = [float(value) for value in given]
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise FoveateError(
            f"The objective gave {len(numbers)} numbers for {count} pictures "
            f"({numbers[:4]}…); one finite number a picture was wanted."
        )
    return numbers
