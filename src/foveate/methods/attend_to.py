"""Injected patterns: chosen heads look where they are told to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._implements import implements
from ..adapters.sites import Site
from ..engine.program import Program
from ..engine.terms import hidden
from ..errors import FoveateError
from ._method import Method

if TYPE_CHECKING:
    from ..attach import Call

__all__ = ["AttendTo"]

# exp(-1000) is 0 in every dtype, and 1000 / scale is still finite in half precision
_NOWHERE = -1000.0


@implements("circuit-reuse", basis="abstract", maturity="stable")
class AttendTo(Method):
    """Overwrite the attention of some queries: they look at a region, and at nothing else.

    Parameters
    ----------
    region : str, optional
        Where they look. Queries that stand before its first token, and see nothing of it, stay as
        they are. Tokens of it that a query cannot see get nothing.
    weights : "uniform", "own", Tensor or mapping
        How the attention lies there. ``"uniform"``: every visible token of the region alike.
        ``"own"``: as the head itself would spread it over the region, renormalised. Without a
        region: a distribution over the keys, broadcastable to ``[B, Hq, Sk]``, not negative, which
        the queries get as it stands, summing to 1 over what they see; or a mapping layer -> such a
        tensor.
    queries : str
        Whose rows: ``"last"``, the last query of every forward (the last token of a prompt padded
        on the left, and every token generated), or a region.
    layers, heads, phase, stack, steps
        As everywhere. Usually a few heads: ``heads=scores.top(4)``.

    Raises
    ------
    FoveateError
        For neither or both of a region and a tensor of weights, weights that are no distribution,
        a batch padded on the right with ``queries="last"``, a model whose scores hold a dense
        bias of their own (T5), which would show through, rows behind the region that see nothing
        of it (a window of the model's, a pattern, :class:`~foveate.methods.hide.Hide`), and two of
        them on the same rows.

    Notes
    -----
    Merullo, Eickhoff & Pavlick (2023), "Circuit Component Reuse Across Tasks in Transformer
    Language Models", repair a circuit by overwriting the attention of three inhibition heads and a
    negative mover head at the last position, so that they look at the wrong answers. Their released
    code holds the path patching but not this intervention; that the two wrong answers get equal
    weight (``"uniform"``) is our choice.

    The row's queries are set to 0 (except for ``"own"``) and one score term of rank 1 puts the
    logarithm of the weights there: no matrix, and measures see the injected row. A learned sink
    gets what the weights lack of a sum of 1 (with ``"own"``: what it had).

    Examples
    --------
    >>> import foveate as fv
    >>> model, tokenizer = fv.load("smollm2")
    >>> prompt = fv.Prompt(tokenizer, "When Mary and John went to the store, John gave a drink to")
    >>> prompt.mark("giver", "John", nth=1)
    >>> with fv.attach(model, fv.AttendTo("giver", heads=[(19, 2), (20, 0)]), prompt=prompt):
    ...     logits = model(**prompt.inputs).logits
    >>> print(tokenizer.decode(logits[0, -1].argmax()))
    """

    def __init__(
        self,
        region: str | None = None,
        *,
        weights: Any = "uniform",
        queries: str = "last",
        **scope: Any,
    ) -> None:
        super().__init__(**scope)
        named = isinstance(weights, str)
        if named and weights not in ("uniform", "own"):
            raise FoveateError(
                f'weights={weights!r} was given; "uniform", "own", a tensor [B, Hq, Sk] or a '
                "mapping layer -> tensor was wanted."
            )
        if named == (region is None):
            raise FoveateError(
                "AttendTo takes a region, or weights= as a tensor (or a mapping of them): one of "
                "the two."
            )
        for name in (region, queries):
            if name is not None and (not isinstance(name, str) or not name):
                raise FoveateError(f"AttendTo takes the names of regions; {name!r} was given.")
        self.region, self.where = region, queries
        self.weights = weights if named else _distributions(weights)
        rows = () if queries == "last" else (queries,)
        self.regions = (*(() if region is None else (region,)), *rows)

    def check(self, site: Site) -> None:
        """Refuse a site that there are no weights for."""
        if isinstance(self.weights, Mapping):
            self._at(site)

    def alike(self, site: Site) -> object:
        """Sites that compare equal here get the same rewrite, and share one plan in a forward."""
        heads = self.scope.heads_of(site)
        return (heads, site.layer) if isinstance(self.weights, Mapping) else heads

    def emptied(self, site: Site, call: Call) -> Tensor | None:
        """The chosen queries, which are set to 0 so that only the weights decide."""
        if self.weights == "own" or any(name not in call.views for name in self.regions):
            return None
        return self._rows(site, call)

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """Add the logarithm of the weights to the scores of the chosen rows."""
        if program.bias is not None and program.bias.is_floating_point():
            raise FoveateError(
                f"{site.name} adds a dense bias to its scores, which would show through the rows "
                "that AttendTo writes: leave the site out with layers= or stack=."
            )
        real = program.queries
        if self.where == "last" and real is not None and not bool(real[:, -1].all()):
            raise FoveateError(
                'AttendTo(queries="last") means the last column, and the batch is padded on the '
                "right: pad on the left, or name a region of the queries."
            )
        shapes = call.shapes
        phi = self._rows(site, call).to(shapes.dtype)[..., None]  # (B|1, Hq, Sq, 1)
        if self.region is not None:
            inside = call.views[self.region]
            inside = inside.reshape(-1, 1, inside.shape[-1], 1)
            psi = torch.where(inside, 0.0, _NOWHERE)
            given = torch.ones(1, 1)
        else:
            held = self._at(site).to(shapes.device)
            if held.shape[-1] != shapes.Sk:
                raise FoveateError(
                    f"The weights of AttendTo are over {held.shape[-1]} keys; the call at "
                    f"{site.name} has {shapes.Sk}."
                )
            held = held.reshape((1,) * (3 - held.dim()) + tuple(held.shape))
            psi = held.log().clamp(min=_NOWHERE)[..., None]
            given = held.sum(-1)
        if program.sinks is not None and self.weights != "own":
            # what the weights lack of 1 is the sink's: e^shift = e^sink / (1 - their sum)
            rest = (1 - given).clamp(min=1e-12).to(shapes.device)  # (B|1, H|1)
            psi = psi + (program.sinks.float() - rest.log())[..., None, None]
        for other in program.score_terms:
            if isinstance(other, _Written) and bool((other[0] * phi).any()):
                raise FoveateError(
                    f"{other.by!r} and {self!r} write the same rows at {site.name}: give them "
                    "different heads, layers or queries."
                )
        term = _Written((phi, psi.to(shapes.dtype)), self)
        return program.evolve(score_terms=(*program.score_terms, term))

    def settled(self, program: Program, site: Site, call: Call) -> None:
        """Refuse rows that see nothing of the region, hidden from them by whatever it is."""
        pattern = None if getattr(program.pattern, "routed", False) else program.pattern
        unseen = pattern is None and program.key_bias is None
        if self.region is None or unseen or any(name not in call.views for name in self.regions):
            return
        shapes, rows = call.shapes, self._rows(site, call)
        if program.queries is not None:
            rows = rows & program.queries[:, None]
        some = rows.flatten(0, 1).any(0).nonzero()[:, 0]
        inside = call.views[self.region]
        seen = inside.reshape(-1, 1, 1, shapes.Sk)
        if program.key_bias is not None:
            bias = program.key_bias
            seen = seen & ~hidden(bias.reshape((1,) * (3 - bias.dim()) + bias.shape))[:, :, None]
        if pattern is not None:
            at = some + (call.q_offset - call.kv_offset)
            seen = seen & pattern.tile(at, torch.arange(shapes.Sk, device=some.device))
        blind = rows[..., some] & ~seen.any(-1)
        if bool(blind.any()):
            row = int(some[blind.flatten(0, -2).any(0)][0]) + call.q_offset
            raise FoveateError(
                f"{self!r} would turn the query at position {row} of {site.name} to region "
                f"{self.region!r}, and it sees nothing of it there: a window, a pattern or Hide "
                "takes it away. Leave such layers or heads out, or the other away."
            )

    def _rows(self, site: Site, call: Call) -> Tensor:
        """Which rows are overwritten: bool ``[B|1, Hq, Sq]``."""
        shapes = call.shapes
        rows = torch.zeros(1, shapes.Sq, dtype=torch.bool, device=shapes.device)
        if self.where == "last":
            rows[:, -1] = True
        else:
            named = call.queries(self.where)
            rows = named.reshape(-1, named.shape[-1])
        if self.region is not None:  # a query before the region sees nothing of it
            inside = call.views[self.region].reshape(-1, shapes.Sk)
            first = torch.where(inside.any(-1), inside.int().argmax(-1), shapes.Sk)
            at = torch.arange(shapes.Sq, device=shapes.device) + call.q_offset - call.kv_offset
            rows = rows & (at >= first[:, None])
        heads = self.scope.heads_at(site, shapes.Hq)
        chosen = torch.full((shapes.Hq,), heads is None, device=shapes.device)
        chosen[list(heads or ())] = True
        return rows[:, None] & chosen[:, None]

    def _at(self, site: Site) -> Tensor:
        if isinstance(self.weights, Tensor):
            return self.weights
        for layer in (site.layer, site.layer - site.depth):
            if layer in self.weights:
                return self.weights[layer]
        raise FoveateError(
            f"weights= has nothing for layer {site.layer} ({site.name}), which is in scope; it has "
            f"{sorted(self.weights)}: name the layers with layers= or heads=."
        )

    def _given(self) -> list[str]:
        first = [] if self.region is None else [repr(self.region)]
        weights = self.weights if isinstance(self.weights, str) else "…"
        return [*first, f"weights={weights}", f"queries={self.where!r}"]


class _Written(tuple[Tensor, Tensor]):
    """A term ``(phi, psi)`` that writes rows, and the method whose it is."""

    by: AttendTo

    def __new__(cls, term: tuple[Tensor, Tensor], by: AttendTo) -> _Written:
        made = super().__new__(cls, term)
        made.by = by
        return made


def _distributions(weights: Any) -> Any:
    """A tensor of weights, or a mapping of them: finite, not negative, something in every row."""
    if isinstance(weights, Mapping):
        if not weights:
            raise FoveateError("AttendTo was given an empty mapping of weights.")
        return {layer: _distributions(tensor) for layer, tensor in weights.items()}
    if not isinstance(weights, Tensor) or not weights.is_floating_point() or not weights.dim():
        raise FoveateError(
            f"weights={weights!r:.60} was given; a tensor of floats [B, Hq, Sk] was wanted."
        )
    if not bool((weights.isfinite() & (weights >= 0)).all() & (weights.sum(-1) > 0).all()):
        raise FoveateError(
            "The weights of AttendTo are not negative, finite, and somewhere greater than 0 in "
            "every row; others were given."
        )
    return weights
