"""Turn attention towards a region, or away from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..adapters.sites import Site
from ..engine.program import Program
from ..errors import FoveateError
from ._scope import Scope

if TYPE_CHECKING:
    from ..attach import Call

__all__ = ["Emphasize"]


@dataclass(eq=False, repr=False)
class Emphasize:
    """Multiply the attention that a region receives by ``gain``; every row is renormalised.

    With ``p`` the mass that a query puts on the region, the edited mass is
    ``g p / (1 + (g - 1) p)``. A gain is a term ``log g`` on the scores of the region's keys: it
    needs no second pass and no matrix.

    Parameters
    ----------
    region : str
        A region of the prompt, or of ``attach(regions=…)``.
    gain : float, sequence, Tensor or dict
        Greater than 0; below 1 suppresses. A number; one number per head, ``[H]``; a tensor
        broadcastable to ``[B, H]`` (it may require a gradient); or a dict layer -> any of these,
        where layers not named keep gain 1.
    layers : int or sequence of int, optional
    heads : sequence of int or dict layer -> sequence of int, optional
        Heads not named keep gain 1.
    phase : {"prefill", "decode"}, optional
    stack : str or sequence of str, optional
        Default: decoder self-attention, or the only stack.
    steps : int or sequence of int, optional
        0 is the prefill; 1, 2, … are decode steps.

    Raises
    ------
    FoveateError
        For a gain that is not a finite number greater than 0, and for a scope that names nothing.

    Notes
    -----
    PASTA (Zhang et al., "Tell Your Model Where to Attend", 2023) scales the attention to all
    *other* tokens by ``alpha`` at selected heads and renormalises: the same rewrite with
    ``gain = 1 / alpha`` and ``heads=``.

    Examples
    --------
    >>> with fv.attach(model, fv.Emphasize("evidence", gain=5.0), prompt=prompt):
    ...     ids = model.generate(**prompt.inputs, max_new_tokens=30)
    """

    region: str
    gain: Any
    layers: Any = None
    heads: Any = None
    phase: str | None = None
    stack: Any = None
    steps: Any = None
    scope: Scope = field(init=False, repr=False)
    _ready: dict[Any, Tensor] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.region, str) or not self.region:
            raise FoveateError(f"Emphasize takes the name of a region; {self.region!r} was given.")
        if isinstance(self.gain, Mapping):
            if not self.gain:
                raise FoveateError(
                    "Emphasize was given an empty dict of gains; give layer -> gain."
                )
            self._gains = {layer: _checked(gain) for layer, gain in self.gain.items()}
            if self.layers is None:
                self.layers = list(self._gains)
        else:
            self._gain = _checked(self.gain)
        self.scope = Scope.of(self.layers, self.heads, self.phase, self.stack, self.steps)

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions it speaks of."""
        return (self.region,)

    def check(self, site: Site) -> None:
        """Refuse per-head gains that a site has no heads for."""
        gain = self._at(site)
        count = gain.shape[-1] if isinstance(gain, Tensor) and gain.dim() else 1
        if site.heads is not None and count not in (1, site.heads):
            raise FoveateError(
                f"{self!r} has gains for {count} heads; {site.name} has {site.heads}."
            )

    def alike(self, site: Site) -> object:
        """Sites that compare equal here get the same rewrite, and share one plan in a forward."""
        gain = self._at(site)
        return self.scope.heads_of(site), gain if isinstance(gain, float) else id(gain)

    def rewrite(self, program: Program, site: Site, call: Call) -> Program:
        """Add the gain."""
        gain = self._at(site)
        heads = self.scope.heads_at(site, call.shapes.Hq)
        if heads is None and isinstance(gain, float):
            return program if gain == 1.0 else program.with_gain(self.region, gain)
        return program.with_gain(self.region, self._tensor(gain, heads, call))

    def __repr__(self) -> str:
        scope = ("layers", "heads", "phase", "stack", "steps")
        given = [
            f"{name}={value!r}" for name in scope if (value := getattr(self, name)) is not None
        ]
        return f"Emphasize({', '.join([repr(self.region), f'gain={self.gain!r}', *given])})"

    def _at(self, site: Site) -> float | Tensor:
        if not isinstance(self.gain, Mapping):
            return self._gain
        for layer in (site.layer, site.layer - site.depth):
            if layer in self._gains:
                return self._gains[layer]
        return 1.0

    def _tensor(self, gain: float | Tensor, heads: tuple[int, ...] | None, call: Call) -> Tensor:
        """The gain as ``[B|1, H, 1]``: one object for all layers, so that they share a plan."""
        shapes = call.shapes
        key = (
            heads,
            gain if isinstance(gain, float) else id(gain),
            shapes.Hq,
            shapes.device,
            shapes.dtype,
        )
        ready = self._ready.get(key)
        if ready is None:
            value = torch.as_tensor(gain, dtype=shapes.stat_dtype, device=shapes.device)
            value = value.reshape((1,) * (2 - value.dim()) + tuple(value.shape))[..., None]
            if heads is not None:
                chosen = torch.zeros(shapes.Hq, dtype=torch.bool, device=shapes.device)
                chosen[list(heads)] = True
                value = torch.where(chosen[None, :, None], value, torch.ones_like(value))
            ready = value
            if not value.requires_grad:  # a graph belongs to one forward
                self._ready[key] = value
        if ready.shape[0] not in (1, shapes.B) and shapes.B % ready.shape[0] == 0:
            ready = ready.repeat_interleave(shapes.B // ready.shape[0], dim=0)
        return ready


def _checked(gain: Any) -> float | Tensor:
    """A gain as a float or a tensor ``[H]`` or ``[B, H]``, all of it finite and positive."""
    refusal = FoveateError(
        f"gain={gain!r} was given; a gain is a finite number greater than 0 (below 1 suppresses, 1 "
        "changes nothing), or one for each head."
    )
    if isinstance(gain, Tensor):
        value = gain if gain.is_floating_point() else gain.double()
    else:
        try:
            value = torch.as_tensor(gain, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise refusal from None
    if isinstance(gain, bool) or value.dim() > 2 or value.numel() == 0:
        raise refusal
    if not bool((value.isfinite() & (value > 0)).all()):
        raise refusal
    return value if isinstance(gain, Tensor) or value.dim() else float(value)
