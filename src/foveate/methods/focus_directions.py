"""Focus directions: one learned vector a head turns its queries towards what is relevant."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .._implements import implements
from ..errors import FoveateError
from ..find._model import ModelId
from .heads import Shift

__all__ = ["FocusDirections"]

_FORMAT = "foveate focus directions, version 1"


@implements("focus-directions", basis="paper", maturity="stable")
class FocusDirections(Shift):
    """Add ``alpha`` times a direction to the queries of contextual heads.

    With ``d`` a head's direction the score of key ``j`` grows by ``alpha d·k_j / sqrt(D)`` in every
    row: keys that lie along ``d`` are looked at more, whichever text they belong to. Nothing has to
    say what is relevant; that was learned (:func:`~foveate.find.focus.fit_focus_directions`). The
    queries are shifted behind the rotary embedding: no pass, no matrix.

    Parameters
    ----------
    directions : mapping of int to Tensor
        Layer -> ``[Hq, D]``.
    alpha : float
        0.2 in the authors' scripts; negative turns away, 0 changes nothing.
    heads : dict, list of (layer, head) or ``HeadScores.top(k)``, optional
        Where it acts, the authors' top 20 contextual heads; default: all that have a direction.
    layers, phase, stack, steps
        As in :class:`~foveate.methods._method.Method`.
    model : ModelId, optional
        Whose directions they are.

    Attributes
    ----------
    directions : dict of int to Tensor

    Raises
    ------
    FoveateError
        For directions of another form, and heads in layers without any.

    Notes
    -----
    Zhu et al., "Focus Directions Make Your Language Models Pay More Attention to Relevant Contexts"
    (2025), and the authors' code (``edit_models/head_kq_directions``). That code also adds a vector
    to every key, behind the rotary embedding as well. What it adds to a row's scores,
    ``(q_i + alpha d)·d_k``, is the same for all keys and cancels in the softmax: such a vector has
    no effect and, its gradient being 0, learns nothing. So there is none here.

    Examples
    --------
    >>> import foveate as fv
    >>> from foveate.find import contextual_scores, fit_focus_directions
    >>> model, tokenizer = fv.load("smollm2")
    >>> items = fv.tasks.Distractors(n=12, template="facts").items(tokenizer)
    >>> learn = items[4:]  # their "evidence" is marked
    >>> scores = fv.HeadScores("contextual", contextual_scores(model, tokenizer, learn), model)
    >>> method = fit_focus_directions(model, tokenizer, learn, heads=scores.top(20), alpha=2.0)
    >>> prompt = fv.Prompt(tokenizer, [{"role": "user", "content": items[3].content}])
    >>> with fv.attach(model, method):
    ...     ids = model.generate(**prompt.inputs, max_new_tokens=16)  # 1828; without it 1796
    >>> print(tokenizer.decode(ids[0, prompt.inputs["input_ids"].shape[1] :]))
    """

    def __init__(
        self,
        directions: Mapping[int, Tensor],
        alpha: float = 0.2,
        heads: Any = None,
        layers: Any = None,
        phase: str | None = None,
        stack: Any = None,
        steps: Any = None,
        model: ModelId | None = None,
    ) -> None:
        good = isinstance(directions, Mapping) and bool(directions)
        if not good or not all(
            isinstance(layer, int) and isinstance(d, Tensor) and d.dim() == 2
            for layer, d in directions.items()
        ):
            raise FoveateError(
                "FocusDirections takes a mapping layer -> tensor [heads, head size]; "
                f"{type(directions).__name__} {list(directions) if good else ''} was given."
            )
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise FoveateError(f"alpha={alpha!r} was given; a number was wanted.")
        if layers is None and heads is None:
            layers = sorted(directions)
        scope = {"heads": heads, "layers": layers, "phase": phase, "stack": stack, "steps": steps}
        self.directions = dict(directions)
        super().__init__("q", self.directions, float(alpha), **scope)
        self.model = model

    def at(self, alpha: float) -> FocusDirections:
        """The same directions at another strength."""
        scope = {name: getattr(self.scope, name) for name in ("heads", "layers", "phase", "steps")}
        return FocusDirections(
            self.directions, alpha, stack=self.scope.stack, model=self.model, **scope
        )

    def save(self, path: str | Path) -> Path:
        """Write directions, heads and strength as one safetensors file; the path is returned."""
        from safetensors.torch import save_file

        heads = self.scope.heads
        told = {
            "format": _FORMAT,
            "alpha": self.alpha,
            "heads": list(map(list, heads.items())) if isinstance(heads, Mapping) else heads,
            "layers": self.scope.layers,
            "model": None if self.model is None else vars(self.model),
        }
        path = Path(path).expanduser()
        tensors = {
            f"query.{layer}": d.detach().cpu().contiguous() for layer, d in self.directions.items()
        }
        try:
            save_file(tensors, path, metadata={"foveate": json.dumps(told)})
        except OSError as error:
            raise FoveateError(f"{path} cannot be written: {error}.") from error
        return path

    @classmethod
    def load(cls, path: str | Path, alpha: float | None = None) -> FocusDirections:
        """Read what :meth:`save` wrote, at the saved strength or at ``alpha``.

        Raises
        ------
        FoveateError
            If the file cannot be read or is none of ours.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path).expanduser()
        try:
            with safe_open(path, "pt") as file:
                told = json.loads((file.metadata() or {}).get("foveate", "{}"))
                if told.get("format") != _FORMAT:
                    raise FoveateError(f"{path} holds no {_FORMAT!r}; write them with .save().")
                names = list(file.keys())
                found = {int(name.partition(".")[2]): file.get_tensor(name) for name in names}
        except (OSError, SafetensorError, ValueError) as error:
            raise FoveateError(f"Focus directions cannot be read from {path}: {error}.") from error
        heads = told["heads"]
        if heads and isinstance(heads[0], list):
            heads = {layer: tuple(some) for layer, some in heads}
        return cls(
            found,
            told["alpha"] if alpha is None else alpha,
            heads=heads,
            layers=told["layers"],
            model=None if told["model"] is None else ModelId(**told["model"]),
        )

    def _given(self) -> list[str]:
        return [f"{len(self.directions)} layers", f"alpha={self.alpha:g}"]
