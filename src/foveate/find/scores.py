"""One number for every head of a model, and the heads that it chooses."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import display
from ..errors import FoveateError
from ._artefact import keep, kept
from ._model import ModelId, grid_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["HeadScores", "Heads"]

_FORMAT = "foveate head scores, version 1"
_NAMED = 8  # heads that a notebook names


class Heads(list[tuple[int, int]]):
    """``(layer, head)`` pairs that remember the grid they were chosen from.

    An ordinary list for all that takes ``heads=``; what attaches it can refuse a model of another
    size.

    Attributes
    ----------
    grid : tuple of int
        Layers and heads a layer of the model that was scored.
    """

    def __init__(self, pairs: Iterable[tuple[int, int]], grid: tuple[int, int]) -> None:
        super().__init__(pairs)
        self.grid = grid


@dataclass(frozen=True, eq=False)
class HeadScores:
    """A score for every head, ``[layers, heads]``; higher means more of what ``kind`` names.

    Parameters
    ----------
    kind : str
        What was scored: ``"retrieval"``, ``"sink"``, …
    values : Tensor
        ``[layers, heads]``, float; NaN where a head has no score (it is never chosen).
    model : ModelId or torch.nn.Module
        Whose heads they are. A model is turned into its identity: name, class, fingerprint.
    settings : mapping, optional
        How they were found, JSON-able: prompts, seeds, thresholds.
    stack : str
        The stack whose layers are meant.

    Raises
    ------
    FoveateError
        For values that are no float grid, or settings that JSON cannot hold.

    Examples
    --------
    >>> scores = fv.find_heads(model, tokenizer, "retrieval")
    >>> with fv.attach(model, fv.Ablate(heads=scores.top(0.05))): ...
    """

    kind: str
    values: Tensor
    model: ModelId
    settings: Mapping[str, Any] = field(default_factory=dict)
    stack: str = "decoder"

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or not self.kind:
            raise FoveateError(f"kind={self.kind!r} was given; what is scored has a name.")
        values = self.values
        if not isinstance(values, Tensor) or values.dim() != 2 or not values.numel():
            shape = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise FoveateError(f"HeadScores takes values [layers, heads]; {shape} was given.")
        object.__setattr__(self, "values", values.detach().float().cpu().contiguous())
        if isinstance(self.model, nn.Module):
            object.__setattr__(self, "model", ModelId.of(self.model))
        if not isinstance(self.model, ModelId):
            raise FoveateError(f"HeadScores takes the model that was scored, not {self.model!r}.")
        try:
            settings = json.loads(json.dumps(dict(self.settings), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise FoveateError(f"The settings of HeadScores go into JSON: {error}.") from error
        object.__setattr__(self, "settings", settings)

    # -- what there is -----------------------------------------------------------------------------
    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.values.shape[0]

    @property
    def heads(self) -> int:
        """Heads a layer."""
        return self.values.shape[1]

    def __getitem__(self, pair: tuple[int, int]) -> float:
        layer, head = pair
        return float(self.values[layer, head])

    # -- choosing ----------------------------------------------------------------------------------
    def top(self, k: int | float, lowest: bool = False) -> Heads:
        """The heads with the highest scores, best first.

        Parameters
        ----------
        k : int or float
            A whole number of heads, or a fraction of all in (0, 1) (at least one head).
        lowest : bool
            Those with the lowest scores instead, lowest first.

        Returns
        -------
        Heads
            ``[(layer, head), …]``, for ``heads=``. Among equals the earlier layer and head comes
            first.

        Raises
        ------
        FoveateError
            For no such number of heads that have a score.
        """
        scored = [pair for pair in self._pairs() if not math.isnan(self[pair])]
        count = self._count(k, len(scored))
        sign = 1 if lowest else -1
        return self._heads(sorted(scored, key=lambda pair: sign * self[pair])[:count])

    def above(self, threshold: float) -> Heads:
        """The heads whose score exceeds ``threshold``, best first; possibly none."""
        return self._heads(p for p in self.top(self._scored) if self[p] > threshold)

    def random(
        self, k: int | float, seed: int = 0, exclude: Iterable[tuple[int, int]] = ()
    ) -> Heads:
        """As many heads drawn blindly: the control that a claim about ``top(k)`` needs.

        Parameters
        ----------
        k : int or float
            As in :meth:`top`; a fraction is one of all heads, the excluded ones included.
        seed : int
        exclude : iterable of (int, int)
            Heads not to draw, usually ``top(k)`` itself.
        """
        barred = {(int(layer), int(head)) for layer, head in exclude}
        pool = [pair for pair in self._pairs() if pair not in barred]
        return self._heads(sorted(random.Random(seed).sample(pool, self._count(k, len(pool)))))

    # -- whose heads -------------------------------------------------------------------------------
    def check(self, model: nn.Module) -> HeadScores:
        """Refuse a model that has other layers or heads; returns the scores.

        A model of the same size but other weights (a fine-tune) passes; :meth:`same` tells.
        """
        grid = grid_of(model, self.stack)
        if grid != (self.layers, self.heads):
            raise FoveateError(
                f"These {self.kind} scores are of {self.model.name}, {self.layers} layers of "
                f"{self.heads} heads in {self.stack!r}; {type(model).__name__} has {grid[0]} of "
                f"{grid[1]}: score its own heads with fv.find_heads(model, …)."
            )
        return self

    def same(self, model: nn.Module) -> bool:
        """Whether the scores were made with these very weights."""
        return ModelId.of(model).fingerprint == self.model.fingerprint

    # -- keeping -----------------------------------------------------------------------------------
    def save(self, path: str | Path) -> Path:
        """Write them as JSON; the path is returned."""
        data = {
            "kind": self.kind,
            "model": vars(self.model),
            "stack": self.stack,
            "settings": self.settings,
            "values": [[None if math.isnan(x) else x for x in row] for row in self.values.tolist()],
        }
        return keep(path, _FORMAT, data)

    @classmethod
    def load(cls, path: str | Path) -> HeadScores:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FoveateError
            If the file cannot be read or is none of ours.
        """
        with kept(path, _FORMAT, "Head scores") as data:
            values = [[math.nan if x is None else float(x) for x in row] for row in data["values"]]
            model = ModelId(**data["model"])
            return cls(data["kind"], torch.tensor(values), model, data["settings"], data["stack"])

    # -- showing -----------------------------------------------------------------------------------
    def to_pandas(self) -> pd.DataFrame:
        """One row a head: ``layer, head, score``. Needs pandas."""
        try:
            import pandas as pd
        except ImportError as error:
            raise FoveateError("to_pandas() needs pandas: pip install pandas.") from error
        layers, heads = zip(*self._pairs(), strict=True)
        return pd.DataFrame({"layer": layers, "head": heads, "score": self.values.flatten()})

    def plot(self) -> go.Figure:
        """A heat map, layers by heads. Needs plotly (``pip install 'foveate[plots]'``)."""
        try:
            import plotly.graph_objects as go
        except ImportError as error:
            raise FoveateError("plot() needs plotly: pip install 'foveate[plots]'.") from error
        label = "layer %{y}, head %{x}: %{z:.4g}<extra></extra>"
        grid = go.Heatmap(z=self.values.tolist(), colorscale="Oranges", hovertemplate=label)
        figure = go.Figure(grid)
        figure.update_layout(
            title=f"{self.kind} heads · {self.model.name}", xaxis_title="head", yaxis_title="layer"
        )
        figure.update_yaxes(autorange="reversed")
        return figure

    def _repr_html_(self) -> str:
        """A heat map, the highest heads by name, and how they were found."""
        picture = display.heat(self.values, range(self.layers), f"{self.kind} · {self.model.name}")
        best = self.top(min(_NAMED, self._scored)) if self._scored else Heads((), (0, 0))
        most = max((abs(self[pair]) for pair in best), default=0.0) or 1.0
        rows = [
            (f"{layer}.{head}", f"{self[layer, head]:.4g}", display.bar(self[layer, head] / most))
            for layer, head in best
        ]
        unscored = self.values.numel() - self._scored
        how = [(name, shorten(str(value), 300)) for name, value in self.settings.items()]
        how += [("fingerprint", self.model.fingerprint)]
        return display.lines(
            display.beside(
                picture, display.table(("layer.head", "score", ""), rows) if rows else ""
            ),
            display.note(f"{unscored} heads have no score") if unscored else "",
            display.folded("how they were found", display.table(("setting", "value"), how, 2)),
        )

    def __repr__(self) -> str:
        chosen = self.top(min(3, self._scored)) if self._scored else ()
        best = ", ".join(f"{a}.{b} {self[a, b]:.3g}" for a, b in chosen) or "none"
        return (
            f"HeadScores({self.kind!r}, {self.layers} layers × {self.heads} heads of "
            f"{self.model.name}; top {best})"
        )

    # -- details -----------------------------------------------------------------------------------
    @property
    def _scored(self) -> int:
        return int((~self.values.isnan()).sum())

    def _pairs(self) -> list[tuple[int, int]]:
        return [(layer, head) for layer in range(self.layers) for head in range(self.heads)]

    def _heads(self, pairs: Iterable[tuple[int, int]]) -> Heads:
        return Heads(pairs, (self.layers, self.heads))

    def _count(self, k: int | float, most: int) -> int:
        if isinstance(k, float) and 0 < k < 1:
            k = max(1, round(k * self.values.numel()))
        if isinstance(k, bool) or not isinstance(k, int) or not 0 < k <= most:
            raise FoveateError(
                f"k={k!r} heads were asked for; a whole number from 1 to {most}, or a fraction "
                "between 0 and 1, was wanted."
            )
        return k
