"""What a patch did to the metric, for every place that was patched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...display import heat
from ...errors import FoveateError
from .._artefact import keep, kept
from .._model import ModelId
from ..scores import Heads, HeadScores

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["PatchScores", "named"]

_FORMAT = "foveate patch scores, version 1"


@dataclass(frozen=True, eq=False)
class PatchScores:
    """The metric under each patch, beside the metric without it.

    Attributes
    ----------
    kind : str
        ``"activation patching"`` or ``"path patching"``.
    what : str
        What the axes of ``patched`` are: ``"heads"`` ``[layers, heads]``, ``"layers"``
        ``[layers]``, either ``"… × positions"`` with positions behind.
    patched : Tensor
        Metric ``[…, B]`` under each patch; NaN where there is no path.
    base, other : Tensor
        Metric ``[B]`` of the run that was patched, and of the run the patches come from.
    model : ModelId
    settings : mapping
    tokens : sequence of str
        Of the first pair, for the axis of positions.
    """

    kind: str
    what: str
    patched: Tensor
    base: Tensor
    other: Tensor
    model: ModelId
    settings: Mapping[str, Any] = field(default_factory=dict)
    tokens: Sequence[str] = ()

    @property
    def change(self) -> Tensor:
        """Change of the metric, mean over the pairs, in its own unit: ``[…]``."""
        return (self.patched - self.base).mean(-1)

    @property
    def share(self) -> Tensor:
        """The change as a share of the whole difference between the runs: ``[…]``.

        0 is nothing, 1 all that the other run would do, below 0 the opposite of it: the mean change
        over the mean difference, as Merullo et al. (2023) normalise.

        Raises
        ------
        FoveateError
            Where the two runs do not differ.
        """
        whole = float((self.other - self.base).mean())
        if abs(whole) < 1e-6:
            raise FoveateError(
                "The two runs have the same metric on average, so no patch is a share of their "
                "difference: read .change, or give pairs whose answers differ."
            )
        return self.change / whole

    def top(self, k: int | float = 10) -> Heads:
        """The heads that change the metric most, either way, strongest first."""
        return self._scores(self.change.abs()).top(k)

    def ranked(self) -> Heads:
        """All heads that have a path, the strongest first."""
        return self._scores(self.change.abs()).top(int((~self.change.isnan()).sum()))

    def heads(self) -> HeadScores:
        """The shares as :class:`~foveate.find.scores.HeadScores`, for ``heads=`` of any method."""
        return self._scores(self.share)

    def _scores(self, values: Tensor) -> HeadScores:
        if self.what != "heads":
            raise FoveateError(
                f'These scores are of {self.what}; only those of what="heads" choose heads.'
            )
        return HeadScores(self.kind, values, self.model, self.settings)

    # -- keeping -----------------------------------------------------------------------------------
    def save(self, path: str | Path) -> Path:
        """Write them as JSON; the path is returned."""
        flat = [None if math.isnan(x) else x for x in self.patched.flatten().tolist()]
        data = {
            "kind": self.kind,
            "what": self.what,
            "shape": list(self.patched.shape),
            "patched": flat,
            "base": self.base.tolist(),
            "other": self.other.tolist(),
            "model": vars(self.model),
            "settings": dict(self.settings),
            "tokens": list(self.tokens),
        }
        return keep(path, _FORMAT, data)

    @classmethod
    def load(cls, path: str | Path) -> PatchScores:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FoveateError
            If the file cannot be read or is none of ours.
        """
        with kept(path, _FORMAT, "Patch scores") as data:
            flat = [math.nan if x is None else x for x in data["patched"]]
            return cls(
                data["kind"], data["what"], torch.tensor(flat).reshape(data["shape"]),
                torch.tensor(data["base"]), torch.tensor(data["other"]),
                ModelId(**data["model"]), data["settings"], data["tokens"],
            )  # fmt: skip

    # -- showing -----------------------------------------------------------------------------------
    def _grid(self) -> tuple[Tensor, str]:
        """Two axes, and what the second is; heads × positions keeps each layer's strongest head."""
        change = self.change
        if change.dim() == 3:
            best = change.abs().nan_to_num(-1).argmax(1, keepdim=True)
            return change.gather(1, best)[:, 0], "position (strongest head)"
        if change.dim() == 1:
            return change[:, None], self.what
        return change, "position" if "positions" in self.what else "head"

    def plot(self) -> go.Figure:
        """A heat map of the change. Needs plotly (``pip install 'foveate[plots]'``)."""
        try:
            import plotly.graph_objects as go
        except ImportError as error:
            raise FoveateError("plot() needs plotly: pip install 'foveate[plots]'.") from error
        grid, second = self._grid()
        names = None
        if second.startswith("position") and self.tokens:
            names = [f"{i} {token}" for i, token in enumerate(self.tokens)]
        figure = go.Figure(go.Heatmap(z=grid.tolist(), x=names, colorscale="RdBu", zmid=0))
        figure.update_layout(title=self._title(), xaxis_title=second, yaxis_title="layer")
        return figure

    def _title(self) -> str:
        unit = self.settings.get("metric", "metric")
        return f"{self.kind}, {self.what} · {self.model.name} · change of {unit}"

    def _repr_html_(self) -> str:
        grid, _ = self._grid()
        return heat(grid, range(grid.shape[0]), self._title())

    def __repr__(self) -> str:
        base, other = float(self.base.mean()), float(self.other.mean())
        shape = " × ".join(map(str, self.patched.shape[:-1]))
        return (
            f"PatchScores({self.kind}, {self.what} [{shape}] of {self.model.name}, "
            f"{self.base.numel()} pairs; {base:.3g} patched from {other:.3g})"
        )


def named(value: Any) -> Any:
    """A choice as JSON holds it."""
    if isinstance(value, Tensor):
        return "a tensor"
    if callable(value):
        return getattr(value, "__name__", "a function")
    return list(value) if isinstance(value, tuple | list) else value
