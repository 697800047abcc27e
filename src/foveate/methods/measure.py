"""Measure where a model looks, without changing anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..adapters.sites import Site
from ..engine.measures import Read
from ..engine.program import Program
from ..errors import FoveateError
from ._scope import Scope

if TYPE_CHECKING:
    from ..attach import Call

__all__ = ["Measure"]


class Measure:
    """Read measures of the final attention of every call in scope; they go to ``run.results``.

    Parameters
    ----------
    *reads : Read
        ``fv.mass("name")``, ``fv.entropy()``, ``fv.distance()``, ``fv.received()``,
        ``fv.block_map(n)``, ``fv.rows(index)``, ``fv.top(k)``, ``fv.max()``. Masses of regions that
        a site's keys do not fit are not taken there; ``run.coverage`` says so.
    layers, heads, phase, stack, steps
        As in :class:`~foveate.methods.emphasis.Emphasize`. Heads not named read NaN (``-1`` in
        ``top.indices``).

    Raises
    ------
    FoveateError
        For no reads, for what is no measure and for two measures under one key.

    Examples
    --------
    >>> with fv.attach(model, fv.Measure(fv.mass("evidence"), fv.entropy()), prompt=prompt) as run:
    ...     model(**prompt.inputs)
    >>> run.results["mass:evidence"].prefill  # [L, B, H, Sq]
    """

    def __init__(
        self,
        *reads: Read,
        layers: Any = None,
        heads: Any = None,
        phase: str | None = None,
        stack: Any = None,
        steps: Any = None,
    ) -> None:
        if not reads:
            raise FoveateError("Measure was given nothing to measure: Measure(fv.entropy(), …).")
        keys: set[str] = set()
        for one in reads:
            if not isinstance(one, Read):
                hint = " (call it: fv.entropy())" if callable(one) else ""
                raise FoveateError(
                    f"Measure takes measures such as fv.mass(name) or fv.entropy(); {one!r} was "
                    f"given{hint}."
                )
            for key in one.keys:
                if key in keys:
                    raise FoveateError(
                        f"Two measures have the key {key!r}: give one of them another with as_=."
                    )
                keys.add(key)
        self.reads = tuple(reads)
        self.scope = Scope.of(layers, heads, phase, stack, steps)

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions it speaks of."""
        return tuple(dict.fromkeys(one.region for one in self.reads if one.region is not None))

    def alike(self, site: Site) -> object:
        """Sites that compare equal here get the same rewrite, and share one plan in a forward."""
        return self.scope.heads_of(site)

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """Add the reads."""
        return program.with_reads(*self.reads)

    def __repr__(self) -> str:
        return f"Measure({', '.join(one.key for one in self.reads)})"
