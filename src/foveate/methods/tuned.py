"""Patterns layer by layer and head by head, found by the tuner, kept as text."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..adapters.sites import Site
from ..engine.program import Program
from ..errors import FoveateError
from ..find._artefact import keep, kept
from ..find._model import ModelId, grid_of
from ..patterns import Pattern
from ..patterns._algebra import OnHeads
from ..patterns.written import read_pattern, write_pattern
from ._method import Method
from .select import Select

if TYPE_CHECKING:
    from ..attach import Call

__all__ = ["Tuned"]

_FORMAT = "foveate tuned patterns, version 1"
_LONGER = 1.5  # a prompt of so many times the tuned tokens is told
_FEW = 16  # questions below which the figures are told to rest on few

Choice = tuple[Pattern, Mapping[int, Sequence[int]]]


class Tuned(Method):
    """Which pattern each head of one model looks through; :func:`foveate.tune` finds it.

    Attach it like any method: ``fv.attach(model, fv.Tuned.load("tuned.json"))``. Heads that no
    choice names see everything and run on the dense kernel. The patterns hold absolute sizes: on a
    prompt of more than one and a half times the tokens that they were tuned on it warns, once, for
    they show a smaller share there (:meth:`density`). ``print(tuned)`` shows what was found.

    Parameters
    ----------
    choices : sequence of (Pattern, {layer: heads})
        No head twice.
    model : ModelId or torch.nn.Module
        Whose heads they are.
    grid : (int, int)
        Layers and heads a layer of that model.
    phase : {"prefill", None}
        ``"prefill"``: the prompt is read under the patterns, decoding is dense. None: both.
    found : mapping, optional
        How they were found: task, budget, figures of the tuning and the reporting half, versions.

    Raises
    ------
    FoveateError
        For choices that name no head, a head twice, or one outside of the grid. Attaching it
        raises for a model of another architecture, or with other layers or heads.
    """

    def __init__(
        self,
        choices: Sequence[Choice],
        model: ModelId | nn.Module,
        grid: tuple[int, int],
        *,
        phase: str | None = "prefill",
        found: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(phase=phase, stack="decoder")
        self.model = ModelId.of(model) if isinstance(model, nn.Module) else model
        self.grid = int(grid[0]), int(grid[1])
        self.choices = tuple(
            (pattern, {int(layer): tuple(heads) for layer, heads in where.items()})
            for pattern, where in choices
        )
        self.found = dict(found or {})
        taken: set[tuple[int, int]] = set()
        for pattern, where in self.choices:
            here = {(layer, head) for layer, heads in where.items() for head in heads}
            outside = [p for p in here if not (0 <= p[0] < grid[0] and 0 <= p[1] < grid[1])]
            if not isinstance(pattern, Pattern) or not here or outside or taken & here:
                raise FoveateError(
                    f"Tuned takes patterns, each with heads of its own ({{layer: heads}}, within "
                    f"{grid[0]} layers of {grid[1]} heads); {pattern!r} on "
                    f"{sorted(outside or taken & here or here)[:4]} was given."
                )
            taken |= here
        self._layers = dict(self._by_layer())
        self._told = False

    def _by_layer(self) -> Iterator[tuple[int, Pattern]]:
        for layer in range(self.grid[0]):
            parts = [(p, w[layer]) for p, w in self.choices if w.get(layer)]
            whole: Pattern | None = None
            for pattern, heads in parts:
                if len(heads) < self.grid[1]:
                    pattern = OnHeads(pattern, tuple(sorted(heads)), self.grid[1])
                whole = pattern if whole is None else whole & pattern
            if whole is not None:
                yield layer, whole

    # -- as a method -------------------------------------------------------------------------------
    def alike(self, site: Site) -> object:
        """Layers with the same patterns share a plan."""
        return self._layers.get(site.layer)

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """The program with the layer's patterns; as it is where every head sees everything."""
        pattern = self._layers.get(site.layer)
        if pattern is None:
            return program
        self._tell(call.shapes.Sk + call.kv_offset)
        return Select(pattern).rewrite(program, site, call)

    def _tell(self, tokens: int) -> None:
        tuned = self.found.get("tokens")
        if self._told or not tuned or tokens <= _LONGER * tuned:
            return
        self._told = True
        warnings.warn(
            f"These patterns were tuned at {tuned} tokens and keep their sizes; this prompt has "
            f"{tokens}, of which they show a smaller share (tuned.density({tokens}) says which). "
            "Whether the accuracy holds there was not asked: tune at the length that you use.",
            UserWarning,
            stacklevel=3,
        )

    def hooks(self, model: nn.Module, here: Sequence[Site]) -> Iterator[Any]:
        """None; refuses a model that the patterns were not found in."""
        self.check_model(model)
        return iter(())

    def check_model(self, model: nn.Module) -> Tuned:
        """Refuse another architecture, or one with other layers or heads; weights may differ.

        :meth:`same` tells whether they do.
        """
        grid = grid_of(model, "decoder")
        if type(model).__name__ != self.model.architecture or grid != self.grid:
            raise FoveateError(
                f"These patterns were tuned for {self.model.name}, a {self.model.architecture} of "
                f"{self.grid[0]} layers of {self.grid[1]} heads; this is a {type(model).__name__} "
                f"of {grid[0]} of {grid[1]}: tune it with fv.tune(model, …) or foveate tune."
            )
        return self

    def same(self, model: nn.Module) -> bool:
        """Whether they were tuned on these very weights."""
        return ModelId.of(model).fingerprint == self.model.fingerprint

    # -- what was found ----------------------------------------------------------------------------
    @property
    def holds(self) -> bool | None:
        """Whether the accuracy held on the reporting half; None if it was not asked."""
        return self.found.get("holds")

    @property
    def remarks(self) -> list[str]:
        """What to mind about what was found, a sentence each: no faster than dense; few asked."""
        said, times = [], self.found.get("times_dense")
        if times is not None and times >= 1:
            said.append(
                f"It is not faster: {times:.2f} × dense's time at this length. Leave it dense, or "
                "tune at the longer prompts that you have."
            )
        asked = sum(
            self.found[half][0]["n"] for half in ("tuning", "reporting") if self.found.get(half)
        )
        if 0 < asked < _FEW:
            said.append(
                f"Only {asked} questions were asked: the figures and the interval rest on few; "
                f"take {_FEW} or more."
            )
        return said

    def density(self, tokens: int) -> float:
        """The share of the causal triangle of ``tokens`` that is seen, mean over layers and heads.

        1 is dense attention. The sizes are absolute: the longer the prompt, the smaller the share.

        Raises
        ------
        FoveateError
            For a number of tokens that is no whole number from 1; patterns that look at the
            content, which have no density before it is there.
        """
        from ..find.tuning.families import share  # it needs this module

        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
            raise FoveateError(f"density({tokens!r}): a number of tokens, from 1, was wanted.")
        seen = float(self.grid[0] * self.grid[1])
        for pattern, where in self.choices:
            heads = [head for some in where.values() for head in some]
            if pattern.heads is None:
                seen -= len(heads) * (1 - share(pattern, tokens))
            else:
                seen -= sum(1 - share(pattern.on(0, head), tokens) for head in heads)
        return seen / (self.grid[0] * self.grid[1])

    def pattern_of(self, layer: int, head: int) -> Pattern | None:
        """What one head looks through; None: everything."""
        for pattern, where in self.choices:
            if head in where.get(layer, ()):
                return pattern
        return None

    def save(self, path: str | Path) -> Path:
        """Write them as JSON, one line a choice's layer; the path is returned."""
        choices = [
            {"pattern": write_pattern(pattern), "heads": {str(k): list(v) for k, v in w.items()}}
            for pattern, w in self.choices
        ]
        data = {
            "model": vars(self.model),
            "stack": "decoder",
            "layers": self.grid[0],
            "heads": self.grid[1],
            "phase": self.scope.phase,
            "choices": choices,
            **{"found": self.found},
        }
        return keep(path, _FORMAT, data)

    @classmethod
    def load(cls, path: str | Path) -> Tuned:
        """Read what :meth:`save` (or ``foveate tune --out``) wrote.

        Raises
        ------
        FoveateError
            If the file cannot be read, is none of ours, or names patterns there are not.
        """
        with kept(path, _FORMAT, "Tuned patterns") as data:
            choices = [
                (read_pattern(one["pattern"]), {int(k): v for k, v in one["heads"].items()})
                for one in data["choices"]
            ]
            grid = int(data["layers"]), int(data["heads"])
            model, phase = ModelId(**data["model"]), data["phase"]
            return cls(choices, model, grid, phase=phase, found=data["found"])

    def __repr__(self) -> str:
        heads = sum(len(h) for _, where in self.choices for h in where.values())
        kinds = ", ".join(dict.fromkeys(repr(pattern) for pattern, _ in self.choices))
        return f"Tuned({kinds or 'dense'}; {heads} of {self.grid[0] * self.grid[1]} heads)"

    def __str__(self) -> str:
        found, lines = self.found, [f"{self!r} of {self.model.name}"]
        if found.get("plan"):
            verdict = "holds" if found.get("holds") else "does not hold"
            lines[0] = (
                f"{found['plan']} {verdict} on {found['task']}, {found['tokens']} tokens "
                f"({self.model.name})"
            )
        if found.get("reporting"):
            lines.append(f"  {'reporting half':40} density  right  log p  s/prompt")
            lines += [
                f"  {row['plan'][:40]:40} {row['density']:7.3f} {row['right']:3}/{row['n']:<3}"
                f"{row['logp']:6.2f} {row['seconds']:9.2f}"
                for row in found["reporting"]
            ]
        for pattern, where in self.choices:
            heads = sum(map(len, where.values()))
            lines.append(f"  {pattern!r}: {heads} heads in {len(where)} layers")
        return "\n".join([*lines, *self.remarks])
